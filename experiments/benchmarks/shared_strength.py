"""What people who gave few judgements gain, on a simulated population whose truth is known.

    python experiments/benchmarks/shared_strength.py --json

For 5, 10, 20 and 50 training judgements a person, and for a population without personal effects, `cls` and `cls-u` are
fitted on the same rows, with `cls-e` (the field's joint embeddings) beside them. The gain of each over `cls` is held
against that of the *oracle of these rows*: somebody who knows what every text says to the mean reader, and how readers
differ in general, and learns each reader from the very rows that `cls-u` is given. It predicts by the posterior mean
(importance sampling from the prior of readers), decides by thresholds from the same validation rows, and gains over the
mean reader's true probabilities, decided likewise. No method can be expected to gain more.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from beholder.data.annotations import Annotations
from beholder.data.splits import ByText, split
from beholder.datasets import load, simulated, source_class
from beholder.evaluation.headline import choose_thresholds
from beholder.evaluation.metrics import decide, macro_f1
from beholder.methods import config_class, save_fitted
from beholder.training.context import Context

KEPT = 20
"""Judgements of each person besides those for training: a fifth for validation, the rest for test."""
DRAWS = 8_000


def main() -> None:
    """Print one JSON object, or lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--users", type=int, default=250)
    parser.add_argument("--rows", default="5,10,20,50", help="training judgements of each person")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--base", default="minilm-l6")
    parser.add_argument("--epochs", type=int, default=3, help="of cls")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    cells = [(int(rows), effect) for effect in (1.0, 0.0) for rows in arguments.rows.split(",")]
    cells = [(rows, effect) for rows, effect in cells if effect or rows == 20]
    found = []
    for rows, effect in cells:
        runs = [one(arguments, rows, effect, seed) for seed in seeds]
        mean = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        spread = np.std([run["gain"] for run in runs], ddof=1) / len(runs) ** 0.5 if len(runs) > 1 else float("nan")
        cell = {"rows": rows, "effect": effect, **mean, "gain_standard_error": spread}
        cell["share_of_oracle"] = cell["gain"] / cell["oracle_gain"] if effect else None
        found.append({key: round(value, 2) if isinstance(value, float) else value for key, value in cell.items()})
        if not arguments.json:
            print(found[-1], flush=True)
    if arguments.json:
        print(json.dumps({"users": arguments.users, "seeds": seeds, "base": arguments.base, "cells": found}))


def one(arguments: argparse.Namespace, rows: int, effect: float, seed: int) -> dict[str, float]:
    """Points of macro-F1 over `cls` on one population."""
    config = source_class("simulated")(
        name="simulated",
        texts="templates",
        users=arguments.users,
        rows_per_user=rows + KEPT,
        distinct_texts=1_200,
        effect=effect,
        seed=seed,
    )
    annotations = load(config).annotations
    whole = rows + KEPT
    fractions = (rows / whole, KEPT / 5 / whole, 1 - (rows + KEPT / 5) / whole)
    parts = split(annotations, ByText(fractions=fractions, seed=seed))
    train, valid, test = (annotations.select(parts[part]) for part in ("train", "valid", "test"))
    with tempfile.TemporaryDirectory() as folder:
        context = Context(arguments.base, seed, run_folder=Path(folder))
        shared = config_class("cls")(epochs=arguments.epochs, learning_rate=2e-3, user_effects=True).fit(
            train, valid, context
        )
        (Path(folder) / "methods" / "cls").mkdir(parents=True)
        save_fitted(shared, Path(folder) / "methods" / "cls")
        started = time.perf_counter()
        own = config_class("cls-u")().fit(train, valid, context)
        seconds = time.perf_counter() - started
        joint = config_class("cls-e")().fit(train, valid, context)
        reference, gained, gained_jointly = f1(shared, test), f1(own, test), f1(joint, test)  # a bank is read from disk
    oracle, crowd = oracle_f1(config, train, valid, test)
    return {
        "cls": reference,
        "gain": gained - reference,
        "gain_cls_e": gained_jointly - reference,
        "oracle_gain": oracle - crowd,
        "seconds": seconds,
    }


def f1(method, rows: Annotations) -> float:  # noqa: ANN001
    """Macro-F1 in points."""
    scores = method.score(list(rows.texts), list(rows.user_ids))
    return 100 * macro_f1(decide(scores, method.thresholds, rows.task.kind), rows.labels)


def oracle_f1(config, train: Annotations, valid: Annotations, test: Annotations) -> tuple[float, float]:  # noqa: ANN001
    """Macro-F1 in points of the oracle of these rows, and of the mean reader's true probabilities."""
    texts = simulated.texts_of(config, np.random.default_rng(config.seed))
    place = {text_id: number for number, text_id in enumerate(texts.ids)}
    topics, labels = int(texts.topic.max()) + 1, len(config.labels)
    rng = np.random.default_rng(config.seed + 1)
    bias = rng.normal(size=(DRAWS, 1))
    slope = rng.normal(size=(DRAWS, topics))
    own = config.effect * (bias + slope)  # [draws, topics]: what a reader adds to a label's logit, by topic

    def likely(rows: Annotations, some: np.ndarray) -> np.ndarray:
        """Probability of each label under each draw: [rows, labels, draws]."""
        text = np.asarray([place[each] for each in rows.text_ids[some]])
        logits = texts.logits[text][:, :, None] + own.T[texts.topic[text]][:, None, :]
        return (1 - config.noise) / (1 + np.exp(-logits)) + config.noise / 2

    scores = {part: np.zeros((len(rows), labels), np.float32) for part, rows in (("valid", valid), ("test", test))}
    for user in train.users:
        mine = np.flatnonzero(train.user_ids == user)
        probability = likely(train, mine)
        given = train.labels[mine][:, :, None] > 0.5
        log = np.log(np.where(given, probability, 1 - probability)).sum(axis=0)  # [labels, draws]
        weight = np.exp(log - log.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        for part, rows in (("valid", valid), ("test", test)):
            theirs = np.flatnonzero(rows.user_ids == user)
            if len(theirs):
                scores[part][theirs] = np.einsum("nld,ld->nl", likely(rows, theirs), weight)
    crowd = {
        part: np.asarray(list(rows.column("truth_global")), np.float32)
        for part, rows in (("valid", valid), ("test", test))
    }

    def reached(said: dict[str, np.ndarray]) -> float:
        thresholds = choose_thresholds(said["valid"], valid.labels, valid.task)
        return 100 * macro_f1(decide(said["test"], thresholds, test.task.kind), test.labels)

    return reached(scores), reached(crowd)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    main()

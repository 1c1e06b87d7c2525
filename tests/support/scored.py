"""Arms whose scores are drawn, and runs made of them: what tests of comparisons compare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.evaluation.arm_scores import ArmScores, Judgements
from beholder.evaluation.results import evaluate
from beholder.evaluation.scores_io import write_scores

LABELS = ("rude", "funny")


def population(seed: int, users: int = 30, each: int = 20) -> Annotations:
    """Readers who lean one way or the other on each label, whatever the text."""
    rng = np.random.default_rng(seed)
    lean = rng.random((users, 2)) * 0.9 + 0.05
    user, text = np.repeat(np.arange(users), each), np.concatenate([rng.permutation(40)[:each] for _ in range(users)])
    labels = (rng.random((len(user), 2)) < lean[user]).astype(np.float32)
    return Annotations.from_columns(
        Task(LABELS),
        text=[f"text number {number}" for number in text],
        user_id=[f"u{number:02d}" for number in user],
        labels=labels,
    )


def scored(name: str, rows: Annotations, right: float, seed: int, **more) -> ArmScores:
    """An arm that says the label itself so often, and a coin else."""
    rng = np.random.default_rng(seed)
    coin = rng.random(rows.labels.shape)
    scores = np.where(rng.random(rows.labels.shape) < right, 0.2 + 0.6 * rows.labels, coin).astype(np.float32)
    return ArmScores(name, name, np.full(2, 0.5, np.float32), scores, scores, 1.0, **more)


def results_of(arms, rows, reference="cls", **more):
    return evaluate(arms, Judgements.of(rows), Judgements.of(rows), Task(tuple(LABELS)), reference, **more)


def run_folder(folder: Path, name: str, rows: Annotations, arms, **facts) -> Path:
    at = folder / name
    for arm in arms:
        write_scores(at / "scores" / f"{arm.name}.parquet", arm, rows, rows)
    settings = {"reference": "cls", "draws": 200, "seed": 3, "arms": [arm.name for arm in arms]}
    (at / "evaluation.json").write_text(json.dumps(settings))
    data = {"fingerprint": rows.fingerprint, "labels": list(LABELS), "kind": "multilabel"}
    said = {"split": {"hash": "aaaa"}, "reference": "cls", "base": "tiny", "data": data, **facts}
    (at / "results.json").write_text(json.dumps(said))
    return at

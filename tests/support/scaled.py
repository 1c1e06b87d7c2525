"""A real server of a model with a scale in words, a slider and a label; and answers of very many readers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from inside import listening, server
from numpy.typing import NDArray

from beholder.data.scales import Scale
from beholder.data.task import Task
from beholder.datasets.templates import COUNT, sentences
from beholder.experiment.config import make_experiment
from beholder.workflows import run as pipeline
from beholder_serve.model_server import ModelServer
from beholder_serve.scoring import ServedPredictions

MODEL = "graded"
MOOD = ("calm", "annoyed", "angry", "furious")
WARMTH = (0.0, 100.0)
READERS = 8


def judgements(file: Path, users: int = READERS, texts: int = 40, each: int = 24) -> Path:
    """A table: `mood` in words, `warmth` from 0 to 100, `rude` or not; every reader has a level of their own."""
    random = np.random.default_rng(3)
    text, strength, _ = sentences(random.choice(COUNT, texts, replace=False), ["anger"])
    heat = 1 + 2 * strength[:, 0] + random.normal(0, 0.3, texts)
    rows = []
    for user in range(users):
        own = 3 * user / (users - 1) - 1.5
        for at in random.choice(texts, each, replace=False):
            felt = heat[at] + own
            rows.append(
                {
                    "text": text[at],
                    "user": f"reader{user}",
                    "mood": MOOD[int(np.clip(np.rint(felt), 0, 3))],
                    "warmth": round(float(np.clip(85 - 35 * felt, *WARMTH))),
                    "rude": int(felt > 1),
                }
            )
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def settings(table: Path) -> dict[str, Any]:
    """What `make_experiment` takes."""
    return {
        "name": MODEL,
        "source": {
            "name": "table",
            "path": str(table),
            "text": "text",
            "user": "user",
            "labels": {
                "mood": {"kind": "ordinal", "steps": list(MOOD)},
                "warmth": {"kind": "continuous", "range": list(WARMTH), "cuts": 10},
                "rude": {},
            },
        },
        "base": "tiny-bert",
        "methods": {
            "cls": {"epochs": 1, "max_tokens": 48},
            "cls-u": {
                "init_from": "cls",
                "bank": {"top_layers": 1, "epochs": 5, "step_size": 0.3, "prior": {"rank": 2, "steps": 5}},
            },
        },
        "evaluate": {"reference": "cls"},
        "register": {"name": MODEL},
        "cluster": {"workers": 0},
    }


@contextlib.contextmanager
def scaled_server(home: Path) -> Iterator[str]:
    """The address of a server of this process, for whose time `home` is the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        pipeline.run(make_experiment(settings(judgements(home / "judgements.csv"))))
        with listening(server(MODEL)[0]) as url:
            yield url


def crowded(readers: int, shape: str = "even", at_most: int = 1_000) -> dict[str, Any]:
    """The server's answer for very many readers.

    Args:
        readers: how many.
        shape: `even`: scores of all heights; `one`: all readers but a few have the same; `narrow`: close together.
        at_most: readers that are listed.
    """
    task = Task.of(["rude", Scale("mood", (0.0, 1.0, 2.0, 3.0), words=MOOD), Scale.continuous("warmth", *WARMTH, 10)])
    random = np.random.default_rng(readers)
    base = {"even": random.random(readers), "one": np.full(readers, 0.62), "narrow": random.beta(60, 90, readers)}[
        shape
    ]
    if shape == "one":
        base[: max(1, readers // 100)] = 0.1
    scores = np.column_stack(
        [base] + [np.clip(base + shift, 0, 1) for some in (3, 10) for shift in np.linspace(0.3, -0.3, some)]
    ).astype(np.float32)
    names = [f"reader{each}" for each in range(readers)]

    def served(rows: NDArray[np.float32]) -> ServedPredictions:
        count = len(rows)
        return ServedPredictions(rows, rows >= 0.5, ["cls-u"] * count, np.zeros(count, dtype=bool), [""] * count)

    scorer = SimpleNamespace(
        version=f"{MODEL} v1",
        bundle=SimpleNamespace(users=names, task=task),
        predict=lambda *_: served(scores.mean(axis=0, keepdims=True)),
        predict_users=lambda *_: served(scores),
    )
    stub: Any = SimpleNamespace(_scorer=scorer, _enrolled={})
    return ModelServer.perspectives(stub, "a text", None, at_most)

"""A few users who judge overlapping texts: what tests of methods fit on."""

from __future__ import annotations

import numpy as np

from beholder.data.annotations import Annotations
from beholder.data.scales import Scale
from beholder.data.task import Task

TEXTS = ("you are kind", "you are a fool", "go away", "well done", "what a mess", "thank you", "no", "fine by me")


KINDS = ("multilabel", "multiclass", "ordinal", "continuous", "soft", "shares")
"""Kinds of judgement, each with three labels: given or not, classes, a scale of four points, a slider, and
probabilities of labels and of classes."""


def crowd(rows=64, users=4, kind="multilabel", seed=0) -> Annotations:
    """Users judge overlapping texts, each with a bias; some labels were not asked."""
    rng = np.random.default_rng(seed)
    text = np.asarray([f"{TEXTS[i % len(TEXTS)]} {i // (2 * len(TEXTS))}" for i in range(rows)], dtype=object)
    user = rng.integers(0, users, rows)
    keep = sorted({(text[i], user[i]): i for i in range(rows)}.values())
    text, user = text[keep], user[keep]
    names = ("rude", "kind", "other")
    task = Task(names, "multiclass" if kind in ("multiclass", "shares") else "multilabel")
    if kind == "multiclass":
        labels = np.eye(3)[rng.integers(0, 3, len(keep))]
    elif kind == "shares":
        labels = rng.dirichlet((1, 1, 1), len(keep))
    elif kind in ("ordinal", "continuous"):
        points = (1.0, 2.0, 3.0, 4.0)
        task = Task.of([Scale("rude", points, kind)])
        answers = np.clip(1 + 0.5 * user + rng.normal(0, 1, len(keep)), 1, 4)
        labels = task.scales[0].encode(answers if kind == "continuous" else np.rint(answers))
    elif kind == "soft":
        labels = rng.beta(1 + user, 2, (3, len(keep))).T
    else:
        labels = (rng.random((len(keep), 3)) < (0.2 + 0.15 * user[:, None])).astype(float)
        labels[rng.random(labels.shape) < 0.1] = np.nan
        labels[np.isnan(labels).all(axis=1), 0] = 1.0
        labels[0] = 1.0
    return Annotations.from_columns(task, text=list(text), user_id=[f"u{each}" for each in user], labels=labels)

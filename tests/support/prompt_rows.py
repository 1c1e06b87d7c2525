"""Rows that tests of prompts describe users with."""

from __future__ import annotations

import numpy as np

from beholder.data.annotations import Annotations
from beholder.data.task import Task

LABELS = ("anger", "joy", "very_sad")


def rows_of(count: int) -> Annotations:
    """`count` texts judged by Ann and Bob, who is 30 and always sad."""
    texts = [f"text number {number}" for number in range(count)]
    labels = [[number % 2, 0, who] for who in (0, 1) for number in range(count)]
    return Annotations.from_columns(
        Task(LABELS),
        text=texts * 2,
        user_id=["ann@home"] * count + ["bob@home"] * count,
        labels=np.asarray(labels, dtype=float),
        context={"age_group": ["20"] * count + ["30"] * count, "nth": [f"row {row}" for row in range(2 * count)]},
    )

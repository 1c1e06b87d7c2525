"""A scale as language models write it: one of its points, by its number or its word.

Methods that write answers (`lm`, `lm-u`, `query`) see a task with one ordinal scale as a choice among its points. The
likelihoods of the points are the predicted distribution, and their sums from a point up are the scores of the scale's
labels (`scales.Scale`): expected answers and intervals come from likelihoods, whatever a greedy answer would be (as
Liu et al. 2023, G-EVAL, EMNLP, weight the points of a rating by their probabilities).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beholder.data.annotations import Annotations
from beholder.data.scales import Scale
from beholder.data.task import Task


def written_scale(task: Task) -> Scale | None:
    """The scale whose points are written: the only question of a task, if that is an ordinal scale."""
    (first, *others) = task.questions
    return first.scale if not others and first.scale and first.scale.kind == "ordinal" else None


def written_task(task: Task) -> Task:
    """A task as it is written: of one ordinal scale its points, as classes; any other as it is."""
    scale = written_scale(task)
    if scale is None:
        return task
    return Task(tuple(scale.shown(place) for place in range(len(scale.points))), "multiclass")


def written_rows(rows: Annotations) -> Annotations:
    """Judgements as they are written; those of another task as they are."""
    if written_scale(rows.task) is None:
        return rows
    ends = np.pad(rows.labels.astype(np.float64), ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))
    ends[np.isnan(rows.labels).any(axis=1)] = np.nan
    return rows.relabelled(written_task(rows.task), (ends[:, :-1] - ends[:, 1:]).astype(np.float32))


def scores_of_points(task: Task, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores of a task from those of what was written: float32 [..., labels].

    Args:
        task: with one ordinal scale, or any other, whose scores stay as they are.
        scores: float32 [..., points], or [..., labels].
    """
    if written_scale(task) is None:
        return scores
    shares = scores.astype(np.float64)
    shares = shares / np.maximum(shares.sum(axis=-1, keepdims=True), 1e-12)
    above = np.cumsum(shares[..., ::-1], axis=-1)[..., ::-1]  # P(answer at least this point)
    return np.clip(above[..., 1:], 0, 1).astype(np.float32)

"""The number that arms are compared by, made of one part for each question.

A label that is given or not, and each class, has its F1. A scale has one less the mean absolute error of the predicted
answers by the length of the scale: 1 where all are right, and in the scale's own unit once multiplied by its length.
The number is the mean of the parts: macro-F1 for a task without scales.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beholder.data.task import Task
from beholder.evaluation.metrics import Floats, decide, f1_with_influence, fit_thresholds, macro, per_user

Predicted = NDArray[Any]
"""Predictions of rows: [rows, labels], as `answers` makes them."""
MACRO_F1 = "macro-F1"
SCALE_ACCURACY = "scale accuracy"
MIXED = "F1 and scale accuracy"


def metric_of(task: Task) -> str:
    """What the number is called."""
    if not task.scales:
        return MACRO_F1
    return SCALE_ACCURACY if task.scaled.all() else MIXED


def part_names(task: Task) -> tuple[str, ...]:
    """What each part is of: labels and scales."""
    return task.labels if not task.scales else tuple(question.name for question in task.questions)


def answers(scores: Floats, thresholds: Floats, task: Task) -> Predicted:
    """What is predicted: [rows, labels].

    Labels and classes as `metrics.decide` does, 0 or 1. Of a scale the median of the predicted distribution, which has
    the least expected absolute error, written as labels (`scales.Scale.encode`).

    Args:
        scores: float [rows, labels] in 0..1.
        thresholds: float [labels], or [rows, labels].
        task: whose labels these are.
    """
    decided = decide(scores, thresholds, task.kind)
    if not task.scales:
        return decided
    found = decided.astype(np.float64)
    for question in task.questions:
        if question.scale is not None:
            columns = list(question.columns)
            found[:, columns] = question.scale.encode(question.scale.median(scores[:, columns]))
    return found


def choose_thresholds(scores: Floats, labels: Floats, task: Task) -> NDArray[np.float32]:
    """`metrics.fit_thresholds` for the labels of a task; those of scales are not decided one by one and have 0.5."""
    return fit_thresholds(scores, labels, task.kind, task.scaled)


def parts(predicted: Predicted, labels: Floats, task: Task) -> tuple[Floats, Floats]:
    """Of each part its value, float64 [parts], NaN where unknown, and the influence of each row, [rows, parts].

    Args:
        predicted: of `answers`.
        labels: float [rows, labels], NaN = not asked.
        task: whose labels these are.
    """
    if not task.scales:
        return f1_with_influence(np.asarray(predicted, dtype=bool), labels)
    values, influence = np.full(len(task.questions), np.nan), np.zeros((len(labels), len(task.questions)))
    for place, question in enumerate(task.questions):
        columns = list(question.columns)
        if question.scale is None:
            found = f1_with_influence(predicted[:, columns] >= 0.5, labels[:, columns])
            values[place], influence[:, place] = found[0][0], found[1][:, 0]
            continue
        off = np.abs((predicted[:, columns] - labels[:, columns]) @ question.scale.widths) / question.scale.length
        asked = ~np.isnan(off)
        if asked.any():
            values[place] = 1 - off[asked].mean()
            influence[asked, place] = (1 - off[asked] - values[place]) / asked.sum()
    return values, influence


def headline(predicted: Predicted, labels: Floats, task: Task) -> float:
    """The mean of the parts that are known; NaN where none is."""
    return float(macro(parts(predicted, labels, task)[0]))


def scored_headline(scores: Floats, thresholds: Floats, labels: Floats, task: Task) -> float | None:
    """The headline of predictions by some thresholds; None where it is unknown. See `answers` for the arguments."""
    value = headline(answers(scores, thresholds, task), labels, task)
    return value if np.isfinite(value) else None


def of_users(predicted: Predicted, labels: Floats, task: Task, user_ids: NDArray[np.object_]) -> Floats:
    """The headline of each user's own rows, users sorted: float64 [users], NaN where unknown."""
    if not task.scales:
        return per_user(np.asarray(predicted, dtype=bool), labels, user_ids).macro_f1
    users, user = np.unique(user_ids.astype(str), return_inverse=True)
    order = np.argsort(user, kind="stable")
    ends = np.searchsorted(user[order], np.arange(len(users) + 1))
    rows = [order[start:end] for start, end in itertools.pairwise(ends)]
    return np.asarray([headline(predicted[mine], labels[mine], task) for mine in rows])

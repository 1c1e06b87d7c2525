"""From scores to decisions to F1: all pooled over rows, all in fractions 0..1.

A label counts as given where it is at least 0.5; NaN means the user was not asked, and leaves the row out for that
label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beholder.data.task import Kind

Floats = NDArray[np.floating]
Decisions = NDArray[np.bool_]


def decide(scores: Floats, thresholds: Floats, kind: Kind) -> Decisions:
    """Which labels are predicted: bool [rows, labels].

    `multilabel`: where the score reaches its label's threshold. `multiclass`: the highest score, the first of equals.
    """
    if kind == "multiclass":
        return np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]
    return scores >= thresholds


def fit_thresholds(
    scores: Floats, labels: Floats, kind: Kind, scaled: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """The threshold of each label that maximises its F1 on these (validation) rows: float32 [labels].

    All cuts are tried at once: with rows sorted by falling score, predicting the first n positive gives
    F1 = 2 tp / (n + positives). A threshold lies half-way between the scores it parts; of equally good ones the nearest
    to 0.5 is taken, and of two equally near the higher. 0.5 for a label without a positive, and for `multiclass`, which
    needs none.

    Args:
        scores: float32 [rows, labels] in 0..1.
        labels: float [rows, labels], NaN = not asked.
        kind: the task's.
        scaled: bool [labels], those of scales, whose answers are not decided label by label: 0.5.
    """
    thresholds = np.full(scores.shape[1], 0.5, dtype=np.float32)
    if kind == "multiclass":
        return thresholds
    for label in np.flatnonzero(~scaled) if scaled is not None else range(scores.shape[1]):
        asked = ~np.isnan(labels[:, label])
        score = scores[asked, label].astype(np.float32)
        order = np.argsort(-score, kind="stable")
        score, gold = score[order], labels[asked, label][order] >= 0.5
        if not gold.any():
            continue
        f1 = 2 * np.cumsum(gold) / (np.arange(1, len(gold) + 1) + gold.sum())  # [n predicted positive]
        below = np.append(score[1:], np.float32(0))
        half_way = ((score.astype(np.float64) + below) / 2).astype(np.float32)
        cuts = np.where(half_way > below, half_way, score)  # between neighbouring floats half-way rounds to either
        is_cut = np.append(score[:-1] > score[1:], True)
        best = cuts[is_cut & (f1 >= f1[is_cut].max() - 1e-12)]
        thresholds[label] = best[np.abs(best - 0.5).argmin()]
    return thresholds


def counts(decisions: Decisions, labels: Floats) -> tuple[Floats, Floats, Floats]:
    """Each row's true positives, false positives and false negatives: three float64 [rows, labels] of 0 and 1."""
    asked, gold = ~np.isnan(labels), labels >= 0.5
    true = (decisions & gold & asked).astype(np.float64)
    false = (decisions & ~gold & asked).astype(np.float64)
    missed = (~decisions & gold & asked).astype(np.float64)
    return true, false, missed


def f1(true: Floats, false: Floats, missed: Floats) -> Floats:
    """2 tp / (2 tp + fp + fn), elementwise; NaN where there is no positive to find."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(true + missed > 0, 2 * true / (2 * true + false + missed), np.nan)


def macro(per_label: Floats) -> Floats:
    """The mean over the last axis of the labels that have a positive; NaN where none has."""
    present = ~np.isnan(per_label)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum(per_label, axis=-1) / np.where(present.any(axis=-1), present.sum(axis=-1), np.nan)


def f1_per_label(decisions: Decisions, labels: Floats) -> Floats:
    """F1 of each label, pooled over rows: float64 [labels], NaN for a label without a positive."""
    true, false, missed = counts(decisions, labels)
    return f1(true.sum(axis=0), false.sum(axis=0), missed.sum(axis=0))


def f1_with_influence(decisions: Decisions, labels: Floats) -> tuple[Floats, Floats]:
    """F1 of each label, [labels] as `f1_per_label`, and the influence of each row on it: float64 [rows, labels], sum 0.

    With tp, fp, fn summed over rows, F1 = 2 tp / n of n = 2 tp + fp + fn, whose derivative by the weight of a row that
    holds (tp', fp', fn') is (2 tp' - F1 n') / n. Zero for labels without a positive.
    """
    true, false, missed = counts(decisions, labels)
    values, size = f1(true.sum(axis=0), false.sum(axis=0), missed.sum(axis=0)), 2 * true + false + missed
    each = (2 * true - np.nan_to_num(values) * size) / np.maximum(size.sum(axis=0), 1)
    return values, np.where(np.isnan(values), 0.0, each)


def macro_f1(decisions: Decisions, labels: Floats) -> float:
    """Mean F1 over the labels with at least one positive among these rows; NaN where there is none at all.

    Labels without a positive are left out rather than counted as 0 or 1, for every method alike.
    """
    return float(macro(f1_per_label(decisions, labels)))


def log_losses(scores: Floats, labels: Floats, kind: Kind) -> tuple[Floats, Floats]:
    """Log-loss of each row in nats, and over how many it is: two float64 [rows].

    `multilabel`: the sum over the labels that were asked, and their number. `multiclass`: minus the logarithm of the
    given class's share of the scores, and 1. Scores are kept from 0 and 1 by 1e-6.
    """
    likely = np.clip(scores.astype(np.float64), 1e-6, 1 - 1e-6)
    asked = ~np.isnan(labels)
    given = np.nan_to_num(labels.astype(np.float64))
    if kind == "multiclass":
        likely = likely / likely.sum(axis=1, keepdims=True)
        return np.asarray(-(given * np.log(likely)).sum(axis=1)), np.asarray(asked.any(axis=1), dtype=np.float64)
    losses = -(given * np.log(likely) + (1 - given) * np.log1p(-likely))
    return np.asarray(np.where(asked, losses, 0.0).sum(axis=1)), np.asarray(asked.sum(axis=1), dtype=np.float64)


def subset_accuracy(decisions: Decisions, labels: Floats) -> float:
    """Share of rows on which every label that was asked is decided rightly."""
    wrong = (decisions != (labels >= 0.5)) & ~np.isnan(labels)
    return float((~wrong.any(axis=1)).mean())


@dataclass(frozen=True)
class PerUser:
    """Numbers of each user, in the order of `users`.

    Attributes:
        users: str [users], sorted.
        rows: int64 [users].
        macro_f1: float64 [users], NaN for a user without any positive.
        subset_accuracy: float64 [users].
    """

    users: NDArray[np.str_]
    rows: NDArray[np.int64]
    macro_f1: Floats
    subset_accuracy: Floats


def per_user(decisions: Decisions, labels: Floats, user_ids: NDArray[np.object_]) -> PerUser:
    """Macro-F1 and subset accuracy of every user, from one pass over the rows."""
    users, user = np.unique(user_ids.astype(str), return_inverse=True)
    sums = [_by_group(part, user, len(users)) for part in counts(decisions, labels)]
    right = ~((decisions != (labels >= 0.5)) & ~np.isnan(labels)).any(axis=1)
    rows = np.bincount(user, minlength=len(users))
    accuracy = np.bincount(user, right, len(users)) / rows
    return PerUser(users, rows.astype(np.int64), macro(f1(*sums)), accuracy)


def user_bias(scores: Floats, labels: Floats, user_ids: NDArray[np.object_]) -> Floats:
    """Mean of score - label of each user over all that was asked, users sorted: float64 [users], NaN without any."""
    asked = ~np.isnan(labels)
    _, user = np.unique(user_ids.astype(str), return_inverse=True)
    off = np.bincount(user, np.where(asked, scores - np.nan_to_num(labels), 0.0).sum(axis=1))
    with np.errstate(invalid="ignore"):
        return off / np.bincount(user, asked.sum(axis=1))


@dataclass(frozen=True)
class Reliability:
    """Scores against what came true, in bins of equal width.

    Attributes:
        confidence: mean score in each bin, NaN where it is empty.
        frequency: share of positives in each bin, NaN where it is empty.
        count: (row, label) pairs in each bin.
    """

    confidence: Floats
    frequency: Floats
    count: NDArray[np.int64]


def reliability(scores: Floats, labels: Floats, bins: int = 15) -> Reliability:
    """Bin all asked (row, label) pairs by score."""
    asked = ~np.isnan(labels)
    score, gold = scores[asked].astype(np.float64), labels[asked] >= 0.5
    place = np.minimum((score * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        confidence = np.bincount(place, score, bins) / count
        frequency = np.bincount(place, gold, bins) / count
    return Reliability(confidence, frequency, count.astype(np.int64))


def expected_calibration_error(scores: Floats, labels: Floats, bins: int = 15) -> float:
    """ECE: mean distance between score and frequency over the bins, weighted by their size (Naeini et al. 2015)."""
    found = reliability(scores, labels, bins)
    filled = found.count > 0
    distance = np.abs(found.confidence - found.frequency)[filled]
    return float((distance * found.count[filled]).sum() / found.count.sum())


def _by_group(values: Floats, group: NDArray[np.integer], groups: int) -> NDArray[np.float64]:
    """Sum rows of [rows, labels] by group: [groups, labels]."""
    return np.column_stack([np.bincount(group, column, groups).astype(np.float64) for column in values.T])

"""What a method's answers are judged by besides macro-F1, each with the influence of every row on it.

A measure is a smooth function of the rows' weights; its derivative by a row's weight is that row's influence (Hampel
1974, Journal of the American Statistical Association 69(346)), and from influences `cluster_interval` computes how sure
the measure is, or its difference between two methods. Over several labels a measure is the mean of those where it is
defined. Ranking measures (AUROC, average precision) compare scores of different rows: of folds, they hold rows against
each other that different models scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from beholder.data.task import Kind
from beholder.evaluation.intervals import Clusters
from beholder.evaluation.metrics import Decisions, Floats, f1_with_influence, log_losses


@dataclass(frozen=True)
class MethodScores:
    """A method's predictions for some rows.

    Attributes:
        scores: float [rows, labels] in 0..1; None where only decisions are known.
        decisions: bool [rows, labels].
        labels: float [rows, labels], NaN = not asked.
        users: str [rows].
        kind: of the task.
    """

    scores: Floats | None
    decisions: Decisions
    labels: Floats
    users: NDArray[np.object_]
    kind: Kind


@dataclass(frozen=True)
class Measured:
    """A measure of some rows: its value, NaN where undefined, and float64 [rows] of influences, in all 0.

    Of a method that was trained several times both are means, and `trainings` has the value of each.
    """

    value: float
    influence: Floats
    trainings: tuple[float, ...] = ()

    @property
    def each(self) -> Floats:
        """The value of each training: float64 [trainings]."""
        return np.asarray(self.trainings or (self.value,))

    @classmethod
    def mean(cls, each: Sequence[Measured]) -> Measured:
        """Over trainings."""
        values = tuple(one.value for one in each)
        return cls(float(np.mean(values)), np.mean([one.influence for one in each], axis=0), values)


@dataclass(frozen=True)
class Difference:
    """A measure of two methods, how much better the second is, and the intervals of that; see `gains.Interval`.

    All in the measure's own unit: shares of 1, nats. A gain is above zero where the second is better, whether the
    measure is to be high or low.
    """

    value: float
    reference: float
    gain: float
    low: float
    high: float
    texts_low: float
    texts_high: float


Better = Literal["higher", "lower"]


def measure(answers: MethodScores) -> dict[str, Measured]:
    """Every measure of `MEASURES` that is defined for these answers: without scores, those of decisions."""
    return {
        name: each.of(answers) for name, each in MEASURES.items() if answers.scores is not None or not each.needs_scores
    }


def over_trainings(each: Sequence[MethodScores]) -> dict[str, Measured]:
    """`measure` of a method that was trained several times, on the same rows."""
    measured = [measure(answers) for answers in each]
    return {name: Measured.mean([one[name] for one in measured]) for name in measured[0]}


def differences(
    mine: Mapping[str, Measured], other: Mapping[str, Measured], clusters: Clusters, level: float = 0.95
) -> dict[str, Difference]:
    """How much better one method is than another on the same rows, by every measure that both have, paired.

    Args:
        mine, other: of `measure`, or of `over_trainings`, of as many each.
        clusters: whose the rows are, and of what.
        level: of the intervals.
    """
    found = {
        name: paired(mine[name], other[name], MEASURES[name].better, clusters, level)
        for name in mine.keys() & other.keys()
    }
    return {name: found[name] for name in MEASURES if name in found}


def paired(mine: Measured, other: Measured, better: Better, clusters: Clusters, level: float = 0.95) -> Difference:
    """How much better one method is than another by one measure, on the same rows."""
    sign = 1 if better == "higher" else -1
    gain = sign * (mine.value - other.value)
    spreads = clusters.spreads(sign * (mine.influence - other.influence))
    at_large, these = (spread.with_training(mine.each - other.each) for spread in spreads)
    ends = (*at_large.interval(gain, level), *these.interval(gain, level))
    return Difference(mine.value, other.value, gain, *ends)


def _macro_f1(answers: MethodScores) -> Measured:
    """The mean F1 of the labels with a positive; see `metrics.f1_with_influence`."""
    return _over_labels(*f1_with_influence(answers.decisions, answers.labels))


def _accuracy(answers: MethodScores) -> Measured:
    """The share of labels predicted correctly, of those that were asked; multiclass: the share of rows."""
    return _mean(*_right(answers))


def _user_accuracy(answers: MethodScores) -> Measured:
    """The mean over users of each one's accuracy (PEFT-U, arXiv 2407.18078): everybody counts alike."""
    right, asked = _right(answers)
    _, user = np.unique(answers.users.astype(str), return_inverse=True)
    own = np.bincount(user, asked)  # answers of each user
    weight = np.where(own > 0, 1 / np.maximum(own, 1), 0.0)[user] / max(1, int((own > 0).sum()))
    value = float((weight * right).sum()) if own.any() else float("nan")
    return Measured(value, weight * (right - np.nan_to_num(value) * asked))


def _log_loss(answers: MethodScores) -> Measured:
    """Minus the log of what was given to the truth, in nats: a proper score, the mean over all that was asked."""
    return _mean(*log_losses(_scores(answers), answers.labels, answers.kind))


def _brier(answers: MethodScores) -> Measured:
    """Squared distance of scores from labels (Brier 1950): a mean over labels, or over rows with classes summed."""
    asked = ~np.isnan(answers.labels)
    squares = np.where(asked, (_scores(answers) - np.nan_to_num(answers.labels)) ** 2, 0.0)
    terms = asked.any(axis=1) if answers.kind == "multiclass" else asked.sum(axis=1)
    return _mean(squares.sum(axis=1), np.asarray(terms, dtype=np.float64))


def _auroc(answers: MethodScores) -> Measured:
    """The chance that a positive scores above a negative, equal scores counting half.

    Influences are placements: of a positive the share of negatives below it less the area, by the number of positives,
    and the same of negatives (DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44(3)).
    """

    def of_label(score: Floats, gold: NDArray[np.bool_]) -> tuple[float, Floats]:
        positives, negatives = np.sort(score[gold]), np.sort(score[~gold])
        if not len(positives) or not len(negatives):
            return float("nan"), np.zeros(len(score))
        below = (np.searchsorted(negatives, score, "left") + np.searchsorted(negatives, score, "right")) / 2
        above = (
            len(positives)
            - (np.searchsorted(positives, score, "left") + np.searchsorted(positives, score, "right")) / 2
        )
        placement = np.where(gold, below / len(negatives), above / len(positives))
        value = float(placement[gold].mean())
        return value, (placement - value) / np.where(gold, len(positives), len(negatives))

    return _by_label(answers, of_label)


def _average_precision(answers: MethodScores) -> Measured:
    """The mean over positives of the precision at their score.

    A row of weight w at score s changes the precision at every score up to s by w (y - precision) / rows there, and a
    positive adds a term of its own: the derivative of the two, by the number of positives.
    """

    def of_label(score: Floats, gold: NDArray[np.bool_]) -> tuple[float, Floats]:
        if not gold.any():
            return float("nan"), np.zeros(len(score))
        rising, positives = np.sort(score), np.sort(score[gold])
        reached = len(score) - np.searchsorted(rising, score, "left")  # rows that score as much or more
        precision = (len(positives) - np.searchsorted(positives, score, "left")) / reached
        value = float(precision[gold].mean())
        order = np.argsort(score[gold], kind="stable")
        place = np.searchsorted(positives, score, "right")  # positives that score as much or less
        each = np.concatenate([[0.0], np.cumsum((1 / reached[gold])[order])])[place]
        lost = np.concatenate([[0.0], np.cumsum((precision / reached)[gold][order])])[place]
        return value, (gold * (precision - value) + gold * each - lost) / len(positives)

    return _by_label(answers, of_label)


@dataclass(frozen=True)
class Measure:
    """How a measure is computed, which way it is better, and whether it needs scores."""

    of: Callable[[MethodScores], Measured]
    better: Better = "higher"
    needs_scores: bool = False


MEASURES = {
    "macro_f1": Measure(_macro_f1),
    "accuracy": Measure(_accuracy),
    "user_accuracy": Measure(_user_accuracy),
    "average_precision": Measure(_average_precision, needs_scores=True),
    "auroc": Measure(_auroc, needs_scores=True),
    "log_loss": Measure(_log_loss, "lower", needs_scores=True),
    "brier": Measure(_brier, "lower", needs_scores=True),
}


def _scores(answers: MethodScores) -> Floats:
    assert answers.scores is not None
    return answers.scores.astype(np.float64)


def _right(answers: MethodScores) -> tuple[Floats, Floats]:
    """How many answers of each row are right, and how many were asked: two float64 [rows]."""
    asked = ~np.isnan(answers.labels)
    right = (answers.decisions == (answers.labels >= 0.5)) & asked
    if answers.kind == "multiclass":
        right, asked = (right | ~asked).all(axis=1, keepdims=True), asked.any(axis=1, keepdims=True)
        right &= asked
    return np.asarray(right.sum(axis=1), dtype=np.float64), np.asarray(asked.sum(axis=1), dtype=np.float64)


def _mean(sums: Floats, terms: Floats) -> Measured:
    """sum(sums) / sum(terms): the derivative by a row's weight is (its sum - mean x its terms) / all terms."""
    total = float(terms.sum())
    if total == 0:
        return Measured(float("nan"), np.zeros(len(sums)))
    value = float(sums.sum()) / total
    return Measured(value, (sums - value * terms) / total)


def _by_label(answers: MethodScores, of_label: Callable[[Floats, NDArray[np.bool_]], tuple[float, Floats]]) -> Measured:
    """A measure of each label, on the rows where it was asked."""
    scores, asked = _scores(answers), ~np.isnan(answers.labels)
    values, influence = np.full(scores.shape[1], np.nan), np.zeros(scores.shape)
    for label in range(scores.shape[1]):
        rows = asked[:, label]
        values[label], influence[rows, label] = of_label(scores[rows, label], answers.labels[rows, label] >= 0.5)
    return _over_labels(values, influence)


def _over_labels(values: Floats, influence: Floats) -> Measured:
    """The mean over labels where it is defined. values: [labels], NaN elsewhere. influence: [rows, labels]."""
    known = ~np.isnan(values)
    if not known.any():
        return Measured(float("nan"), np.zeros(len(influence)))
    return Measured(float(values[known].mean()), influence[:, known].mean(axis=1))

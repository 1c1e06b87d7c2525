"""What a method wins over the reference method on the same rows, and how sure that is.

A gain is read three ways (see the paper's metric): points, relative to the reference's F1, and relative to the headroom
the reference leaves. Intervals come from a bootstrap that resamples users and texts, because both are samples: a row
weighs (how often its user was drawn) x (how often its text was drawn), the "pigeonhole bootstrap" (Owen 2007, Annals of
Applied Statistics 1(2)). It counts what users and texts contribute once, and the chance of the single judgement up to
three times: where that chance dominates, intervals are up to 1.7 times too wide, which is the safe side. Method and
reference are compared under the same draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beholder.errors import DataError, unknown
from beholder.evaluation.metrics import Decisions, Floats, counts, f1, macro, per_user

CHUNK = 8_000_000
"""Weights held at once: 32 MB. The draws depend on it, so it is part of what a seed means."""


@dataclass(frozen=True)
class LabelGain:
    """The gain on one label, in percentage points; NaN where the label has no positive."""

    label: int
    points: float
    low: float
    high: float


@dataclass(frozen=True)
class TaskGain:
    """The gain in macro-F1 over the labels of one task, in percentage points; NaN where none has a positive."""

    task: str
    points: float
    low: float
    high: float


@dataclass(frozen=True)
class Gain:
    """A method against the reference.

    Attributes:
        points: difference in macro-F1, percentage points.
        relative: difference / the reference's macro-F1, a fraction; None where that is 0.
        headroom: difference / (1 - the reference's macro-F1), a fraction; None where that is 0.
        low, high: the interval of `points`.
        p: two-sided p-value of no difference: how rarely the draws fall on the other side of zero, at least
            2 / (draws + 1); None for the reference. Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 15.
        per_label: the same per label.
        per_task: the same per task, where there are several.
    """

    points: float
    relative: float | None
    headroom: float | None
    low: float
    high: float
    p: float | None
    per_label: tuple[LabelGain, ...]
    per_task: tuple[TaskGain, ...] = ()

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low > 0

    def to_json(self) -> dict[str, float | None]:
        """The three readings, the interval and the p-value, without the labels."""
        return {
            "points": self.points,
            "relative": self.relative,
            "headroom": self.headroom,
            "low": self.low,
            "high": self.high,
            "p": self.p,
        }


def gains(
    decisions: Mapping[str, Decisions],
    reference: str,
    labels: Floats,
    text_ids: NDArray[np.object_],
    user_ids: NDArray[np.object_],
    *,
    tasks: Mapping[str, Sequence[int]] | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Gain]:
    """The gain of every method over `reference`, all under the same draws.

    Args:
        decisions: bool [rows, labels] of each method, the reference among them.
        reference: the name of the method gains are measured against.
        labels: float [rows, labels], NaN = not asked.
        text_ids, user_ids: str [rows]. Where there is one user only, texts alone are resampled, and vice versa.
        tasks: the label columns of each task, where there are several.
        draws: bootstrap draws.
        seed: of the draws.
        level: of the interval (percentiles).

    Holds 4 bytes a row for each of methods x 3 x labels. Weighted counts are whole numbers, and exact in float32 up to
    2^24, some ten million rows.

    Raises:
        DataError: no method is called `reference`.
    """
    if reference not in decisions:
        raise DataError(f"evaluate.reference: {unknown('method', reference, decisions)}")
    names = [reference, *(name for name in decisions if name != reference)]
    stacked = np.concatenate(
        [part.astype(np.float32) for name in names for part in counts(decisions[name], labels)], axis=1
    )  # [rows, methods * 3 * labels]
    shape = (len(names), 3, labels.shape[1])

    def per_label(sums: Floats) -> Floats:
        """[..., methods * 3 * labels] -> F1 [..., methods, labels]."""
        parts = sums.astype(np.float64).reshape(*sums.shape[:-1], *shape)
        return f1(parts[..., 0, :], parts[..., 1, :], parts[..., 2, :])

    def over_reference(f1s: Floats, place: int, columns: Sequence[int] | slice) -> Floats:
        """[..., methods, labels] -> difference in macro-F1 over some labels [...]."""
        return macro(f1s[..., place, columns]) - macro(f1s[..., 0, columns])

    here = per_label(stacked.sum(axis=0, dtype=np.float64))  # [methods, labels]
    drawn = np.concatenate(
        [per_label(weights @ stacked) for weights in row_weights(text_ids, user_ids, draws, seed)]
    )  # [draws, methods, labels]
    quantiles = [(1 - level) / 2, (1 + level) / 2]
    found: dict[str, Gain] = {}
    for place, name in enumerate(names):
        difference = float(over_reference(here, place, slice(None)))
        differences = over_reference(drawn, place, slice(None))
        low, high = _interval(differences, quantiles)
        base = float(macro(here)[0])
        found[name] = Gain(
            points=100 * difference,
            relative=difference / base if base > 0 else None,
            headroom=difference / (1 - base) if base < 1 else None,
            low=100 * low,
            high=100 * high,
            p=None if name == reference else _p_value(differences),
            per_label=tuple(
                LabelGain(
                    label,
                    100 * float(here[place, label] - here[0, label]),
                    *(100 * end for end in _interval(drawn[:, place, label] - drawn[:, 0, label], quantiles)),
                )
                for label in range(labels.shape[1])
            ),
            per_task=tuple(
                TaskGain(
                    task,
                    100 * float(over_reference(here, place, columns)),
                    *(100 * end for end in _interval(over_reference(drawn, place, columns), quantiles)),
                )
                for task, columns in (tasks or {}).items()
            ),
        )
    return {name: found[name] for name in decisions}


def row_weights(
    text_ids: NDArray[np.object_], user_ids: NDArray[np.object_], draws: int, seed: int
) -> Iterator[Floats]:
    """Bootstrap weights of the rows, in chunks of draws: float32 [some draws, rows], whole numbers.

    Users and texts are drawn with replacement, independently; a row's weight is the product of the two counts.
    """
    rng = np.random.default_rng(seed)
    _, user = np.unique(user_ids.astype(str), return_inverse=True)
    _, text = np.unique(text_ids.astype(str), return_inverse=True)
    chunk = max(1, CHUNK // len(user_ids))
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        weights = _multiplicities(user, size, rng)
        weights *= _multiplicities(text, size, rng)
        yield weights


def user_gains(decisions: Decisions, reference: Decisions, labels: Floats, user_ids: NDArray[np.object_]) -> Floats:
    """Each user's difference in macro-F1, in points, users sorted: float64 [users], NaN without any positive.

    Rounded to a billionth of a point: the same F1, summed over labels in another order, is no difference.
    """
    mine, other = per_user(decisions, labels, user_ids), per_user(reference, labels, user_ids)
    return np.round(100 * (mine.macro_f1 - other.macro_f1), 9)


def _multiplicities(group: NDArray[np.integer], draws: int, rng: np.random.Generator) -> Floats:
    """How often each row's group is drawn: [draws, rows]; all 1 where there is only one group."""
    groups = int(group.max()) + 1
    if groups == 1:
        return np.ones((draws, len(group)), dtype=np.float32)
    drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws)  # [draws, groups]
    return drawn.astype(np.float32)[:, group]


def _interval(differences: Floats, quantiles: list[float]) -> tuple[float, float]:
    """Percentiles of the draws that have a value; NaN where none has."""
    usable = differences[~np.isnan(differences)]
    if not len(usable):
        return float("nan"), float("nan")
    low, high = np.quantile(usable, quantiles)
    return float(low), float(high)


def _p_value(differences: Floats) -> float:
    usable = differences[~np.isnan(differences)]
    rarer = min((usable <= 0).sum(), (usable >= 0).sum())
    return min(1.0, 2 * (1 + float(rarer)) / (1 + len(usable)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for there being several, so that the chance of any false finding stays as small as said.

    Holm 1979, Scandinavian Journal of Statistics 6(2): the k-th smallest of n times n - k + 1, never falling.
    """
    order = np.argsort(p_values, kind="stable")
    falling = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * falling))
    return corrected.tolist()

"""How sure a number is that was measured on judgements which share people and texts.

Two questions, two intervals. *People at large*: users and texts are both samples, and others would be drawn the next
time. *These people*: the users stay, new texts are drawn.

Whatever the number, each row's influence on it (the derivative of the number by the row's weight; Hampel 1974, Journal
of the American Statistical Association 69(346)) says how it would move with the sample: its variance is that of the
sum of the influences, whose dependence within people and texts is allowed for by summing them up by cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beholder.evaluation.metrics import Floats


@dataclass(frozen=True)
class Mean:
    """A mean and its interval; NaN where there is one person or one text only."""

    value: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low > 0

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Spread:
    """How far a number may be from the truth.

    Attributes:
        error: its standard error; NaN where it cannot be told.
        degrees: of freedom of Student's t.
    """

    error: float
    degrees: float

    def interval(self, value: float, level: float = 0.95) -> tuple[float, float]:
        """Lower and upper end around a value; NaN where they cannot be told."""
        from scipy.stats import t as student

        if not self.degrees:
            return float("nan"), float("nan")
        half = float(student.ppf((1 + level) / 2, self.degrees)) * self.error
        return value - half, value + half

    def p(self, value: float) -> float:
        """Two-sided p-value of the truth being zero; 1 where it cannot be told, or where nothing differs."""
        from scipy.stats import t as student

        if not self.degrees or value == 0:
            return 1.0
        return float(2 * student.sf(abs(value) / self.error, self.degrees)) if self.error > 0 else 0.0


class Clusters:
    """Whose each row is and of what: crossed random effects.

    A row's influence, times the number of rows, is taken as  z = mu + person + text + (person and text) + noise, and
    the variances of the four are estimated by moments: sums of squares within people, within texts, within both and in
    all are set to what they are expected to be (Henderson 1953, Biometrics 9(2); Gao & Owen 2017, Electronic Journal of
    Statistics 11(1)). The chance of a single judgement is so counted once, a text that half of all rows are of weighs
    as much as it should, and how much texts differ is learned from all of them. Quantiles are Student's t with the
    number of people or texts, whichever are fewer, less one (Cameron & Miller 2015, Journal of Human Resources 50(2)).
    `experiments/benchmarks/intervals.py` measures how often such intervals hold the truth.

    Attributes:
        people, texts: how many there are.
    """

    def __init__(self, people: NDArray[np.object_], texts: NDArray[np.object_]) -> None:
        """people, texts: str [rows]."""
        self._groups = [_numbers(people), _numbers(texts)]
        self.people, self.texts = (int(each.max(initial=-1)) + 1 for each in self._groups)
        self._groups.append(_numbers(self._groups[0] * self.texts + self._groups[1]))
        self._sizes = [np.bincount(each).astype(np.float64) for each in self._groups]  # rows of each person, text, both
        self.rows = len(self._groups[0])

    def at_large(self, influence: Floats) -> Spread:
        """For people and texts both drawn anew. influence: float [rows], on the number; they add up to 0."""
        return self._spread(influence, (0, 1))

    def these_people(self, influence: Floats) -> Spread:
        """For the same people and texts drawn anew."""
        return self._spread(influence, (1,))

    def _spread(self, influence: Floats, drawn: tuple[int, ...]) -> Spread:
        """drawn: which of people and texts are samples."""
        counts = (self.people, self.texts)
        if min(counts[each] for each in drawn) < 2:
            return Spread(float("nan"), 0)
        if not influence.any():
            return Spread(0.0, 1)
        variance = self.components(influence)  # of people, texts, both, noise
        share = [float((size**2).sum()) / self.rows**2 for size in self._sizes] + [1 / self.rows]
        rest = share[2] * max(variance[2], 0.0) + share[3] * max(variance[3], 0.0)
        total = share[2] * variance[2] + share[3] * variance[3] + sum(share[each] * variance[each] for each in drawn)
        return Spread((total if total > 0 else rest) ** 0.5, min(counts[each] for each in drawn) - 1)

    def components(self, influence: Floats) -> NDArray[np.float64]:
        """Variances of people, texts, both together and noise, of a row's influence times the rows: float64 [4].

        Unbiased, so that those which are next to nothing may be negative.
        """
        z = influence * self.rows
        person, text, both = self._groups
        within = [
            float((z**2).sum() - (np.bincount(g, z) ** 2 / n).sum())
            for g, n in zip(self._groups, self._sizes, strict=True)
        ]
        squares = np.asarray([*within, float(((z - z.mean()) ** 2).sum())])
        cells = self._sizes[2] ** 2  # of each (person, text) that occurs
        first = np.unique(both, return_index=True)[1]
        rows, total = float(self.rows), [float((n**2).sum()) / self.rows for n in self._sizes]

        def spread_over(group: NDArray[np.int64], size: NDArray[np.float64]) -> float:
            """Sum over a group of (rows - sum of squared cells / rows)."""
            return rows - float((np.bincount(group[first], cells, len(size)) / size).sum())

        by_person, by_text = (
            spread_over(group, size) for group, size in zip((person, text), self._sizes[:2], strict=True)
        )
        expected = np.asarray(
            [
                [0.0, by_person, by_person, rows - self.people],  # within people
                [by_text, 0.0, by_text, rows - self.texts],  # within texts
                [0.0, 0.0, 0.0, rows - len(cells)],  # within both
                [rows - total[0], rows - total[1], rows - total[2], rows - 1],  # in all
            ]
        )
        if rows == len(cells):  # nobody judged a text twice: the noise is that of both
            solved = np.linalg.lstsq(expected[[0, 1, 3]][:, :3], squares[[0, 1, 3]], rcond=None)[0]
            return np.append(solved, 0.0)
        return np.linalg.lstsq(expected, squares, rcond=None)[0]


def clustered_mean(
    sums: Floats, counts: Floats, people: NDArray[np.object_], texts: NDArray[np.object_], level: float = 0.95
) -> Mean:
    """The mean `sum(sums) / sum(counts)` and its interval for people at large; see `Clusters.at_large`.

    Args:
        sums: float [rows], each row's total.
        counts: float [rows], over how many it is.
        people, texts: str [rows], whose and of what.
        level: of the interval.
    """
    total = float(counts.sum())
    if total == 0:
        return Mean(float("nan"), float("nan"), float("nan"))
    mean = float(sums.sum()) / total
    spread = Clusters(people, texts).at_large((sums - mean * counts) / total)
    return Mean(mean, *spread.interval(mean, level))


def _numbers(values: NDArray[np.object_] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Each value's place among the distinct ones."""
    values = values.astype(str) if values.dtype == object else values
    return np.unique(values, return_inverse=True)[1].astype(np.int64)

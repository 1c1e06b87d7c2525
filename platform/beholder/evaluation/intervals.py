"""How sure a number is that was measured on judgements which share people and texts.

Two questions, two intervals. *People at large*: users and texts are both samples, and others would be drawn the next
time. *These people*: the users stay, new texts are drawn.

Whatever the number, each row has an influence on it: the derivative of the number by the row's weight (Hampel 1974,
Journal of the American Statistical Association 69(346)). To first order the number's variance is that of the sum of the
influences, which depend on each other within people and within texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
        error: its standard error; NaN where undefined.
        degrees: of freedom of Student's t.
    """

    error: float
    degrees: float

    def with_training(self, values: Floats) -> Spread:
        """The spread of a mean over trainings, this one being that of its rows: with the chance of training in it.

        Training is random, so a benchmark repeats it: Bouthillier et al. 2021, Accounting for Variance in Machine
        Learning Benchmarks, MLSys. The variance of the mean over trainings is added; what training does to single rows
        is so counted twice, which makes intervals hardly wider (`experiments/benchmarks/intervals.py --trainings 3`).

        Args:
            values: float64 [trainings], the number after each; nothing is added where there is one.
        """
        return self.plus(training_error(values), len(values))

    def plus(self, error: float, trainings: int) -> Spread:
        """Add an independent standard error, that of a mean over trainings.

        Degrees of freedom are of Welch (1947, Biometrika 34) and Satterthwaite (1946, Biometrics Bulletin 2): few where
        there are three trainings and much chance in them.
        """
        if not self.degrees or not error > 0:
            return self
        rows, training = self.error**2, error**2
        degrees = (rows + training) ** 2 / (rows**2 / self.degrees + training**2 / (trainings - 1))
        return Spread((rows + training) ** 0.5, degrees)

    def interval(self, value: float, level: float = 0.95) -> tuple[float, float]:
        """Lower and upper end around a value; NaN where undefined."""
        from scipy.stats import t as student

        if not self.degrees:
            return float("nan"), float("nan")
        half = float(student.ppf((1 + level) / 2, self.degrees)) * self.error
        return value - half, value + half

    def p(self, value: float) -> float:
        """Two-sided p-value of the truth being zero; 1 where it is undefined, or where nothing differs."""
        from scipy.stats import t as student

        if not self.degrees or value == 0:
            return 1.0
        return float(2 * student.sf(abs(value) / self.error, self.degrees)) if self.error > 0 else 0.0


COMMON = 30
"""A text with at least this many rows has its own estimate of the scale of influences on it."""
LITTLE = 0.5
"""A common text on which influences go less far than this, as on others, is no sample of how others vary."""
UNKNOWN = Spread(float("nan"), 0)


class Clusters:
    """Whose each row is and of what: crossed random effects.

    A row's influence, times the number of rows, is taken as  z = mu + person + text + (person and text) + noise, and
    the variances of the four are estimated by moments: sums of squares within people, within texts, within both and in
    all are set to what they are expected to be (Henderson 1953, Biometrics 9(2); Gao & Owen 2017, Electronic Journal of
    Statistics 11(1)). The chance of a single judgement is so counted once, a text that half of all rows are of weighs
    as much as it should, and how much texts differ is learned from all of them. Common texts have a scale of their
    own: in conversations one text, as "yes", can be half of all rows, and nothing depends on it. Quantiles are those of
    Student's t (Cameron & Miller 2015, Journal of Human Resources 50(2)); see `degrees`.
    `experiments/benchmarks/intervals.py` measures how often such intervals hold the truth.

    Attributes:
        people, texts: how many there are.
    """

    def __init__(self, people: NDArray[Any], texts: NDArray[Any]) -> None:
        """people, texts: str [rows], or numbers."""
        person, text = _numbers(people), _numbers(texts)
        self.people, self.texts = (int(each.max(initial=-1)) + 1 for each in (person, text))
        pairs, first, both = np.unique(person * self.texts + text, return_index=True, return_inverse=True)
        self._groups = (person, text, both.reshape(-1))
        self._sizes = [np.bincount(each).astype(np.float64) for each in self._groups]  # rows of each person, text, both
        rows = float(len(person))
        share = [float((size**2).sum()) / rows for size in self._sizes]
        within = [  # rows less, summed over people (texts), the squared rows of both by those of the person (text)
            rows - float((np.bincount(group[first], self._sizes[2] ** 2) / size).sum())
            for group, size in zip((person, text), self._sizes, strict=False)
        ]
        # What sums of squares within people, within texts, within both and in all are expected to be.
        self._expected = np.asarray(
            [
                [0.0, within[0], within[0], rows - self.people],
                [within[1], 0.0, within[1], rows - self.texts],
                [0.0, 0.0, 0.0, rows - len(pairs)],
                [rows - share[0], rows - share[1], rows - share[2], rows - 1],
            ]
        )

    def spreads(self, influence: Floats) -> tuple[Spread, Spread]:
        """Of a number, for people at large and for these people. influence: float [rows], adding up to 0."""
        scale, (person, text, _) = self.scale(influence), self._groups
        telling = scale >= LITTLE
        if not telling.any():  # nothing depends on any row
            return _spread(0.0, self.people, self.texts), _spread(0.0, self.texts)
        told_by = self if telling.all() else Clusters(person[telling], text[telling])
        summed = [np.bincount(group, scale) for group in self._groups] + [scale]
        share = np.asarray([float((each**2).sum()) for each in summed]) / telling.sum() ** 2  # of each in the variance
        parts = share * told_by.components(influence[telling] / scale[telling])  # of people, texts, both, noise

        at_large, these = (
            variance if variance > 0 else float((influence**2).sum())  # as if rows shared nothing
            for variance in (float(parts.sum()), float(parts[1:].sum()))
        )
        return _spread(at_large, told_by.people, told_by.texts), _spread(these, told_by.texts)

    def scale(self, influence: Floats) -> NDArray[np.float64]:
        """How far influences on a row's text go, 1 for texts as they mostly are: float64 [rows].

        The root mean square of a text of which there are `COMMON` rows, by that of all texts with fewer.
        """
        text, sizes = self._groups[1], self._sizes[1]
        squares, common = np.bincount(text, influence**2, self.texts), sizes >= COMMON
        of = ~common if squares[~common].any() else np.ones(self.texts, dtype=bool)
        usual = squares[of].sum() / sizes[of].sum()
        return np.where(common, np.sqrt(squares / sizes / usual) if usual > 0 else 0.0, 1.0)[text]

    def components(self, influence: Floats) -> NDArray[np.float64]:
        """Variances of people, texts, both together and noise, of a row's influence times the rows: float64 [4].

        Unbiased, so that those which are next to nothing may be negative. Where nobody judged a text twice, the
        variance of both holds that of the noise.
        """
        z = influence * len(influence)
        squares = [
            float((z**2).sum() - (np.bincount(group, z) ** 2 / size).sum())
            for group, size in zip(self._groups, self._sizes, strict=True)
        ]
        squares.append(float(((z - z.mean()) ** 2).sum()))
        known = [0, 1, 2, 3] if self._expected[2, 3] else [0, 1, 3]
        found = np.zeros(4)
        used = slice(len(known))
        found[used] = np.linalg.lstsq(self._expected[known][:, used], np.asarray(squares)[known], rcond=None)[0]
        return found


def degrees(*clusters: float) -> float:
    """Degrees of freedom of a variance that is summed over `people` and over `texts`; 0 where there is one.

    Those of Satterthwaite (1946, Biometrics Bulletin 2) for a sum of two mean squares as large as each other, less what
    both count: 1 / (1 / (people - 1) + 1 / (texts - 1)). They are what is left where neither people nor texts vary more
    than their rows alone would; where people vary most there are up to people - 1, and the interval is a little wide.
    """
    if min(clusters) < 2:
        return 0.0
    return 1 / sum(1 / (count - 1) for count in clusters)


def _spread(variance: float, *clusters: int) -> Spread:
    known = degrees(*clusters)
    return Spread(variance**0.5, known) if known else UNKNOWN


def training_error(values: Floats) -> float:
    """The standard error of a mean over trainings, as far as it is theirs: 0 where there is one.

    values: float64 [trainings].
    """
    return float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def in_words(low: float | None, high: float | None) -> str:
    """The ends of an interval in points, for people; `unknown` where undefined (None, NaN)."""
    if low is None or high is None or low != low:
        return "unknown"
    return f"{low:+.1f} to {high:+.1f}"


def signed(points: float | None) -> str:
    """A difference in points, for people; `unknown` where undefined."""
    return "unknown" if points is None or points != points else f"{points:+.1f}"


def in_unit(value: float | None) -> str:
    """A number in the unit of a scale: two digits behind the point, three below one; "-" where it is not known."""
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value + 0.0:.3f}".replace("-0.000", "0.000")


def percent(share: float | None) -> str:
    """A share of 1 as a percentage, for people; `-` where undefined."""
    return "-" if share is None or share != share else f"{100 * share:.1f}"


def p_in_words(p: float | None) -> str:
    """A p-value, for people; nothing where there is none."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def clustered_mean(
    sums: Floats, counts: Floats, people: NDArray[np.object_], texts: NDArray[np.object_], level: float = 0.95
) -> Mean:
    """The mean `sum(sums) / sum(counts)` and its interval for people at large; see `Clusters`.

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
    at_large, _ = Clusters(people, texts).spreads((sums - mean * counts) / total)
    return Mean(mean, *at_large.interval(mean, level))


def _numbers(values: NDArray[Any]) -> NDArray[np.int64]:
    """Each value's place among the distinct ones."""
    values = values.astype(str) if values.dtype == object else values
    return np.unique(values, return_inverse=True)[1].astype(np.int64)

"""What a method wins over another one on the same rows, and how sure that is.

A gain is read three ways (see the paper's metric): points, relative to the other's F1, and relative to the headroom the
other leaves. It has two intervals: for people at large (users and texts are both samples) and for these people
(new texts only); see `cluster_interval`. Macro-F1 is a smooth function of sums over rows, so that each row has an
influence on it, and two methods are compared by the difference of their influences: the delta method, paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beholder.data.task import Kind, Task
from beholder.evaluation.headline import Predicted, of_users, parts
from beholder.evaluation.intervals import UNKNOWN, Clusters, Spread, training_error
from beholder.evaluation.metrics import Floats, log_losses, macro
from beholder.util.errors import DataError, unknown


@dataclass(frozen=True)
class Interval:
    """A difference in percentage points, its interval for people at large, and that for these people (`texts_*`).

    NaN where undefined: without a positive, with one person (people at large) or one text.
    `rows_error`, `training_error`: the two parts of its standard error among people at large, in points. The first is
    smaller with more people and texts, the second with more trainings.
    """

    points: float
    low: float
    high: float
    texts_low: float
    texts_high: float
    rows_error: float = float("nan")
    training_error: float = 0.0

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval for people at large lies above zero."""
        return self.low > 0

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return {
            "points": self.points,
            "low": self.low,
            "high": self.high,
            "texts_low": self.texts_low,
            "texts_high": self.texts_high,
        }


@dataclass(frozen=True)
class LabelGain(Interval):
    """The gain on one label; NaN where the label has no positive."""

    label: int = 0


@dataclass(frozen=True)
class TaskGain(Interval):
    """The gain in macro-F1 over the labels of one task; NaN where none has a positive."""

    task: str = ""


@dataclass(frozen=True)
class Gain(Interval):
    """A method against another.

    Attributes:
        points: difference in macro-F1, percentage points.
        relative: difference / the other's macro-F1, a fraction; None where that is 0.
        headroom: difference / (1 - the other's macro-F1), a fraction; None where that is 0.
        low, high, texts_low, texts_high: see `Interval`.
        p: two-sided p-value of no difference among people at large; None for the reference.
        per_label: the same per label.
        per_task: the same per task, where there are several.
    """

    relative: float | None = None
    headroom: float | None = None
    p: float | None = None
    per_label: tuple[LabelGain, ...] = ()
    per_task: tuple[TaskGain, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The three readings, the intervals and the p-value, without the labels."""
        return {**super().to_json(), "relative": self.relative, "headroom": self.headroom, "p": self.p}


class Compared:
    """Methods that decided the same rows, each once, or trained under several seeds, all under as many.

    Scores and gains are means over trainings, and intervals include the chance of training.

    Attributes:
        clusters: the people and texts that rows share.
        level: of all intervals.
    """

    def __init__(
        self,
        decisions: Mapping[str, Predicted],
        labels: Floats,
        texts: NDArray[np.object_],
        user_ids: NDArray[np.object_],
        level: float = 0.95,
        task: Task | None = None,
    ) -> None:
        """Take predictions.

        Args:
            decisions: [rows, labels] of each method, or [trainings, rows, labels]; bool, or of `headline.answers`.
            labels: float [rows, labels], NaN = not asked.
            texts, user_ids: str [rows].
            level: see the attributes.
            task: whose labels these are; None: labels that are given or not, or classes.
        """
        self._decisions = {name: decided.reshape(-1, *labels.shape) for name, decided in decisions.items()}
        self._labels, self._task = labels, task or plain_task(labels.shape[1])
        self.clusters, self.level = Clusters(user_ids, texts), level
        self._parts = {  # [trainings, parts]
            name: np.stack([parts(each, labels, self._task)[0] for each in trainings])
            for name, trainings in self._decisions.items()
        }

    def headline(self, name: str) -> float:
        """Of a method: macro-F1, unless there are scales; see `headline.headline`."""
        return float(np.mean([macro(each) for each in self._parts[name]]))

    def influence(self, name: str) -> Floats:
        """Of each row on every part of a method's headline: see `headline.parts`."""
        return np.mean([parts(each, self._labels, self._task)[1] for each in self._decisions[name]], axis=0)

    def gain(self, name: str, over: str, tasks: Mapping[str, Sequence[int]] | None = None) -> Gain:
        """What a method wins over another one.

        Args:
            name, over: the two.
            tasks: the parts of each task, where there are several.

        Raises:
            DataError: `over` is none of the methods.
        """
        if over not in self._decisions:
            raise DataError(f"evaluate.reference: {unknown('arm', over, self._decisions)}")
        f1s = self._parts[name] - self._parts[over]
        influence = self.influence(name) - self.influence(over)
        found, at_large = self._difference(f1s, influence)
        base, difference = self.headline(over), found.points / 100
        known = not np.isnan(difference)
        some = {task: list(columns) for task, columns in (tasks or {}).items()}
        return Gain(
            **vars(found),
            relative=difference / base if known and base > 0 else None,
            headroom=difference / (1 - base) if known and base < 1 else None,
            p=at_large.p(difference) if name != over and known else None,
            per_label=tuple(
                LabelGain(**vars(self._difference(f1s[:, [label]], influence[:, [label]])[0]), label=label)
                for label in range(f1s.shape[1])
            ),
            per_task=tuple(
                TaskGain(**vars(self._difference(f1s[:, mine], influence[:, mine])[0]), task=task)
                for task, mine in some.items()
            ),
        )

    def beyond(self, name: str, controls: Sequence[str]) -> Interval:
        """What a method wins over the mean of its controls: the part of its gain that is about who reads."""
        f1s = self._parts[name] - np.mean([self._parts[each] for each in controls], axis=0)
        influence = self.influence(name) - np.mean([self.influence(each) for each in controls], axis=0)
        return self._difference(f1s, influence)[0]

    def _difference(self, f1s: Floats, influence: Floats) -> tuple[Interval, Spread]:
        """A difference in the mean of some parts, and how sure it is of people at large.

        f1s: [trainings, parts]; NaN = unknown. influence: [rows, parts], of each row on their mean over trainings.
        """
        known = ~np.isnan(f1s).any(axis=0)
        if not known.any():
            return Interval(*[float("nan")] * 5), UNKNOWN
        values = f1s[:, known].mean(axis=1)
        value = float(values.mean())
        spreads = self.clusters.spreads(influence[:, known].mean(axis=1))
        at_large, these = (spread.with_training(values) for spread in spreads)
        ends = (value, *at_large.interval(value, self.level), *these.interval(value, self.level))
        errors = spreads[0].error, training_error(values)
        return Interval(*(100 * each for each in (*ends, *errors))), at_large


def gains(
    decisions: Mapping[str, Predicted],
    reference: str,
    labels: Floats,
    texts: NDArray[np.object_],
    user_ids: NDArray[np.object_],
    *,
    tasks: Mapping[str, Sequence[int]] | None = None,
    level: float = 0.95,
    task: Task | None = None,
) -> dict[str, Gain]:
    """The gain of every method over `reference`; see `Compared`.

    Raises:
        DataError: no method is called `reference`.
    """
    compared = Compared(decisions, labels, texts, user_ids, level, task)
    return {name: compared.gain(name, reference, tasks) for name in decisions}


def plain_task(labels: int) -> Task:
    """A task with that number of labels, where their names do not matter."""
    return Task(tuple(map(str, range(labels))))


def user_gains(
    decisions: Predicted,
    reference: Predicted,
    labels: Floats,
    user_ids: NDArray[np.object_],
    task: Task | None = None,
) -> Floats:
    """Each user's difference in the headline, in points, users sorted: float64 [users], NaN where unknown.

    Rounded to a billionth of a point: the same F1, summed over labels in another order, is no difference.
    """
    task = task or plain_task(labels.shape[1])
    mine, other = (of_users(each, labels, task, user_ids) for each in (decisions, reference))
    return np.round(100 * (mine - other), 9)


def user_log_loss_gains(
    scores: Floats, reference: Floats, labels: Floats, user_ids: NDArray[np.object_], kind: Kind
) -> Floats:
    """By how many nats each user's mean log-loss is below the reference's, users sorted: float64 [users].

    A proper score shows whom a method predicts better (Gneiting & Raftery 2007, JASA 102(477)); a user's own F1 does
    not: on a few judgements it rewards saying yes. Rounded to a billionth of a nat, as `user_gains`.

    Args:
        scores, reference: float [rows, labels] in 0..1, of the two methods.
        labels: float [rows, labels], NaN = not asked.
        user_ids: str [rows].
        kind: of the task.
    """
    (mine, terms), (other, _) = (log_losses(each, labels, kind) for each in (scores, reference))
    _, user = np.unique(user_ids.astype(str), return_inverse=True)
    return np.round(np.bincount(user, other - mine) / np.maximum(np.bincount(user, terms), 1), 9)


@dataclass(frozen=True)
class UserCounts:
    """How many users a method serves better than the reference does, worse, and the same."""

    better: int
    worse: int
    same: int

    @classmethod
    def of(cls, gained: Floats) -> UserCounts:
        """Count what each gains: float [users]."""
        return cls(*(int(each.sum()) for each in (gained > 0, gained < 0, gained == 0)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for there being several, so that the chance of any false finding stays below the level.

    Holm 1979, Scandinavian Journal of Statistics 6(2): the k-th smallest of n times n - k + 1, never falling.
    """
    order = np.argsort(p_values, kind="stable")
    falling = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * falling))
    return corrected.tolist()

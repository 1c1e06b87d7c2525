"""Graded answers: points of a scale, or a slider, as labels that are nested.

An answer y on a scale with the points p_0 < p_1 < ... < p_m is written as m labels, of which label k is the part of
the step from p_(k-1) to p_k it is beyond (a thermometer):

    label_k = (y - p_(k-1)) / (p_k - p_(k-1)), kept within 0..1,    y = p_0 + sum over k of (p_k - p_(k-1)) * label_k

An ordinal answer is one of the points, and its labels are 1 up to it and 0 above: "at least p_k". Their scores are the
cumulative probabilities of the cumulative-link model (McCullagh 1980, JRSS B 42(2)), fitted cut by cut (Frank & Hall
2001, ECML; rank consistency: Cao, Mirjalili & Raschka 2020, Pattern Recognition Letters 140). A continuous answer lies
anywhere between, and is written without loss: cumulative probability models serve continuous outcomes as well, without
an assumption on their distribution (Liu, Shepherd, Li & Harrell 2017, Statistics in Medicine 36(27)). A person's own
offsets of the labels are their own thresholds: one calls a text "very" rude early, another never does.

The sum of binary cross-entropies over the labels is a proper score of the distribution (every term is one), and the
mean of the distribution is p_0 + sum of widths * scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beholder.util.errors import DataError

Floats = NDArray[np.floating]
ScaleKind = Literal["ordinal", "continuous"]
STEPS = 20
"""Steps that the range of a continuous answer is cut into."""
LEVEL = 0.9
"""Share of answers that the interval of a prediction is to hold."""


@dataclass(frozen=True)
class Scale:
    """A scale that people answer on.

    Attributes:
        name: of the question.
        points: p_0 < ... < p_m, in the unit of the answers.
        kind: `ordinal`: answers are among the points; `continuous`: anywhere between the first and the last.
        words: what the points are called, where they have names.
    """

    name: str
    points: tuple[float, ...]
    kind: ScaleKind = "ordinal"
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.points) < 2 or any(low >= high for low, high in zip(self.points, self.points[1:], strict=False)):
            raise DataError(
                f"source.labels.{self.name}: a scale needs at least two points, lowest first. Fix its range."
            )
        if self.words and len(self.words) != len(self.points):
            raise DataError(f"source.labels.{self.name}: {len(self.words)} names for {len(self.points)} points.")

    @classmethod
    def continuous(cls, name: str, low: float, high: float, steps: int = STEPS) -> Scale:
        """A slider from `low` to `high`."""
        return cls(name, tuple(np.linspace(low, high, steps + 1).tolist()), "continuous")

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its labels: `NAME>=POINT`."""
        return tuple(f"{self.name}>={self.shown(place)}" for place in range(1, len(self.points)))

    @property
    def length(self) -> float:
        """From the lowest point to the highest."""
        return self.points[-1] - self.points[0]

    @cached_property
    def widths(self) -> NDArray[np.float64]:
        """float64 [labels]: from each point to the next."""
        return np.diff(np.asarray(self.points, dtype=np.float64))

    @property
    def range(self) -> str:
        """Its ends, or its points where they have names, for people."""
        return ", ".join(self.words) if self.words else f"{self.points[0]:g} to {self.points[-1]:g}"

    def holds(self, answer: float) -> bool:
        """Whether somebody can answer so."""
        return answer in self.points if self.kind == "ordinal" else self.points[0] <= answer <= self.points[-1]

    def shown(self, place: int) -> str:
        """A point as people read it."""
        return self.words[place] if self.words else f"{self.points[place]:g}"

    def encode(self, values: Floats) -> NDArray[np.float64]:
        """Answers as labels. values: float [rows], NaN = not asked; returns [rows, labels]."""
        beyond = (np.asarray(values, dtype=np.float64)[:, None] - np.asarray(self.points[:-1])) / self.widths
        return np.clip(beyond, 0, 1)

    def decode(self, labels: Floats) -> NDArray[np.float64]:
        """Answers of labels, or the mean of scores. labels: float [..., labels]; returns [...]."""
        return self.points[0] + np.asarray(labels, dtype=np.float64) @ self.widths

    def nearest(self, answers: Floats) -> NDArray[np.float64]:
        """Answers as they can be given, where rounding to 32 bits moved them: float64 [rows], NaN stays."""
        found = np.clip(np.asarray(answers, dtype=np.float64), self.points[0], self.points[-1])
        if self.kind == "continuous":
            return np.round(found, 4 - int(np.floor(np.log10(self.length))))
        points = np.asarray(self.points)
        place = np.abs(np.nan_to_num(found)[:, None] - points).argmin(axis=1)
        return np.where(np.isnan(found), np.nan, points[place])

    def survival(self, scores: Floats) -> NDArray[np.float64]:
        """Scores that never rise from a label to the next: float64 [..., labels].

        Rearranged where they do, which brings them no farther from the truth (Chernozhukov, Fernandez-Val & Galichon
        2010, Econometrica 78(3)).
        """
        return -np.sort(-np.asarray(scores, dtype=np.float64), axis=-1)

    def probabilities(self, scores: Floats) -> NDArray[np.float64]:
        """Of every point (ordinal) or step (continuous), summing to one: float64 [..., points] or [..., labels]."""
        ends = self._ends(scores)
        return -np.diff(ends, axis=-1)

    def mean(self, scores: Floats) -> NDArray[np.float64]:
        """The expected answer: float64 [...]."""
        return self.decode(self.survival(scores))

    def median(self, scores: Floats) -> NDArray[np.float64]:
        """The answer with the least expected absolute error: float64 [...]; of an ordinal scale, one of its points."""
        if self.kind == "ordinal":
            return self.points[0] + (self.survival(scores) >= 0.5) @ self.widths
        found, (first, last) = self.quantile(scores, 0.5), self._end_steps
        return np.where(found < first, self.points[0], np.where(found > last, self.points[-1], found))

    def quantile(self, scores: Floats, share: float) -> NDArray[np.float64]:
        """The answer that is not exceeded with probability `share`: float64 [...].

        Ordinal: the lowest point p with P(answer <= p) >= share. Continuous: a score is the mean of P(answer > y) over
        its step, taken as its value in the middle of it, with straight lines between; where that is level, the middle.
        """
        falling = self.survival(scores)
        if self.kind == "ordinal":
            return self.points[0] + (1 - falling < share) @ self.widths
        points = np.asarray(self.points)
        knots = np.concatenate([points[:1], (points[1:] + points[:-1]) / 2, points[-1:]])  # [labels + 2]
        shape, below = falling.shape[:-1], 1 - falling.reshape(-1, falling.shape[-1])  # rising
        rows = np.concatenate([np.zeros((len(below), 1)), below, np.ones((len(below), 1))], axis=1)
        first, last = ((rows < share).sum(axis=1), (rows <= share).sum(axis=1))  # knots below it, and up to it
        found = np.mean([_crossing(knots, rows, share, np.clip(k, 1, len(knots) - 1)) for k in (first, last)], axis=0)
        return found.reshape(shape)

    def interval(self, scores: Floats, level: float = LEVEL) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ends of an interval with at least that probability, equal tails: two float64 [...].

        Of a continuous scale an end in its first or last half step is that of the scale, as scores do not tell where
        within a step answers are, and people heap them at the ends. All that is left out is then on the other side.
        """
        low, high = self.quantile(scores, (1 - level) / 2), self.quantile(scores, (1 + level) / 2)
        if self.kind == "ordinal":
            return low, high
        first, last = self._end_steps
        at_low, at_high = low < first, high > last
        low = np.where(at_high & ~at_low, self.quantile(scores, 1 - level), low)
        high = np.where(at_low & ~at_high, self.quantile(scores, level), high)
        return np.where(low < first, self.points[0], low), np.where(high > last, self.points[-1], high)

    @property
    def _end_steps(self) -> tuple[float, float]:
        """Where the first half of the first step ends, and the last half of the last one starts.

        What lies beyond is taken for the end of the scale: people heap answers there, and scores do not tell where
        within a step they are.
        """
        return self.points[0] + self.widths[0] / 2, self.points[-1] - self.widths[-1] / 2

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        named = {"words": list(self.words)} if self.words else {}
        return {"name": self.name, "points": list(self.points), "kind": self.kind, **named}

    @classmethod
    def from_json(cls, written: dict[str, Any]) -> Scale:
        """From plain values."""
        return cls(written["name"], tuple(written["points"]), written["kind"], tuple(written.get("words", ())))

    def _ends(self, scores: Floats) -> NDArray[np.float64]:
        """P(answer at least each point), or (continuous) P(answer beyond each point), with the certain ends."""
        falling = self.survival(scores)
        one, zero = np.ones((*falling.shape[:-1], 1)), np.zeros((*falling.shape[:-1], 1))
        if self.kind == "ordinal":
            return np.concatenate([one, falling, zero], axis=-1)
        between = (falling[..., 1:] + falling[..., :-1]) / 2  # at the points between two steps
        return np.concatenate([one, between, zero], axis=-1)


def _crossing(knots: Floats, rows: Floats, share: float, place: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where each rising row reaches a share, on the line from the knot before `place` to that at it: float64 [rows]."""
    each = np.arange(len(rows))
    here, there = rows[each, place - 1], rows[each, place]
    part = np.where(there > here, (share - here) / np.where(there > here, there - here, 1), 0.0)
    return knots[place - 1] + np.clip(part, 0, 1) * (knots[place] - knots[place - 1])


@dataclass(frozen=True)
class Question:
    """What people were asked, and the labels it is in: a label of its own, or a scale with several.

    Attributes:
        name: of the label or the scale.
        columns: positions among the task's labels.
        scale: None of a label.
    """

    name: str
    columns: tuple[int, ...]
    scale: Scale | None = None
    classes: tuple[str, ...] = ()
    """Names of the columns, where they are the classes of one question."""

    def read(self, kept: Mapping[str, float]) -> NDArray[np.float32]:
        """Its labels of a judgement that is kept by names, NaN where that has no answer: float32 [labels].

        Of a scale the answer itself is kept, as another version's may have other points; one that is not on it is none.
        """
        if self.scale is None:
            return np.asarray([kept.get(name, np.nan) for name in self.classes or (self.name,)], dtype=np.float32)
        answer = kept.get(self.scale.name, np.nan)
        return self.scale.encode(np.asarray([answer if self.scale.holds(answer) else np.nan]))[0].astype(np.float32)


def questions_of(labels: Sequence[str], scales: Sequence[Scale]) -> tuple[Question, ...]:
    """The questions of a task, in the order of its labels.

    Raises:
        DataError: a scale's labels are not among the task's, side by side.
    """
    by_first = {scale.labels[0]: scale for scale in scales}
    found: list[Question] = []
    place = 0
    while place < len(labels):
        scale = by_first.pop(labels[place], None)
        many = len(scale.labels) if scale else 1
        if scale and tuple(labels[place : place + many]) != scale.labels:
            raise DataError(f"scale {scale.name!r}: its labels are not those of the task.")
        found.append(Question(scale.name if scale else labels[place], tuple(range(place, place + many)), scale))
        place += many
    if by_first:
        raise DataError(f"scale {next(iter(by_first.values())).name!r}: its labels are not those of the task.")
    return tuple(found)

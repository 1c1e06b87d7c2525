"""The questions users answer about a text: labels that are given or not, one of several classes, answers on scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beholder.data.scales import Question, Scale, questions_of
from beholder.util.errors import DataError

Kind = Literal["multilabel", "multiclass"]


@dataclass(frozen=True)
class Task:
    """The labels of a text.

    `multilabel`: each label is present (1) or not (0), independently. `multiclass`: exactly one label is present.
    `scales`: of a multilabel task, scales whose answers stand in several of the labels; see `scales.Scale`.
    """

    labels: tuple[str, ...]
    kind: Kind = "multilabel"
    scales: tuple[Scale, ...] = ()

    def __post_init__(self) -> None:
        if not self.labels:
            raise DataError("a task needs at least one label; name them under source.labels.")
        if len(set(self.labels)) != len(self.labels):
            raise DataError(f"label names must differ, but got {', '.join(self.labels)}.")
        if self.kind == "multiclass" and len(self.labels) < 2:
            raise DataError("a multiclass task needs at least two labels; for one label use kind: multilabel.")
        if self.scales and self.kind == "multiclass":
            raise DataError("a multiclass task has one question and no scale beside it; use kind: multilabel.")
        _ = self.questions

    @classmethod
    def of(cls, questions: Sequence[str | Scale]) -> Task:
        """A task of labels that are given or not (by name) and of scales."""
        labels = [each.labels if isinstance(each, Scale) else (each,) for each in questions]
        scales = tuple(each for each in questions if isinstance(each, Scale))
        return cls(tuple(label for some in labels for label in some), "multilabel", scales)

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """What was asked: every label that is not of a scale, every scale, and all classes together."""
        if self.kind == "multiclass":
            return (Question("", tuple(range(len(self.labels))), classes=self.labels),)
        return questions_of(self.labels, self.scales)

    @property
    def described(self) -> tuple[list[str], str]:
        """What was asked, and of which kind, for people: scales with their range, not the labels they stand in."""
        if not self.scales:
            return list(self.labels), self.kind
        names = [
            f"{question.name} ({question.scale.range})" if question.scale else question.name
            for question in self.questions
        ]
        return names, "scales" if self.scaled.all() else "labels and scales"

    @cached_property
    def scaled(self) -> NDArray[np.bool_]:
        """Which labels are of a scale: bool [labels]."""
        found = np.zeros(len(self.labels), dtype=bool)
        for question in self.questions:
            found[list(question.columns)] = question.scale is not None
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        scales = {"scales": [scale.to_json() for scale in self.scales]} if self.scales else {}
        return {"labels": list(self.labels), "kind": self.kind, **scales}

    @classmethod
    def from_json(cls, written: dict[str, Any]) -> Task:
        """From plain values."""
        scales = tuple(Scale.from_json(each) for each in written.get("scales", ()))
        return cls(tuple(written["labels"]), written["kind"], scales)


def tasks_of(labels: Sequence[str]) -> dict[str, list[int]]:
    """The columns of each task, where there are several tasks and every label is called `TASK.label`.

    Empty where they are not: then all labels are one task's, which has no name.
    """
    columns: dict[str, list[int]] = {}
    for column, label in enumerate(labels):
        task, dot, _ = label.partition(">=")[0].partition(".")  # a point of a scale may have one, too
        if not dot:
            return {}
        columns.setdefault(task, []).append(column)
    return columns if len(columns) > 1 else {}

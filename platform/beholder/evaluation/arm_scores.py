"""One arm's scores, and the judgements they are held against."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from beholder.data.annotations import Annotations
from beholder.data.task import Kind, Task
from beholder.evaluation.headline import Predicted, answers
from beholder.evaluation.metrics import Decisions, decide


@dataclass(frozen=True)
class ArmScores:
    """One arm's scores of the validation and test rows: all that evaluation ever sees of a model.

    Attributes:
        name, method: the arm's and its method's.
        thresholds: float32 [labels], fitted on validation; [folds, labels] where each fold has a model of its own.
        valid_scores, test_scores: float32 [rows, labels] in 0..1.
        seconds: to fit and score.
        control_of: the arm this one is the control of.
        valid_fold, test_fold: int64 [rows], the fold of each row, from 0; None where there are none.
        repeats: the same arm, trained again under other seeds, and its scores of the same rows.
    """

    name: str
    method: str
    thresholds: NDArray[np.float32]
    valid_scores: NDArray[np.float32]
    test_scores: NDArray[np.float32]
    seconds: float
    control_of: str | None = None
    valid_fold: NDArray[np.int64] | None = None
    test_fold: NDArray[np.int64] | None = None
    repeats: tuple[ArmScores, ...] = ()

    @property
    def trainings(self) -> tuple[ArmScores, ...]:
        """This one and its repeats."""
        return (self, *self.repeats)

    def first(self, trainings: int) -> ArmScores:
        """The same with that many trainings only."""
        return replace(self, repeats=self.repeats[: trainings - 1])

    def valid_decisions(self, kind: Kind) -> Decisions:
        """What it decides on the validation rows: bool [rows, labels]. This and the next are without the repeats."""
        return decide(self.valid_scores, _of_rows(self.thresholds, self.valid_fold), kind)

    def test_decisions(self, kind: Kind) -> Decisions:
        """What it decides on the test rows: bool [rows, labels]."""
        return decide(self.test_scores, _of_rows(self.thresholds, self.test_fold), kind)

    def valid_answers(self, task: Task) -> Predicted:
        """What it predicts on the validation rows: [rows, labels] of `headline.answers`."""
        return answers(self.valid_scores, _of_rows(self.thresholds, self.valid_fold), task)

    def test_answers(self, task: Task) -> Predicted:
        """What it predicts on the test rows: [rows, labels] of `headline.answers`."""
        return answers(self.test_scores, _of_rows(self.thresholds, self.test_fold), task)


@dataclass(frozen=True)
class Judgements:
    """The judgements scores are held against.

    Attributes:
        labels: float32 [rows, labels], NaN = not asked.
        text_ids, user_ids: str [rows].
        texts: str [rows], equal for equal texts whatever their ids: what intervals and splits take as one text.
    """

    labels: NDArray[np.float32]
    text_ids: NDArray[np.object_]
    user_ids: NDArray[np.object_]
    texts: NDArray[np.object_]

    @classmethod
    def of(cls, annotations: Annotations) -> Judgements:
        """Those of annotations."""
        return cls(annotations.labels, annotations.text_ids, annotations.user_ids, annotations.text_keys)

    @property
    def commonest(self) -> float:
        """The share of the rows that the commonest text has: 0..1."""
        return float(np.unique(self.texts.astype(str), return_counts=True)[1].max() / len(self.texts))


def _of_rows(thresholds: NDArray[np.float32], fold: NDArray[np.int64] | None) -> NDArray[np.float32]:
    """The thresholds each row is decided by: [labels] for all, or [rows, labels]."""
    return thresholds if fold is None else thresholds[fold]

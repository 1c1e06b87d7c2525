"""From the scores of all arms to everything that is reported of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beholder.data.annotations import Annotations, tasks_of
from beholder.evaluation.gains import Compared, Gain, Interval, UserCounts, user_gains, user_log_loss_gains
from beholder.evaluation.measures import Difference, MethodScores, differences, over_trainings
from beholder.evaluation.metrics import (
    Decisions,
    Floats,
    Kind,
    decide,
    expected_calibration_error,
    f1_per_label,
    macro_f1,
    per_user,
    subset_accuracy,
    user_bias,
)
from beholder.evaluation.newcomers import Newcomers
from beholder.evaluation.run_results import EvaluationResult

ROUTED = "routed"
"""The name of the pair of arms that is served, where it is scored as if it were an arm."""


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


@dataclass(frozen=True)
class CurvePoint:
    """A method fitted on a limited number of training rows of each user: 0 is what an unknown user gets, None is all.

    `gain` is over the reference of the run, on all test rows.
    """

    rows: int | None
    gain: Gain

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"rows": self.rows, **Interval.to_json(self.gain)}


@dataclass(frozen=True)
class Curve:
    """Which arms make up an arm's learning curve.

    Attributes:
        start: the arm that everybody is served before anything is known of them.
        arms: rows of each user -> the arm fitted on no more than these.
    """

    start: str
    arms: dict[int, str]


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


@dataclass(frozen=True)
class Results:
    """The arms compared. Scores and gains of an arm that was trained several times are means over its trainings.

    Attributes:
        gains: of each arm over `reference`.
        beyond: of each arm that has controls, its gain over their mean: the part that is about who reads.
        measures: of each arm, every measure of `measures.MEASURES`, and how much better it is than the reference.
        level: of all intervals. worthwhile: points below which a gain is not worth having.
    """

    arms: tuple[ArmScores, ...]
    label_names: tuple[str, ...]
    kind: Kind
    reference: str
    valid: Judgements
    test: Judgements
    gains: dict[str, Gain]
    beyond: dict[str, Interval]
    measures: dict[str, dict[str, Difference]]
    level: float
    worthwhile: float
    curves: dict[str, tuple[CurvePoint, ...]] = field(default_factory=dict)
    newcomers: Newcomers | None = None
    """Of a split by people. The test scores are then those after the most judgements of each person."""

    @property
    def people(self) -> int:
        """How many people judged the test rows."""
        return len(set(self.test.user_ids))

    @property
    def texts(self) -> int:
        """How many texts the test rows are of."""
        return len(set(self.test.texts))

    @property
    def reference_arm(self) -> ArmScores:
        """The arm that gains are over."""
        return self.arm(self.reference)

    def arm(self, name: str) -> ArmScores:
        """An arm by name."""
        return next(each for each in self.arms if each.name == name)

    @property
    def trainings(self) -> int:
        """How often each arm was trained."""
        return len(self.reference_arm.trainings)

    def decisions(self, arm: ArmScores) -> Decisions:
        """What an arm decides on the test rows: bool [trainings, rows, labels]."""
        return np.stack([each.test_decisions(self.kind) for each in arm.trainings])

    def macro_f1(self, arm: ArmScores) -> float:
        """Of an arm on the test rows."""
        return float(np.mean(self._macro_f1s(arm)))

    def valid_macro_f1(self, arm: ArmScores) -> float:
        """Of an arm on the validation rows."""
        decided = (each.valid_decisions(self.kind) for each in arm.trainings)
        return float(np.mean([macro_f1(each, self.valid.labels) for each in decided]))

    def calibration_error(self, arm: ArmScores) -> float:
        """How far its scores are off on the test rows, all trainings together; see `expected_calibration_error`."""
        return expected_calibration_error(*self.scored(arm))

    def scored(self, arm: ArmScores) -> tuple[Floats, Floats]:
        """Its scores of the test rows, and their labels, of all trainings: two float [trainings x rows, labels]."""
        scores = np.concatenate([each.test_scores for each in arm.trainings])
        return scores, np.tile(self.test.labels, (len(arm.trainings), 1))

    def user_gains(self, arm: ArmScores) -> Floats:
        """Points of each user of the test rows, sorted by name: see `gains.user_gains`."""
        pairs = zip(self.decisions(arm), self.decisions(self.reference_arm), strict=True)
        return _mean(user_gains(mine, other, self.test.labels, self.test.user_ids) for mine, other in pairs)

    def user_log_loss_gains(self, arm: ArmScores) -> Floats:
        """Nats below the reference of each user of the test rows, sorted by name: see `gains.user_log_loss_gains`."""
        pairs = zip(arm.trainings, self.reference_arm.trainings, strict=True)
        labels, users = self.test.labels, self.test.user_ids
        return _mean(
            user_log_loss_gains(mine.test_scores, other.test_scores, labels, users, self.kind) for mine, other in pairs
        )

    def users(self, arm: ArmScores) -> UserCounts:
        """For how many users of the test rows its log-loss is better than the reference's."""
        return UserCounts.of(self.user_log_loss_gains(arm))

    def wins(self, arm: ArmScores) -> bool:
        """Whether its gain is above zero among people at large, and so is, where it has controls, that over them.

        Holding an arm against its control is one comparison. "The one is significant, the other is not" would be two,
        and no test of their difference (Gelman & Stern 2006, The American Statistician 60(4)).
        """
        beyond = self.beyond.get(arm.name)
        return self.gains[arm.name].above_zero and (beyond is None or beyond.above_zero)

    def controls(self, arm: ArmScores) -> list[ArmScores]:
        """Its controls."""
        return [each for each in self.arms if each.control_of == arm.name]

    def to_json(self) -> dict[str, Any]:
        """Plain values, NaN as None. Scores are fractions; `points`, `low` and `high` percentage points."""
        return plain(
            {
                "reference": self.reference,
                "rows": len(self.test.labels),
                "users": self.people,
                "texts": self.texts,
                "commonest_text": self.test.commonest,
                "level": self.level,
                "worthwhile": self.worthwhile,
                **({"trainings": self.trainings} if self.trainings > 1 else {}),
                "methods": {arm.name: self._arm(arm) for arm in self.arms},
                "curves": {arm: [point.to_json() for point in points] for arm, points in self.curves.items()},
                **(self.newcomers.to_json() if self.newcomers else {}),
            }
        )

    def summary(self) -> EvaluationResult:
        """The same, typed."""
        return EvaluationResult.from_json(self.to_json())

    def _arm(self, arm: ArmScores) -> dict[str, Any]:
        decisions, labels, gain = self.decisions(arm), self.test.labels, self.gains[arm.name]
        per_label = _mean(f1_per_label(each, labels) for each in decisions)
        return {
            "method": arm.method,
            "control_of": arm.control_of,
            "macro_f1": self.macro_f1(arm),
            **({"macro_f1_of_trainings": self._macro_f1s(arm)} if self.trainings > 1 else {}),
            "valid_macro_f1": self.valid_macro_f1(arm),
            "per_label": dict(zip(self.label_names, per_label.tolist(), strict=True)),
            "subset_accuracy": float(np.mean([subset_accuracy(each, labels) for each in decisions])),
            "ece": self.calibration_error(arm),
            "gain": gain.to_json(),
            "beyond_control": self.beyond[arm.name].to_json() if arm.name in self.beyond else None,
            "measures": {name: asdict(each) for name, each in self.measures[arm.name].items()},
            "per_label_gain": {self.label_names[each.label]: Interval.to_json(each) for each in gain.per_label},
            "users": asdict(self.users(arm)),
            **self._per_task(decisions, gain),
            "wins": self.wins(arm),
            "seconds": sum(each.seconds for each in arm.trainings),
        }

    def _macro_f1s(self, arm: ArmScores) -> list[float]:
        return [macro_f1(each, self.test.labels) for each in self.decisions(arm)]

    def _per_task(self, decisions: Decisions, gain: Gain) -> dict[str, Any]:
        """Macro-F1 and gain over the labels of each task; nothing where there is one task only."""
        tasks = tasks_of(self.label_names)
        if not tasks:
            return {}
        return {
            "per_task": {
                task: float(np.mean([macro_f1(each[:, columns], self.test.labels[:, columns]) for each in decisions]))
                for task, columns in tasks.items()
            },
            "per_task_gain": {each.task: Interval.to_json(each) for each in gain.per_task},
        }

    def user_table(self) -> pa.Table:
        """One row per user of the test rows: `user_id`, `rows`, and for each arm what it does for them.

        `macro_f1.ARM` and `gain_points.ARM` are by macro-F1, `log_loss_gain.ARM` by log-loss, in nats. `bias.ARM` is
        calibration in the large: by how much its mean score is above the share of labels the user gives (Van Calster et
        al. 2019, BMC Medicine 17:230); a curve needs more judgements than most users have.
        """
        columns: dict[str, Any] = {}
        for arm in self.arms:
            labels, ids = self.test.labels, self.test.user_ids
            each = [per_user(decided, labels, ids) for decided in self.decisions(arm)]
            columns |= {"user_id": each[0].users, "rows": each[0].rows}
            columns[f"macro_f1.{arm.name}"] = _mean(users.macro_f1 for users in each)
            columns[f"gain_points.{arm.name}"] = self.user_gains(arm)
            columns[f"log_loss_gain.{arm.name}"] = self.user_log_loss_gains(arm)
            columns[f"bias.{arm.name}"] = _mean(user_bias(one.test_scores, labels, ids) for one in arm.trainings)
        return pa.table({name: _array(values) for name, values in columns.items()})


def evaluate(
    arms: Sequence[ArmScores],
    valid: Judgements,
    test: Judgements,
    label_names: Sequence[str],
    kind: Kind,
    reference: str,
    *,
    level: float = 0.95,
    worthwhile: float = 1.0,
    curves: Mapping[str, Curve] | None = None,
) -> Results:
    """Compare the arms on the test rows. See `gains` for the intervals.

    Args:
        arms: all of them, those of learning curves among them, each trained as often.
        valid, test: the rows they were scored on.
        label_names, kind: the task's.
        reference: the arm that gains are over.
        level: of the intervals.
        worthwhile: points of macro-F1 below which a gain is not worth having.
        curves: arm -> its learning curve. Arms of a curve are reported as such, and not as methods of their own.

    Raises:
        DataError: no arm is called `reference`.
    """
    decisions = {arm.name: np.stack([each.test_decisions(kind) for each in arm.trainings]) for arm in arms}
    compared = Compared(decisions, test.labels, test.texts, test.user_ids, level)
    found = {name: compared.gain(name, reference, tasks_of(label_names)) for name in decisions}
    controls: dict[str, list[str]] = {}
    for arm in arms:
        if arm.control_of in decisions:
            controls.setdefault(arm.control_of, []).append(arm.name)
    beyond = {name: compared.beyond(name, some) for name, some in controls.items()}
    curves = curves or {}
    points = {
        arm: (
            CurvePoint(0, found[curve.start]),
            *(CurvePoint(rows, found[name]) for rows, name in sorted(curve.arms.items())),
            CurvePoint(None, found[arm]),
        )
        for arm, curve in curves.items()
    }
    on_curves = {name for curve in curves.values() for name in curve.arms.values()}
    methods = tuple(arm for arm in arms if arm.name not in on_curves)
    names = tuple(label_names)
    answers = {
        arm.name: over_trainings(
            [
                MethodScores(each.test_scores, decided, test.labels, test.user_ids, kind)
                for each, decided in zip(arm.trainings, decisions[arm.name], strict=True)
            ]
        )
        for arm in methods
    }
    measures = {name: differences(each, answers[reference], compared.clusters, level) for name, each in answers.items()}
    return Results(methods, names, kind, reference, valid, test, found, beyond, measures, level, worthwhile, points)


def _of_rows(thresholds: NDArray[np.float32], fold: NDArray[np.int64] | None) -> NDArray[np.float32]:
    """The thresholds each row is decided by: [labels] for all, or [rows, labels]."""
    return thresholds if fold is None else thresholds[fold]


def _mean(each: Iterable[Floats]) -> Floats:
    """Over trainings: float64 [...] of several of them."""
    return np.mean(np.stack(list(each)), axis=0)


def _array(values: Floats | NDArray[Any]) -> pa.Array:
    return pa.array(values.tolist() if values.dtype.kind in "UO" else values, from_pandas=True)


def plain(value: Any) -> Any:
    """The same with None for what JSON has no number for (NaN, infinity)."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value

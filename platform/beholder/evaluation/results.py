"""From the scores of all arms to everything that is reported of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beholder.data.task import Kind, Task, tasks_of
from beholder.evaluation.arm_scores import ArmScores, Judgements
from beholder.evaluation.gains import Compared, Gain, Interval, UserCounts, user_gains, user_log_loss_gains
from beholder.evaluation.headline import Predicted, headline, metric_of, of_users, part_names, parts
from beholder.evaluation.intervals import Clusters
from beholder.evaluation.measures import Difference, MethodScores, differences, over_trainings
from beholder.evaluation.metrics import (
    Decisions,
    Floats,
    expected_calibration_error,
    macro,
    subset_accuracy,
    user_bias,
)
from beholder.evaluation.newcomers import Newcomers
from beholder.evaluation.run_results import EvaluationResult
from beholder.evaluation.scale_measures import interval_facts, scale_differences, scale_measures

ROUTED = "routed"
"""The name of the pair of arms that is served, where it is scored as if it were an arm."""


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
class Results:
    """The arms compared. Scores and gains of an arm that was trained several times are means over its trainings.

    Attributes:
        gains: of each arm over `reference`.
        beyond: of each arm that has controls, its gain over their mean: the part that is about who reads.
        measures: of each arm, every measure of `measures.MEASURES`, and how much better it is than the reference.
        level: of all intervals. worthwhile: points below which a gain is not worth having.
    """

    arms: tuple[ArmScores, ...]
    task: Task
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
    scales: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each arm, what `scale_measures` finds of every scale, against the reference."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of the task."""
        return self.task.labels

    @property
    def kind(self) -> Kind:
        """Of the task."""
        return self.task.kind

    @property
    def metric(self) -> str:
        """What gains are in points of."""
        return metric_of(self.task)

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

    def answers(self, arm: ArmScores) -> Predicted:
        """What an arm predicts on the test rows: [trainings, rows, labels] of `headline.answers`."""
        return np.stack([each.test_answers(self.task) for each in arm.trainings])

    def headline(self, arm: ArmScores) -> float:
        """Of an arm on the test rows: macro-F1, unless there are scales."""
        return float(np.mean(self._headlines(arm)))

    def valid_headline(self, arm: ArmScores) -> float:
        """Of an arm on the validation rows."""
        predicted = (each.valid_answers(self.task) for each in arm.trainings)
        return float(np.mean([headline(each, self.valid.labels, self.task) for each in predicted]))

    def calibration_error(self, arm: ArmScores) -> float:
        """How far its scores are off on the test rows, all trainings together; see `expected_calibration_error`."""
        return expected_calibration_error(*self.scored(arm))

    def scored(self, arm: ArmScores) -> tuple[Floats, Floats]:
        """Its scores of the test rows, and their labels, of all trainings: two float [trainings x rows, labels]."""
        scores = np.concatenate([each.test_scores for each in arm.trainings])
        return scores, np.tile(self.test.labels, (len(arm.trainings), 1))

    def user_gains(self, arm: ArmScores) -> Floats:
        """Points of each user of the test rows, sorted by name: see `gains.user_gains`."""
        pairs = zip(self.answers(arm), self.answers(self.reference_arm), strict=True)
        labels, users = self.test.labels, self.test.user_ids
        return _mean(user_gains(mine, other, labels, users, self.task) for mine, other in pairs)

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
                **({"metric": self.metric} if self.task.scales else {}),
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
        name = "score" if self.task.scales else "macro_f1"
        names = part_names(self.task)
        per_part = _mean(parts(each, labels, self.task)[0] for each in self.answers(arm))
        return {
            "method": arm.method,
            "control_of": arm.control_of,
            name: self.headline(arm),
            **({f"{name}_of_trainings": self._headlines(arm)} if self.trainings > 1 else {}),
            f"valid_{name}": self.valid_headline(arm),
            "per_label": dict(zip(names, per_part.tolist(), strict=True)),
            **({"scales": self.scales[arm.name]} if self.task.scales else {}),
            "subset_accuracy": float(np.mean([subset_accuracy(each, labels) for each in decisions])),
            "ece": self.calibration_error(arm),
            "gain": gain.to_json(),
            "beyond_control": self.beyond[arm.name].to_json() if arm.name in self.beyond else None,
            "measures": {name: asdict(each) for name, each in self.measures[arm.name].items()},
            "per_label_gain": {names[each.label]: Interval.to_json(each) for each in gain.per_label},
            "users": asdict(self.users(arm)),
            **self._per_task(self.answers(arm), gain),
            "wins": self.wins(arm),
            "seconds": sum(each.seconds for each in arm.trainings),
        }

    def _headlines(self, arm: ArmScores) -> list[float]:
        return [headline(each, self.test.labels, self.task) for each in self.answers(arm)]

    def _per_task(self, predicted: Predicted, gain: Gain) -> dict[str, Any]:
        """Headline and gain over the parts of each task; nothing where there is one task only."""
        tasks = tasks_of(part_names(self.task))
        if not tasks:
            return {}
        found = np.stack([parts(each, self.test.labels, self.task)[0] for each in predicted])  # [trainings, parts]
        return {
            "per_task": {task: float(np.mean(macro(found[:, some]))) for task, some in tasks.items()},
            "per_task_gain": {each.task: Interval.to_json(each) for each in gain.per_task},
        }

    def user_table(self) -> pa.Table:
        """One row per user of the test rows: `user_id`, `rows`, and for each arm what it does for them.

        `macro_f1.ARM` (with scales `score.ARM`) and `gain_points.ARM` are by the headline, `log_loss_gain.ARM` by
        log-loss, in nats. `bias.ARM` is calibration in the large: by how much its mean score is above the share of
        labels the user gives (Van Calster et al. 2019, BMC Medicine 17:230); a curve needs more judgements than most
        users have.
        """
        columns: dict[str, Any] = {}
        for arm in self.arms:
            labels, ids = self.test.labels, self.test.user_ids
            names, rows = np.unique(ids.astype(str), return_counts=True)
            columns |= {"user_id": names, "rows": rows}
            own = _mean(of_users(each, labels, self.task, ids) for each in self.answers(arm))
            columns[f"{'score' if self.task.scales else 'macro_f1'}.{arm.name}"] = own
            columns[f"gain_points.{arm.name}"] = self.user_gains(arm)
            columns[f"log_loss_gain.{arm.name}"] = self.user_log_loss_gains(arm)
            columns[f"bias.{arm.name}"] = _mean(user_bias(one.test_scores, labels, ids) for one in arm.trainings)
        return pa.table({name: _array(values) for name, values in columns.items()})


def evaluate(
    arms: Sequence[ArmScores],
    valid: Judgements,
    test: Judgements,
    task: Task,
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
        task: whose labels these are.
        reference: the arm that gains are over.
        level: of the intervals.
        worthwhile: points below which a gain is not worth having.
        curves: arm -> its learning curve. Arms of a curve are reported as such, and not as methods of their own.

    Raises:
        DataError: no arm is called `reference`.
    """
    predicted = {arm.name: np.stack([each.test_answers(task) for each in arm.trainings]) for arm in arms}
    compared = Compared(predicted, test.labels, test.texts, test.user_ids, level, task)
    found = {name: compared.gain(name, reference, tasks_of(part_names(task))) for name in predicted}
    controls: dict[str, list[str]] = {}
    for arm in arms:
        if arm.control_of in predicted:
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
    measured = {
        arm.name: over_trainings(
            [
                MethodScores(each.test_scores, each.test_decisions(task.kind), test.labels, test.user_ids, task.kind)
                for each in arm.trainings
            ]
        )
        for arm in methods
    }
    measures = {
        name: differences(each, measured[reference], compared.clusters, level) for name, each in measured.items()
    }
    scales = _scales(methods, test, task, reference, compared.clusters, level) if task.scales else {}
    return Results(
        methods, task, reference, valid, test, found, beyond, measures, level, worthwhile, points, scales=scales
    )


def _scales(
    arms: Sequence[ArmScores], test: Judgements, task: Task, reference: str, clusters: Clusters, level: float
) -> dict[str, dict[str, Any]]:
    """Arm -> scale -> measures with intervals, and facts of the predictions' intervals."""
    found: dict[str, dict[str, Any]] = {arm.name: {} for arm in arms}
    for question in task.questions:
        scale, columns = question.scale, list(question.columns)
        if scale is None:
            continue
        each = {
            arm.name: [
                scale_measures(scale, one.test_scores[:, columns], test.labels[:, columns], test.user_ids)
                for one in arm.trainings
            ]
            for arm in arms
        }
        others = [measures for measures, _ in each[reference]]
        for name, trainings in each.items():
            measures = scale_differences([one for one, _ in trainings], others, clusters, level)
            facts = interval_facts([one for _, one in trainings], clusters, level)
            found[name][scale.name] = {"points": list(scale.points), **measures, "interval": facts}
    return found


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

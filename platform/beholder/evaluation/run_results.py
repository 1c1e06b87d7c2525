"""The results of a run: what `results.json` holds, and `beholder run --json` prints.

Fields have the order of the keys in the file. A key that a file of an earlier version lacks has a default here, and is
left out again when the results are written; a key that is unknown here is kept.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from beholder.evaluation.headline import MACRO_F1

Number = float | None
"""None: the value cannot be computed (NaN), for example without a positive row."""


class Record(BaseModel):
    """A part of the results: typed, immutable, written as it was read."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    @classmethod
    def from_json(cls, written: Any) -> Self:
        """From plain values. Raises ValueError: a value is missing or has the wrong type."""
        return cls.model_validate(written)

    def to_json(self) -> dict[str, Any]:
        """Plain values: the keys that were given, in the order of the fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class IntervalResult(Record):
    """A difference in percentage points, with its intervals; see `gains.Interval`."""

    points: Number = None
    low: Number = None
    high: Number = None
    texts_low: Number = None
    texts_high: Number = None


class GainResult(IntervalResult):
    """The gain over the reference; see `gains.Gain`."""

    relative: Number = None
    headroom: Number = None
    p: Number = None


class MeasureResult(Record):
    """One measure, and the difference to the reference in its own unit; see `measures.Difference`."""

    value: Number = None
    reference: Number = None
    gain: Number = None
    low: Number = None
    high: Number = None
    texts_low: Number = None
    texts_high: Number = None


class ScaleInterval(Record):
    """How often answers lie within the predicted interval, and how long it is, in the unit of the scale."""

    level: Number = None
    coverage: Number = None
    coverage_low: Number = None
    coverage_high: Number = None
    width: Number = None
    width_low: Number = None
    width_high: Number = None


class ScaleResult(Record):
    """Predictions of one scale; see `scale_measures.scale_measures`."""

    points: list[float] = []
    mae: MeasureResult = MeasureResult()
    rmse: MeasureResult = MeasureResult()
    quadratic_kappa: MeasureResult = MeasureResult()
    spearman: MeasureResult = MeasureResult()
    interval: ScaleInterval = ScaleInterval()


class UsersResult(Record):
    """Number of users for whom the log-loss is better or worse than the reference's, or the same."""

    better: int = 0
    worse: int = 0
    same: int = 0


class MethodResult(Record):
    """One arm on the test rows. `score` and `scales`: of a task with scales, in place of macro-F1."""

    method: str = ""
    control_of: str | None = None
    macro_f1: Number = None
    macro_f1_of_trainings: list[Number] | None = None
    valid_macro_f1: Number = None
    score: Number = None
    score_of_trainings: list[Number] | None = None
    valid_score: Number = None
    per_label: dict[str, Number] = {}
    scales: dict[str, ScaleResult] | None = None
    subset_accuracy: Number = None
    ece: Number = None
    gain: GainResult = GainResult()
    beyond_control: IntervalResult | None = None
    measures: dict[str, MeasureResult] = {}
    per_label_gain: dict[str, IntervalResult] = {}
    users: UsersResult = UsersResult()
    per_task: dict[str, Number] | None = None
    per_task_gain: dict[str, IntervalResult] | None = None
    wins: bool = False
    seconds: Number = None

    @property
    def headline(self) -> Number:
        """What arms are compared by: macro-F1, of a task with scales `score`."""
        return self.macro_f1 if self.score is None else self.score

    @property
    def valid_headline(self) -> Number:
        """The same of the validation rows."""
        return self.valid_macro_f1 if self.valid_score is None else self.valid_score

    @property
    def win_rate(self) -> float:
        """The share of the users of the test rows for whom the log-loss is better than the reference's."""
        users = self.users
        return users.better / max(1, users.better + users.worse + users.same)


class TrainedOn(Record):
    """Training rows of each user; None is all."""

    rows: int | None = None


class CurvePointResult(IntervalResult, TrainedOn):
    """One point of a learning curve: what an arm gains when trained on that many rows of each user."""


class MeanResult(Record):
    """A mean with its interval."""

    value: Number = None
    low: Number = None
    high: Number = None


class PointsResult(Record):
    """A difference in percentage points with one interval."""

    points: Number = None
    low: Number = None
    high: Number = None


class NewcomerResult(Record):
    """One arm on people it was not fitted on, after `k` of their judgements; see `newcomers.NewcomerScore`."""

    k: int | None = None
    people: int = 0
    people_with_k: int = 0
    rows: int = 0
    log_loss: Number = None
    low: Number = None
    high: Number = None
    gain_over_global: MeanResult | None = None
    gain_over_zero: MeanResult | None = None
    macro_f1: Number = None
    macro_f1_gain: PointsResult = PointsResult()


class CellResult(Record):
    """All arms on rows of people and texts that were seen or not; see `newcomers.Cell`."""

    people: str
    texts: str
    methods: dict[str, list[NewcomerResult]]


class GroupResult(Record):
    """One group of readers or judgements."""

    name: str
    rows: int = 0
    users: int = 0
    reference: Number = None
    score: Number = None
    points: Number = None
    low: Number = None
    high: Number = None


class GroupingResult(Record):
    """All groups of one column; see `report.groups.by_group`."""

    column: str
    of: str = ""
    groups: list[GroupResult] = []
    gap: Number = None
    reference_gap: Number = None


class VerdictResult(Record):
    """Whether personalisation pays; see `verdict.Verdict`."""

    arm: str | None = None
    answer: str = ""
    pays: bool = False
    more: Number = None
    sentence: str = ""


class ForgettingMeasures(Record):
    """Perplexity of the general text, macro-F1 on the other task."""

    perplexity: Number = None
    macro_f1: Number = None


class ForgettingResult(Record):
    """What training costs elsewhere; see `execution.forgetting.summary`."""

    text: dict[str, Any] = {}
    source: str = ""
    rows: dict[str, int] = {}
    prior: ForgettingMeasures = ForgettingMeasures()
    before: ForgettingMeasures = ForgettingMeasures()
    arms: dict[str, ForgettingMeasures] = {}


class DataResult(Record):
    """The rows of a run."""

    origin: str = ""
    rows: int = 0
    texts: int = 0
    users: int = 0
    labels: list[str] = []
    kind: str = ""
    refused_rows: int = 0
    fingerprint: str = ""


class HeldOutResult(Record):
    """The people held out by a split by people; see `splits.HeldOut`."""

    people: int = 0
    tested: int = 0
    with_k: dict[int, int] = {}


class SplitResult(Record):
    """The split. `rows`: of each part; `folds`: the same of each fold, where there are folds."""

    hash: str
    leaked: Number = None
    rows: dict[str, int] = {}
    people: HeldOutResult | None = None
    folds: list[dict[str, int]] | None = None


class RegisteredResult(Record):
    """The registered version; see `registry.versions.Version`."""

    model: str
    version: int
    aliases: list[str] = []
    tags: dict[str, str] = {}
    run_id: str = ""
    created: int = 0
    best: str = ""
    global_: str = Field(default="", alias="global")
    on_personal: int | None = None
    on_global: int | None = None


class TrackedResult(Record):
    """The MLflow run."""

    run_id: str = ""
    uri: str = ""
    page: str | None = None


class Provenance(Record):
    """What a run was made from."""

    experiment: str = ""
    run: str = ""
    base: str
    seed: int = 0
    seeds: list[int] | None = None
    data: DataResult
    split: SplitResult


class EvaluationResult(Record):
    """What evaluation finds, as plain values; see `results.Results`.

    `trainings`: None where each arm was trained once. `newcomers` and `seen_unseen`: of a split by people.
    """

    reference: str
    rows: int = 0
    users: int = 0
    texts: int = 0
    commonest_text: Number = None
    level: float = 0.95
    worthwhile: float = 1.0
    metric: str = MACRO_F1
    trainings: int | None = None
    methods: dict[str, MethodResult] = {}
    curves: dict[str, list[CurvePointResult]] = {}
    newcomers: dict[str, list[NewcomerResult]] | None = None
    seen_unseen: list[CellResult] | None = None


class RunResults(EvaluationResult, Provenance):
    """Everything a run reports.

    `registered`: None where nothing was registered. `seconds`: of each phase.
    """

    groups: list[GroupingResult] = []
    verdict: VerdictResult = VerdictResult()
    forgetting: ForgettingResult | None = None
    registered: RegisteredResult | None = None
    seconds: dict[str, float] = {}
    mlflow: TrackedResult = TrackedResult()

    @property
    def found(self) -> dict[str, Any]:
        """Plain values of what was evaluated: without provenance, and what was registered, logged and timed after."""
        left_out = {*Provenance.model_fields, "registered", "seconds", "mlflow"}
        return {key: value for key, value in self.to_json().items() if key not in left_out}

"""Requests and responses of the HTTP API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator


def _printable(value: str) -> str:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise ValueError("contains a control character")
    return value


UserId = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=10_000, pattern=r"\S")]


class RequestModel(BaseModel):
    """Base of requests: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class PredictRequest(RequestModel):
    """A user, and one `text` or several `texts` (at most 256)."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user_id": "Annotator1", "text": "you are a stupid robot"}]}
    )

    user_id: UserId
    text: Text | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=256)] | None = None

    @model_validator(mode="after")
    def _either_text_or_texts(self) -> PredictRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give either text or texts")
        return self

    @property
    def all_texts(self) -> list[str]:
        """The texts of both forms of the request."""
        return [self.text] if self.text is not None else list(self.texts or [])


class ScaleAnswer(BaseModel):
    """The predicted answer on a scale."""

    value: float = Field(description="expected answer, in the unit of the scale")
    median: float
    low: float = Field(description="lower end of the 90 % interval of answers")
    high: float = Field(description="upper end of the 90 % interval of answers")
    probabilities: list[float] = Field(
        description="of every point of an ordinal scale; of every step between two points of a continuous one"
    )


class Prediction(BaseModel):
    """Predicted labels of one text for one user."""

    scores: dict[str, float] = Field(description="label -> probability, 0..1")
    decisions: dict[str, bool] = Field(description="label -> whether the score reaches the label's threshold")
    scales: dict[str, ScaleAnswer] = Field(default_factory=dict, description="scale -> answer, if the task has scales")
    route: str = Field(description="the method that predicted: the user's own, or the global one")
    fallback: bool = Field(
        default=False,
        description="whether the user has an adapter that could not be read, so that the global model predicted",
    )
    adapter: str | None = Field(
        default=None, description="digest of the adapter that predicted; null if the global model did"
    )


class PredictResponse(BaseModel):
    """The version, and its predictions, one per text in order."""

    version: str
    predictions: list[Prediction]


class PerspectivesRequest(RequestModel):
    """A text, and the users to predict for: some, or `all` whom the model knows."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "you are a stupid robot"},
                {"text": "you are a stupid robot", "users": ["Annotator1", "Annotator2"]},
            ]
        },
    )

    text: Text
    users: Literal["all"] | Annotated[list[UserId], Field(min_length=1, max_length=1_000)] = "all"
    at_most: int = Field(
        default=1_000, ge=0, le=5_000, description="users listed in `readers`; `spread` is always over all"
    )


class Reader(BaseModel):
    """The prediction for one user."""

    user_id: str
    route: str
    scores: list[float] = Field(description="per label, in the order of `labels`")
    decisions: list[bool]
    values: list[float] = Field(default_factory=list, description="expected answer per scale, in the order of `scales`")
    distance: float = Field(description="from the mean of all users: root mean square over labels")


class LabelSpread(BaseModel):
    """Disagreement of users on one label."""

    label: str
    mean: float
    deviation: float = Field(description="standard deviation of users' scores")
    given: float = Field(description="share of users predicted to give the label")
    division: float = Field(description="0 if all users agree, 1 if half give the label: 4 p (1 - p)")
    deciles: list[float] = Field(description="quantiles of users' scores at 0, 10, ... 100 %")
    histogram: list[int] = Field(description="number of users with a score in each twentieth of 0..1")


class ScaleSpread(BaseModel):
    """Disagreement of users on one scale; all in its unit."""

    name: str
    points: list[float]
    words: list[str]
    mean: float
    deviation: float = Field(description="standard deviation of users' expected answers")
    deciles: list[float] = Field(description="quantiles of users' expected answers at 0, 10, ... 100 %")
    histogram: list[int] = Field(description="number of users in each twentieth of the scale")


class PerspectivesResponse(BaseModel):
    """Predictions of a text for many users, and their disagreement."""

    version: str
    labels: list[str]
    readers_total: int = Field(description="number of users; `readers` lists at most `at_most` of them")
    readers: list[Reader] = Field(description="predictions of users, the farthest from the mean first")
    spread: list[LabelSpread] = Field(description="one per label, the largest disagreement first")
    scales: list[ScaleSpread] = Field(default_factory=list, description="one per scale, in the order of the task")
    everybody: Prediction = Field(description="prediction of the global model")


class Judgement(RequestModel):
    """A user's judgement of a text: label -> whether they give it, scale -> their answer. Omit what was not judged."""

    text: Text
    labels: Annotated[dict[str, bool], Field(max_length=1_000)] = Field(default_factory=dict)
    scales: Annotated[dict[str, float], Field(max_length=1_000)] = Field(
        default_factory=dict, description='scale -> answer in its unit, such as {"politeness": 2}'
    )

    @model_validator(mode="after")
    def _something_judged(self) -> Judgement:
        if not self.labels and not self.scales:
            raise ValueError("give at least one label or scale")
        return self


class AnnotationsRequest(RequestModel):
    """Judgements of one user. A judgement replaces the previous one of the same text."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"judgements": [{"text": "you are a robot", "labels": {"abusive": False}}]}]},
    )

    judgements: Annotated[list[Judgement], Field(min_length=1, max_length=1_000)]


class AnnotationsResponse(BaseModel):
    """Number of stored judgements: `stored` of this request, `total` of this user."""

    stored: int
    total: int


class EnrolResponse(BaseModel):
    """The result of training a user's own model."""

    version: str
    route: str = Field(description="the method that predicts for the user from now on")
    helped: bool = Field(description="whether that is the user's own model")
    train_rows: int
    valid_rows: int
    gain: float | None = Field(
        description="reduction of log-loss by the user's own model on held-out judgements, nats per row and label"
    )
    expected: float | None = Field(
        description="the gain shrunk toward the mean of all users; their own model is used if it is above 0"
    )
    seconds: float
    message: str = Field(description="the result as a sentence for the user")


class UserResponse(BaseModel):
    """State of a user."""

    user_id: str
    known: bool = Field(description="whether the model was trained on the user's judgements, or the user was enrolled")
    route: str
    enrolled: bool = Field(description="whether the user was enrolled after the version was published")
    train_rows: int | None = None
    valid_rows: int | None = None
    gain: float | None = None
    expected: float | None = None
    judgements: int = Field(description="number of judgements stored for enrolment and refresh")


class PriorShare(BaseModel):
    """An erased user's share in the data of a version's prior. It remains until the prior is estimated again."""

    version: int
    rows: int | None = Field(description="judgements of the user; null if not recorded")
    of_rows: int = Field(description="judgements the prior was estimated from")
    of_people: int = Field(description="users the prior was estimated from")


class ErasedResponse(BaseModel):
    """What was erased, in numbers, and the erasure's record id; no user ids."""

    erased: bool
    judgements: int
    bundles: int
    runs: int
    priors: list[PriorShare] = Field(description="of the served model's versions; empty if nothing of the user remains")
    record: str = Field(description="id in the record of erasures, which does not identify the user")
    within_s: float = Field(
        description="seconds until every server that reaches the store has stopped using the user's model"
    )


class ModelResponse(BaseModel):
    """The version that is served, and its evaluation."""

    version: str
    labels: list[str]
    kind: str
    scales: list[dict[str, Any]] = Field(
        default_factory=list, description="name, points, kind and words of each scale; its labels are in `labels`, too"
    )
    base: str
    users: int
    personal_method: str | None
    global_method: str
    routes: dict[str, Any]
    evaluation: dict[str, Any]
    split_hash: str
    enrolled: int
    looks_every_s: float = Field(
        description="seconds between a replica's checks for another version, enrolments and erasures"
    )


class TextsResponse(BaseModel):
    """Texts for a new user to judge first: users disagree most on them, and each adds information."""

    texts: list[str]
    source: str = Field(description="where the texts come from; empty if the server has none")


class Health(BaseModel):
    """The server is alive; `/readyz` adds the version that is served."""

    status: str
    version: str | None = None


class Problem(BaseModel):
    """An invalid part of a request."""

    type: str
    loc: list[str | int] = Field(description="place: body, path or query, and the position in it")
    msg: str


class Refusal(BaseModel):
    """Why a request was refused, and what to do."""

    detail: str | list[Problem]
    request_id: str | None = None

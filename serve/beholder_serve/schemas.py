"""What goes over the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator


def _printable(value: str) -> str:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise ValueError("holds a control character")
    return value


UserId = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=10_000, pattern=r"\S")]


class Wire(BaseModel):
    """What is sent here: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class PredictRequest(Wire):
    """Who reads, and what: one `text`, or several `texts` (at most 256)."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user_id": "Annotator1", "text": "you are a stupid robot"}]}
    )

    user_id: UserId
    text: Text | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=256)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> PredictRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give either text or texts")
        return self

    @property
    def all_texts(self) -> list[str]:
        """The texts, however they were given."""
        return [self.text] if self.text is not None else list(self.texts or [])


class Prediction(BaseModel):
    """What this user would say of one text."""

    scores: dict[str, float] = Field(description="label -> probability, 0..1")
    decisions: dict[str, bool] = Field(description="label -> whether the score reaches the label's threshold")
    route: str = Field(description="the method that answered: the user's own, or the global one")
    fallback: bool = Field(
        default=False, description="whether the user has a model of their own that could not be read just now"
    )
    adapter: str | None = Field(
        default=None, description="of the adapter that gave the answer, a digest of its numbers; none where none did"
    )


class PredictResponse(BaseModel):
    """One prediction per text, in order, and the version that made them."""

    version: str
    predictions: list[Prediction]


class PerspectivesRequest(Wire):
    """A text, and whose view of it: some users, or `all` readers the model knows."""

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
        default=1_000, ge=0, le=5_000, description="readers listed by name; the distribution is always of all"
    )


class ReaderView(BaseModel):
    """One reader's view."""

    user_id: str
    route: str
    scores: list[float] = Field(description="per label, in the order of `labels`")
    decisions: list[bool]
    distance: float = Field(description="from the mean of all readers: root mean square over labels")


class LabelSpread(BaseModel):
    """How readers divide on one label."""

    label: str
    mean: float
    deviation: float = Field(description="standard deviation of readers' scores")
    given: float = Field(description="share of readers who would give the label")
    division: float = Field(description="0 where all agree, 1 where half would give it: 4 p (1 - p)")
    deciles: list[float] = Field(description="scores at 0, 10, ... 100 % of readers")
    histogram: list[int] = Field(description="readers with a score in each twentieth of 0..1")


class PerspectivesResponse(BaseModel):
    """How everybody, or some, would see a text."""

    version: str
    labels: list[str]
    readers_total: int = Field(description="how many were asked; `readers` lists at most `at_most` of them")
    readers: list[ReaderView] = Field(description="those farthest from the mean first")
    spread: list[LabelSpread] = Field(description="one per label, the most divided first")
    everybody: Prediction = Field(description="what the global model says")


class Judgement(Wire):
    """What a user says of a text: each label they were asked, given or not."""

    text: Text
    labels: Annotated[dict[str, bool], Field(min_length=1, max_length=1_000)]


class AnnotationsRequest(Wire):
    """Judgements of one user; a text they judged before is judged anew."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"judgements": [{"text": "you are a robot", "labels": {"abusive": False}}]}]},
    )

    judgements: Annotated[list[Judgement], Field(min_length=1, max_length=1_000)]


class AnnotationsResponse(BaseModel):
    """They are on disk. `stored`: of this request; `total`: of this user."""

    stored: int
    total: int


class EnrolResponse(BaseModel):
    """What training this user came to."""

    version: str
    route: str = Field(description="the method that serves them from now on")
    helped: bool = Field(description="whether that is a model of their own")
    train_rows: int
    valid_rows: int
    gain: float | None = Field(
        description="log-loss their own model saves on their judgements kept aside, nats a row and label"
    )
    expected: float | None = Field(description="the same, shrunk toward everybody's; above 0 decides for their own")
    seconds: float
    message: str = Field(description="the same in words")


class UserResponse(BaseModel):
    """What is known of a user, and what serves them."""

    user_id: str
    known: bool = Field(description="whether the model was trained on them, or they were enrolled")
    route: str
    enrolled: bool = Field(description="whether they were trained here, after the version was published")
    train_rows: int | None = None
    valid_rows: int | None = None
    gain: float | None = None
    expected: float | None = None
    judgements: int = Field(description="kept here, for training and refreshing")


class PriorShare(BaseModel):
    """What a version's prior was learned from of an erased user: it remains until the prior is learned again."""

    version: int
    rows: int | None = Field(description="judgements of theirs; null: not recorded")
    of_rows: int = Field(description="judgements it was learned from")
    of_people: int


class ErasedResponse(BaseModel):
    """Counts, and what this erasure is called; no ids."""

    erased: bool
    judgements: int
    bundles: int
    runs: int
    priors: list[PriorShare] = Field(description="of the served model's versions; empty: nothing of theirs remains")
    record: str = Field(description="as it stands in the record of erasures, which does not say of whom")
    within_s: float = Field(
        description="seconds until every server that reaches the store has dropped the user's model"
    )


class ModelResponse(BaseModel):
    """What is served, and how good it was."""

    version: str
    labels: list[str]
    kind: str
    base: str
    users: int
    personal_method: str | None
    global_method: str
    routes: dict[str, Any]
    evaluation: dict[str, Any]
    split_hash: str
    enrolled: int
    looks_every_s: float = Field(description="how often every replica looks for another version, and who was erased")


class TextsResponse(BaseModel):
    """Texts worth judging first: readers differ most in them, and differ differently."""

    texts: list[str]
    source: str = Field(description="where they come from; empty where the server has none")


class Health(BaseModel):
    """Alive; of `/readyz` also the version that is served."""

    status: str
    version: str | None = None


class RequestProblem(BaseModel):
    """What of a request cannot be read."""

    type: str
    loc: list[str | int] = Field(description="where: body, path or query, and the way in it")
    msg: str


class Refusal(BaseModel):
    """Why a request was refused: what, where, and what to do."""

    detail: str | list[RequestProblem]
    request_id: str | None = None

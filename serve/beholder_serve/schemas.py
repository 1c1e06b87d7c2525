"""What goes over the wire."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

UserId = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=10_000, pattern=r"\S")]


class PredictRequest(BaseModel):
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


class PredictResponse(BaseModel):
    """One prediction per text, in order, and the version that made them."""

    version: str
    predictions: list[Prediction]


class Health(BaseModel):
    """Alive, and serving this version."""

    status: str
    version: str

"""What a prompt is made of: the part of an arm's settings that decides what the model reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from beholder.prompting.wording import load_wording
from beholder.util.errors import ExperimentError
from beholder.util.strict_model import Section

Block = Literal["id", "profile", "statistics", "examples"]
ORDER: tuple[Block, ...] = ("id", "profile", "statistics", "examples")
"""In which user blocks stand in a prompt."""


class PromptSettings(Section):
    """How to ask.

    Args:
        wording: a name under `prompts/wordings`, or the path of a YAML file.
        blocks: what describes the user. In an arm that is not personalised, examples are other people's, and the other
            blocks are left out.
        shots: how many examples, at most: all are judgements of training rows.
        choose: which of them: `random`, `similar` in words to the text, or `divisive`, where who judged differs most
            from everybody.
        placement: the user's blocks `before` or `after` the text. What stands first is computed once for all that
            follows.
    """

    wording: str = "plain"
    blocks: tuple[Block, ...] = ("id", "examples")
    shots: int = Field(default=0, ge=0, le=64)
    choose: Literal["random", "similar", "divisive"] = "random"
    placement: Literal["before", "after"] = "before"

    @field_validator("wording")
    @classmethod
    def _is_there(cls, name: str) -> str:
        try:
            load_wording(name)
        except ExperimentError as error:
            raise ValueError(str(error)) from error
        return name

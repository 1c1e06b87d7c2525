"""How a value in a file becomes a label: a number, or an error that names what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from beholder.data.scales import STEPS, Question, Scale
from beholder.util.strict_model import Section

ASK_AGAIN = "fetch the file again, or pass --on-bad-rows skip."
NOT_ASKED = math.nan
SKIP = "or pass --on-bad-rows skip."
MOST_POINTS = 50
"""An ordinal scale has no more steps than this."""

Rule = Callable[[Any], float]


class RefusedValueError(ValueError):
    """A value that is no label; the message states what was expected and what to do."""


def parse_column(column: pa.ChunkedArray, rule: Rule) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Apply a rule to every value of a column, once per distinct value.

    Args:
        column: any Arrow type; missing is null, NaN or empty text, and reaches the rule as None.
        rule: the number for a value; raises `RefusedValueError`.

    Returns:
        float64 [rows], NaN where not asked or refused; and for each refused row (from 0) the message.
    """
    try:
        encoded = pa.chunked_array([column.combine_chunks()]).dictionary_encode().combine_chunks()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        message = f"{_shown(column[0].as_py())} is not a label but a value of type {column.type}. Name another column."
        return np.full(len(column), NOT_ASKED), dict.fromkeys(range(len(column)), message)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    distinct = [*encoded.dictionary.to_pylist(), None]  # the last stands for null
    index = encoded.indices.fill_null(len(distinct) - 1).to_numpy(zero_copy_only=False)
    numbers = np.full(len(distinct), NOT_ASKED)
    refusals: dict[int, str] = {}
    for position in np.unique(index):
        try:
            numbers[position] = rule(present(distinct[position]))
        except RefusedValueError as refusal:
            refusals[int(position)] = str(refusal)
    refused = np.flatnonzero(np.isin(index, list(refusals)))
    return numbers[index], {int(row): refusals[int(index[row])] for row in refused}


def present(value: Any) -> Any:
    """The value, or None where nothing was written: null, NaN, empty text."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return None if isinstance(value, str) and not value.strip() else value


def number(value: Any, remedy: str) -> float:
    """The value as a number; truth values are 1 and 0.

    Raises:
        RefusedValueError: it is none.
    """
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    try:
        parsed = float(value)
    except (TypeError, ValueError):
        raise RefusedValueError(f"{_shown(value)} is not a label. {remedy}") from None
    if not math.isfinite(parsed):
        raise RefusedValueError(f"{_shown(value)} is not a label. {remedy}")
    return parsed


def one_of(allowed: range, remedy: str = ASK_AGAIN, missing: bool = False) -> Rule:
    """The rule for whole numbers in `allowed`; with `missing`, an empty value is "not asked"."""
    expected = f"{allowed[0]} or {allowed[-1]}" if len(allowed) == 2 else f"{allowed[0]} to {allowed[-1]}"

    def rule(value: Any) -> float:
        if value is None:
            if missing:
                return NOT_ASKED
            raise RefusedValueError(f"missing value. Expected {expected}; {remedy}")
        parsed = number(value, f"Expected {expected}; {remedy}")
        if parsed not in allowed:
            raise RefusedValueError(f"{_shown(value)} is not a label. Expected {expected}; {remedy}")
        return parsed

    return rule


def class_of(names: Sequence[str], remedy: str = ASK_AGAIN) -> Rule:
    """The rule for the name of a class: its position in `names`."""
    expected = f"{', '.join(names[:-1])} or {names[-1]}"

    def rule(value: Any) -> float:
        if value is None:
            raise RefusedValueError(f"missing class. Expected {expected}; {remedy}")
        if str(value).strip() not in names:
            raise RefusedValueError(f"{_shown(value)} is not a class. Expected {expected}; {remedy}")
        return names.index(str(value).strip())

    return rule


def _shown(value: Any) -> str:
    text = str(value)
    return f'"{text if len(text) <= 60 else text[:57] + "..."}"'


class LabelRule(Section):
    """How one label, or the answers on one scale, are read from the table.

    `column`: by default the label's own name. Without more, the column holds 0 and 1. `at_least` cuts a scale: 1 from
    that value up; `range` refuses values outside the scale. `values` maps what is written to a value, or null (not
    asked); of a label that is given or not to 1 or 0, and what it does not name is refused.

    `kind: ordinal`: answers are the whole numbers of `range`, or `steps`: names from lowest to highest, or numbers.
    `kind: continuous`: answers are anywhere in `range`, which predictions cut into `cuts` steps. `kind: soft`: the
    probability, between the ends of `range` (0 and 1), that the label applies: a person's confidence.
    """

    added: ClassVar[tuple[str, ...]] = ("kind", "steps", "cuts")

    kind: Literal["binary", "ordinal", "continuous", "soft"] = "binary"
    column: str | None = None
    at_least: float | None = None
    range: tuple[float, float] | None = None
    steps: tuple[str | float, ...] | None = Field(default=None, min_length=2)
    cuts: int = Field(default=STEPS, ge=2, le=100)
    values: dict[str, float | None] | None = None

    @field_validator("values", mode="before")
    @classmethod
    def _values_are_text(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        if any(isinstance(key, bool) for key in values):
            raise ValueError("YAML reads yes, no, on, off, true and false as truth values; put the value in quotes")
        return {written(key): label for key, label in values.items()}

    @model_validator(mode="after")
    def _one_way(self) -> LabelRule:
        if self.kind == "binary":
            if self.at_least is not None and self.values is not None:
                raise ValueError("at_least cuts a scale and values maps words; give one of them")
            if self.range is not None and self.at_least is None:
                raise ValueError(
                    "range is the scale, lowest value first, that at_least cuts; give both, or kind: ordinal or "
                    "continuous for a scale that is not cut"
                )
            if any(label not in (0, 1, None) for label in (self.values or {}).values()):
                raise ValueError("values maps to 0 or 1, or null; for the numbers of a scale give kind: ordinal")
        elif self.at_least is not None:
            raise ValueError(f"at_least cuts a scale into a label, and kind: {self.kind} keeps it; give one of them")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError("range has the lowest value first, and two that differ")
        if self.steps is not None and self.kind != "ordinal":
            raise ValueError("steps are the points of kind: ordinal")
        if self.kind == "ordinal" and (self.range is None) == (self.steps is None):
            raise ValueError("kind: ordinal needs range, as in [1, 5], or steps, lowest first; one of the two")
        if self.kind == "ordinal" and self.range and any(end != int(end) for end in self.range):
            raise ValueError("range of kind: ordinal has whole numbers; name other points under steps")
        if self.kind == "ordinal" and self.range and self.range[1] - self.range[0] > MOST_POINTS:
            raise ValueError(f"range has more than {MOST_POINTS} points; give kind: continuous")
        if self.steps is not None and len({isinstance(step, str) for step in self.steps}) > 1:
            raise ValueError("steps are all names or all numbers")
        if self.steps is not None and len(set(self.steps)) < len(self.steps):
            raise ValueError("steps has one twice")
        if self.kind == "continuous" and self.range is None:
            raise ValueError("kind: continuous needs range, the slider's ends, as in [0, 100]")
        return self

    def scale(self, name: str) -> Scale | None:
        """The scale it reads; None of a label."""
        if self.kind == "continuous":
            low, high = self.range or (0, 1)
            return Scale.continuous(name, low, high, self.cuts)
        if self.kind != "ordinal":
            return None
        if self.range is not None:
            return Scale(name, tuple(float(point) for point in range(int(self.range[0]), int(self.range[1]) + 1)))
        steps = self.steps or ()
        if all(isinstance(step, float | int) for step in steps):
            return Scale(name, tuple(float(step) for step in steps))
        return Scale(
            name, tuple(float(place) for place in range(len(steps))), words=tuple(written(step) for step in steps)
        )

    @classmethod
    def of(cls, question: Question) -> LabelRule:
        """The rule that reads a question of a task, from the column of its name."""
        scale = question.scale
        if scale is None:
            return cls()
        if scale.kind == "continuous":
            return cls(kind="continuous", range=(scale.points[0], scale.points[-1]), cuts=len(scale.points) - 1)
        return cls(kind="ordinal", steps=scale.words or scale.points)

    def read(self, value: Any, missing: bool) -> float:
        """The value of an answer: 0, 1, a probability, a point of the scale, or NaN (not asked).

        Raises:
            RefusedValueError: it stands for none; with `missing`, an empty value is "not asked".
        """
        if self.values is not None:
            key = written(value)
            if key in self.values:
                label = self.values[key]
                if label is None or self.kind == "binary":
                    return NOT_ASKED if label is None else float(label)
                if self.steps and isinstance(self.steps[0], str) and label in range(len(self.steps)):
                    return float(label)  # the place of a step, from 0
                return self._point(label)
            if value is not None and self.kind == "binary":
                raise RefusedValueError(
                    f'"{key}" is not a label. Expected {", ".join(self.values)}; add it under values, {SKIP}'
                )
        if value is None:
            if missing:
                return NOT_ASKED
            raise RefusedValueError(
                f"missing value. Fill it in, set source.allow_missing: true if the label was not asked, {SKIP}"
            )
        if self.kind != "binary":
            return self._point(value)
        if self.at_least is None:
            return one_of(range(2), f"map other values under source.labels, {SKIP}")(value)
        parsed = number(
            value, f"Expected a number to cut at {self.at_least:g}; map words with source.labels.*.values, {SKIP}"
        )
        self._within(parsed)
        return float(parsed >= self.at_least)

    def _point(self, value: Any) -> float:
        """A number of the scale; of a probability its place between the ends."""
        words = [written(step) for step in self.steps or ()]
        if self.steps and isinstance(self.steps[0], str):
            if written(value) not in words:
                raise RefusedValueError(
                    f'"{written(value)}" is no point of the scale. Expected {", ".join(words)}; {SKIP}'
                )
            return float(words.index(written(value)))
        expected = f"Expected {', '.join(words)}" if words else f"Expected a number from {self._ends}"
        parsed = number(value, f"{expected}; map other values with source.labels.*.values, {SKIP}")
        if self.kind == "soft":
            low, high = self.range or (0.0, 1.0)
            self._within(parsed)
            return (parsed - low) / (high - low)
        points = [step for step in self.steps or () if isinstance(step, float | int)]
        if self.steps is not None and parsed not in points:
            raise RefusedValueError(f"{parsed:g} is no point of the scale. {expected}; fix it, {SKIP}")
        if self.range is not None:
            self._within(parsed)
            if self.kind == "ordinal" and parsed != int(parsed):
                raise RefusedValueError(f"{parsed:g} lies between two points. Fix it, give kind: continuous, {SKIP}")
        return parsed

    @property
    def _ends(self) -> str:
        low, high = self.range or (0.0, 1.0)
        return f"{low:g} to {high:g}"

    def _within(self, parsed: float) -> None:
        low, high = self.range or ((0.0, 1.0) if self.kind == "soft" else (-math.inf, math.inf))
        if not low <= parsed <= high:
            raise RefusedValueError(
                f"{parsed:g} is outside the scale {low:g} to {high:g}. Fix it or source.labels.*.range, {SKIP}"
            )


class ShareRule(LabelRule):
    """The same for a table in memory, where a label may also be a share: how many of somebody's judgements gave it."""

    def read(self, value: Any, missing: bool) -> float:
        """See `LabelRule.read`; a number between 0 and 1 is taken as it is."""
        if value is None or self.values is not None or self.at_least is not None or self.kind != "binary":
            return super().read(value, missing)
        remedy = f"Expected 0 or 1, or a share between them; map other values under source.labels, {SKIP}"
        parsed = number(value, remedy)
        if not 0 <= parsed <= 1:
            raise RefusedValueError(f"{parsed:g} is not a label. {remedy}")
        return parsed


def written(value: Any) -> str:
    """A value as one would write it: truth values in lower case, whole numbers without a point, nothing as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()

"""Which columns of a table hold what, and how their values become annotations.

The same for a file (`datasets.table`) and for a table that is in memory (`data.conversions`): what one refuses, the
other refuses, in the same words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from beholder.data.label_rules import NOT_ASKED, RefusedValueError, number, one_of, parse_column, present
from beholder.data.scales import STEPS, Question, Scale
from beholder.data.task import Task
from beholder.data.validation import Raw, UncheckedRows
from beholder.util.errors import DataError, unknown
from beholder.util.strict_model import Section

SKIP = "or pass --on-bad-rows skip."
MOST_POINTS = 50
"""An ordinal scale has no more steps than this."""


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
        return {_written(key): label for key, label in values.items()}

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
                raise ValueError("values maps to 1, 0 or null; for the numbers of a scale give kind: ordinal")
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
            name, tuple(float(place) for place in range(len(steps))), words=tuple(_written(step) for step in steps)
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
            key = _written(value)
            if key in self.values:
                label = self.values[key]
                return NOT_ASKED if label is None else float(label)
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
        words = [_written(step) for step in self.steps or ()]
        if _written(value) in words and not all(isinstance(step, float | int) for step in self.steps or ()):
            return float(words.index(_written(value)))
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


class Columns(Section):
    """Which columns hold what.

    Args:
        text, user: the columns of the text and of who judged it. Ids are taken exactly as written.
        text_id: the column of the text's id; made from the normalised text where None.
        labels: for `multilabel`: column names (0/1), or label -> `LabelRule`. For `soft`: class -> the column of its
            probability; those of a row add up to one.
        label_column: for `multiclass`: the one column that holds the class's name.
        classes: for `multiclass`: the class names, in order; by default all that occur, sorted.
        allow_missing: read an empty label as "not asked" instead of refusing the row (multilabel only).
        context: further columns to keep, as text.
    """

    text: str = "text"
    user: str = "user_id"
    text_id: str | None = None
    kind: Literal["multilabel", "multiclass", "soft"] = "multilabel"
    labels: dict[str, LabelRule] = Field(default_factory=dict)
    label_column: str | None = None
    classes: tuple[str, ...] | None = Field(default=None, min_length=2)
    allow_missing: bool = False
    context: tuple[str, ...] = ()

    @field_validator("labels", mode="before")
    @classmethod
    def _names_are_rules(cls, labels: Any) -> Any:
        if isinstance(labels, list | tuple):
            twice = [label for label in labels if labels.count(label) > 1]
            if twice:
                raise ValueError(f"label {twice[0]!r} is named twice")
            return {label: {} for label in labels}
        if isinstance(labels, Mapping):
            return {label: {} if rule is None else rule for label, rule in labels.items()}
        return labels

    @field_validator("context")
    @classmethod
    def _context_names_are_free(cls, context: tuple[str, ...]) -> tuple[str, ...]:
        for column in context:
            if column in ("text_id", "text", "user_id", "labels"):
                raise ValueError(f"{column!r} is a name beholder uses itself; rename that column in the table")
        return context

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Columns:
        if self.kind != "multiclass":
            if not self.labels:
                raise ValueError("labels: name at least one label column")
            if self.kind == "soft":
                if len(self.labels) < 2:
                    raise ValueError(
                        "kind: soft needs the columns of two or more classes; of one label, give it kind: soft"
                    )
                if self.allow_missing or any(rule.kind not in ("binary", "soft") for rule in self.labels.values()):
                    raise ValueError("kind: soft has the probability of a class in each column, and none is missing")
                for name, rule in self.labels.items():
                    self.labels[name] = rule.model_copy(update={"kind": "soft"})
            if self.label_column is not None or self.classes is not None:
                raise ValueError("label_column and classes are for kind: multiclass")
        else:
            if self.label_column is None:
                raise ValueError("kind: multiclass needs label_column, the column that holds the class")
            if self.labels or self.allow_missing:
                raise ValueError("labels and allow_missing are for kind: multilabel")
        return self

    @property
    def named(self) -> list[tuple[str, str]]:
        """(key, column) for every column these settings name."""
        wanted = [("text", self.text), ("user", self.user), ("text_id", self.text_id)]
        wanted += [(f"labels.{name}", rule.column or name) for name, rule in self.labels.items()]
        wanted += [("label_column", self.label_column), *(("context", column) for column in self.context)]
        return [(key, column) for key, column in wanted if column is not None]


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


class ColumnsInMemory(Columns):
    """The same for a table in memory."""

    labels: dict[str, ShareRule] = Field(default_factory=dict)  # type: ignore[assignment]


def drafted(config: Columns, raw: Raw) -> UncheckedRows:
    """Parse the columns of a table; what is no label or id is noted in `raw`, for `validation.admit` to refuse.

    Raises:
        DataError: a column is of a type that cannot hold what it should.
    """
    task, labels = _READ[config.kind](config, raw)
    rows = np.flatnonzero(raw.sound)
    column_of = {name: rule.column or name for name, rule in config.labels.items()}
    column_of |= {"text": config.text, "user_id": config.user, "text_id": config.text_id or config.text}
    return UncheckedRows(
        raw,
        task,
        rows,
        text=as_text(raw, config.text)[rows],
        user_id=_ids(raw, config.user, "user")[rows],
        labels=labels[rows].astype(np.float32),
        text_id=_ids(raw, config.text_id, "text_id")[rows] if config.text_id is not None else None,
        context={column: as_text(raw, column)[rows] for column in config.context},
        column_of=column_of,
    )


def _labels(config: Columns, raw: Raw) -> tuple[Task, NDArray[np.float64]]:
    """Labels that are given or not, and scales: float64 [rows, labels]."""
    questions: list[str | Scale] = []
    pieces: list[NDArray[np.float64]] = []
    for name, rule in config.labels.items():
        answers = raw.numbers(rule.column or name, lambda value, rule=rule: rule.read(value, config.allow_missing))
        scale = rule.scale(name)
        questions.append(scale or name)
        pieces.append(scale.encode(answers) if scale else answers[:, None])
    return Task.of(questions), np.concatenate(pieces, axis=1)


def _shares(config: Columns, raw: Raw) -> tuple[Task, NDArray[np.float64]]:
    """Probabilities of classes, which add up to one: float64 [rows, classes]."""
    columns = [
        raw.numbers(rule.column or name, lambda value, rule=rule: rule.read(value, False))
        for name, rule in config.labels.items()
    ]
    return Task(tuple(config.labels), "multiclass"), np.column_stack(columns)


def _classes(config: Columns, raw: Raw) -> tuple[Task, NDArray[np.float64]]:
    """Classes, of which each row has one: float64 [rows, classes]."""
    column = config.label_column or ""
    written = [_written(value) if present(value) is not None else None for value in raw.table[column].to_pylist()]
    names = config.classes or tuple(sorted({name for name in written if name is not None}))
    if len(names) < 2:
        raise DataError(
            f'{raw.files[0][0]}, column "{column}": only one class ({", ".join(names)}). Two or more are needed.'
        )
    position = {name: place for place, name in enumerate(names)}

    def rule(value: Any) -> float:
        if value is None:
            raise RefusedValueError(f"missing value. Fill in the class, {SKIP}")
        if _written(value) not in position:
            raise RefusedValueError(f"{unknown('class', _written(value), names)} Fix it or source.classes, {SKIP}")
        return position[_written(value)]

    place, refused = parse_column(raw.table[column], rule)
    for row, message in refused.items():
        raw.problems.setdefault(row, (column, message))
    one_hot = (place[:, None] == np.arange(len(names))).astype(np.float64)
    return Task(tuple(names), "multiclass"), one_hot


_READ = {"multilabel": _labels, "multiclass": _classes, "soft": _shares}


def _ids(raw: Raw, column: str, key: str) -> NDArray[np.object_]:
    """A column of ids as text. Decimal numbers are no ids: pandas makes them of whole numbers with gaps."""
    if pa.types.is_floating(raw.table[column].type):
        raise DataError(
            f'{raw.files[0][0]}, column "{column}": holds decimal numbers, so an id 1 would become "1.0". '
            f"Save it as text or whole numbers, or name another column under source.{key}."
        )
    return as_text(raw, column)


def as_text(raw: Raw, column: str) -> NDArray[np.object_]:
    try:
        return raw.strings(column)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        kind = raw.table[column].type
        raise DataError(
            f'{raw.files[0][0]}, column "{column}": holds {kind}, not text. Name another column.'
        ) from error


def _written(value: Any) -> str:
    """A value as one would write it: truth values in lower case, whole numbers without a point, nothing as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()

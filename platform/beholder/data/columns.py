"""Which columns of a table hold what, and how their values become annotations.

The same for a file (`datasets.table`) and for a table that is in memory (`data.conversions`): what one refuses, the
other refuses, in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from beholder.data.annotations import UNIT
from beholder.data.label_rules import SKIP, LabelRule, RefusedValueError, ShareRule, parse_column, present, written
from beholder.data.scales import Scale
from beholder.data.task import Task
from beholder.data.texts import SEPARATOR
from beholder.data.validation import Raw, UncheckedRows
from beholder.util.errors import DataError, unknown
from beholder.util.strict_model import Section


class Columns(Section):
    """Which columns hold what.

    Args:
        text, user: the columns of the text and of who judged it. Ids are taken exactly as written. `text` may be a
            template over columns, as in "{post} [SEP] {reply}": what stands after the last [SEP] is judged, and what
            stands before is its context, which the base reads as a segment of its own.
        unit: the column by which texts are split, and intervals drawn, in place of the text: a conversation, a post.
        text_id: the column of the text's id; made from the normalised text where None.
        labels: for `multilabel`: column names (0/1), or label -> `LabelRule`. For `soft`: class -> the column of its
            probability; those of a row add up to one.
        label_column: for `multiclass`: the one column that holds the class's name.
        classes: for `multiclass`: the class names, in order; by default all that occur, sorted.
        allow_missing: read an empty label as "not asked" instead of refusing the row (multilabel only).
        context: further columns to keep, as text.
    """

    added: ClassVar[tuple[str, ...]] = ("unit",)

    text: str = "text"
    user: str = "user_id"
    unit: str | None = None
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
        wanted: list[tuple[str, str | None]] = [("text", column) for column in text_columns(self.text)]
        wanted += [("user", self.user), ("text_id", self.text_id), ("unit", self.unit)]
        wanted += [(f"labels.{name}", rule.column or name) for name, rule in self.labels.items()]
        wanted += [("label_column", self.label_column), *(("context", column) for column in self.context)]
        return [(key, column) for key, column in wanted if column is not None]


class ColumnsInMemory(Columns):
    """The same for a table in memory."""

    labels: dict[str, ShareRule] = Field(default_factory=dict)  # type: ignore[assignment]


def drafted(config: Columns, raw: Raw) -> UncheckedRows:
    """Parse the columns of a table; what is no label or id is noted in `raw`, for `validation.admit` to refuse.

    Raises:
        DataError: a column is of a type that cannot hold what it should.
    """
    task, labels = _READ[config.kind](config, raw)
    texts = _texts(raw, config.text)
    if config.unit is not None:
        for row in (row for row, value in enumerate(as_text(raw, config.unit)) if not (value or "").strip()):
            raw.problems.setdefault(row, (config.unit, f"empty, and rows are split by it. Fill it in, {SKIP}"))
    rows = np.flatnonzero(raw.sound)
    column_of = {name: rule.column or name for name, rule in config.labels.items()}
    column_of |= {"text": config.text, "user_id": config.user, "text_id": config.text_id or config.text}
    return UncheckedRows(
        raw,
        task,
        rows,
        text=texts[rows],
        user_id=_ids(raw, config.user, "user")[rows],
        labels=labels[rows].astype(np.float32),
        text_id=_ids(raw, config.text_id, "text_id")[rows] if config.text_id is not None else None,
        context={column: as_text(raw, column)[rows] for column in config.context} | _units(config, raw, rows),
        column_of=column_of,
    )


def text_columns(template: str) -> list[str]:
    """The columns that a template names, or the column that it is.

    Raises:
        DataError: the template is not well formed.
    """
    if "{" not in template:
        return [template]
    return list(dict.fromkeys(name for segment in _segments(template) for _, name in segment if name))


def _segments(template: str) -> list[list[tuple[str, str | None]]]:
    """A template in its segments, each of (text, the column after it)."""
    how = "Write it as in {post} [SEP] {reply}."
    found = []
    for segment in template.split(SEPARATOR.strip()):
        try:
            parts = list(Formatter().parse(segment.strip()))
        except ValueError as error:
            raise DataError(f"source.text: {error}. {how}") from None
        if any(conversion or spec for _, _, spec, conversion in parts):
            raise DataError(f"source.text: a column is named without ! and : behind it. {how}")
        names = [name for _, name, _, _ in parts if name is not None]
        if not names or not all(names):
            raise DataError(f"source.text: each part names a column in braces. {how}")
        found.append([(text, name) for text, name, _, _ in parts])
    return found


def _texts(raw: Raw, template: str) -> NDArray[np.object_]:
    """The texts of a column, or of a template over several: str [rows].

    Context whose columns are all empty is left out, as of a post that answers none; the judged segment cannot be empty.
    A separator within a column is no separator.
    """
    if "{" not in template:
        return as_text(raw, template)
    segments = _segments(template)
    columns = {name: as_text(raw, name) for name in text_columns(template)}
    found = np.full(raw.table.num_rows, None, dtype=object)
    for row in range(len(found)):
        values = {name: (column[row] or "").replace(SEPARATOR.strip(), " ").strip() for name, column in columns.items()}
        empty = [name for _, name in segments[-1] if name and not values[name]]
        if empty:
            raw.problems.setdefault(row, (empty[0], f"empty, and source.text needs it. Fill it in, {SKIP}"))
            continue
        kept = [each for each in segments if any(name and values[name] for _, name in each)]
        said = ("".join(text + (values[name] if name else "") for text, name in each) for each in kept)
        found[row] = SEPARATOR.join(said)
    return found


def _units(config: Columns, raw: Raw, rows: NDArray[np.integer]) -> dict[str, NDArray[np.object_]]:
    """The column by which texts count as one, where another than the text is named."""
    return {} if config.unit is None else {UNIT: as_text(raw, config.unit)[rows]}


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
    given = [written(value) if present(value) is not None else None for value in raw.table[column].to_pylist()]
    names = config.classes or tuple(sorted({name for name in given if name is not None}))
    if len(names) < 2:
        raise DataError(
            f'{raw.files[0][0]}, column "{column}": only one class ({", ".join(names)}). Two or more are needed.'
        )
    position = {name: place for place, name in enumerate(names)}

    def rule(value: Any) -> float:
        if value is None:
            raise RefusedValueError(f"missing value. Fill in the class, {SKIP}")
        if written(value) not in position:
            raise RefusedValueError(f"{unknown('class', written(value), names)} Fix it or source.classes, {SKIP}")
        return position[written(value)]

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

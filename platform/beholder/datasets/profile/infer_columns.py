"""What the columns of somebody's table are likely to hold: text, user, labels. Guesses, to be looked at by a person."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beholder.data.label_rules import present
from beholder.util.errors import DataError

TEXT = re.compile(
    r"(^|[^a-z])(text|comment|sentence|tweet|post|body|content|utterance|message|review|document|title)s?($|[^a-z])",
    re.I,
)
USER = re.compile(
    r"annotator|rater|coder|judge\b|judge_|labell?er|worker|assessor|participant|respondent|subject|reader|reviewer"
    r"|turker|user|person|who",
    re.I,
)
CLASS = re.compile(r"label|class|emotion|sentiment|category|answer|stance|opinion", re.I)
PARTS = {"train", "training", "valid", "validation", "val", "dev", "test"}
NUMBERED = re.compile(r"^(.*?)[ _.\-]*(\d+|[A-Za-z])$")
WORDS = {"yes": 1, "no": 0, "true": 1, "false": 0, "y": 1, "n": 0, "t": 1, "f": 0, "positive": 1, "negative": 0}
MOST_CLASSES = 30
MOST_GROUPS = 12
MOST_STEPS = 11
"""A scale has no more steps than this."""
SAMPLE = 200_000
"""Rows that are looked at to know what a column holds."""


@dataclass(frozen=True)
class Column:
    """A column, as far as it was looked at. `cells`: its values as text, None where empty."""

    name: str
    cells: NDArray[np.object_]

    @cached_property
    def filled(self) -> NDArray[np.object_]:
        """The cells that are not empty."""
        return self.cells[[cell is not None for cell in self.cells]] if len(self.cells) else self.cells

    @cached_property
    def values(self) -> set[str]:
        """Distinct values."""
        return set(self.filled.tolist())

    @property
    def missing(self) -> bool:
        """Whether a cell is empty."""
        return len(self.filled) < len(self.cells)

    @cached_property
    def numbers(self) -> set[float] | None:
        """Its values as numbers, if all of them are."""
        try:
            found = {float(value) for value in self.values}
        except ValueError:
            return None
        return found if found and all(np.isfinite(list(found))) else None

    @property
    def length(self) -> float:
        """Mean number of characters."""
        return float(np.mean([len(value) for value in self.filled])) if len(self.filled) else 0.0

    @property
    def words(self) -> float:
        """Mean number of words of its values."""
        return float(np.mean([len(value.split()) for value in self.values])) if self.values else 0.0

    @property
    def binary(self) -> bool:
        """Zeros and ones."""
        return self.numbers is not None and self.numbers <= {0.0, 1.0}

    @property
    def worded(self) -> bool:
        """Two words that mean yes and no."""
        words = {value.strip().lower() for value in self.values}
        return len(words) == 2 and {WORDS.get(word) for word in words} == {0, 1}

    @property
    def scale(self) -> tuple[int, int] | None:
        """The lowest and highest step of a scale of whole numbers."""
        steps = self.numbers
        if steps is None or self.binary or not 3 <= len(steps) <= MOST_STEPS:
            return None
        if not all(step.is_integer() for step in steps):
            return None
        low, high = int(min(steps)), int(max(steps))
        return (low, high) if high - low < MOST_STEPS else None

    @property
    def is_label(self) -> bool:
        """Whether a judgement could be read from it."""
        return self.binary or self.worded or self.scale is not None


@dataclass(frozen=True)
class Guess:
    """Which columns hold what, as settings of the source `table`, and why some were left out."""

    settings: dict[str, Any]
    split: bool
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GivenColumns:
    """Columns named by the caller; None where they are to be guessed."""

    text: str | None = None
    user: str | None = None
    labels: tuple[str, ...] | None = None


def look_at(table: pa.Table) -> dict[str, Column]:
    """The columns of a table, looked at on the first rows; those of other than plain values are passed over."""
    found = {}
    for name in table.column_names:
        kind = table[name].type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind):
            continue
        cells = [present(value) for value in table[name].slice(0, SAMPLE).to_pylist()]
        found[name] = Column(name, np.asarray([None if cell is None else _text(cell) for cell in cells], dtype=object))
    return found


def guess(columns: dict[str, Column], asked: GivenColumns, where: Path) -> Guess:
    """Say which column is what.

    Args:
        columns: of the table, with one row per judgement.
        asked: what is known already.
        where: the file, for messages.

    Raises:
        DataError: no column can be the text, the user or a label; lists the columns and how to name one.
    """
    text = _named(columns, asked.text, "text", where) or _text_column(columns, where)
    user = _named(columns, asked.user, "user", where) or _user_column(columns, text, where)
    if len(user.values) < 2:
        raise DataError(f'{where}: "{user.name}" names one person only. Personalisation compares people: give more.')
    rest = [column for column in columns.values() if column.name not in (text.name, user.name)]
    split = next(
        (each for each in rest if {value.lower() for value in each.values} <= PARTS and _all_parts(each)), None
    )
    left_out: dict[str, str] = {}
    context: list[str] = []
    candidates: list[Column] = []
    for column in rest:
        if column is split:
            continue
        if asked.labels is not None and column.name in asked.labels:
            candidates.append(column)
        elif not column.values:
            left_out[column.name] = "empty"
        elif _told_by(column, user):
            left_out[column.name] = "follows from the user"
        elif _told_by(column, text):
            left_out[column.name] = "follows from the text"
        elif asked.labels is None:
            candidates.append(column)
    settings: dict[str, Any] = {"text": text.name, "user": user.name}
    settings |= _labels(candidates, asked, left_out, where)
    for name in left_out:
        if 2 <= len(columns[name].values) <= MOST_GROUPS and name not in ("text_id", "labels", "user_id"):
            context.append(name)
            left_out[name] += "; kept, to compare groups in the report"
    if context:
        settings["context"] = context
    if split is not None:
        settings["split_column"] = split.name
    pairs = set(zip(text.cells.tolist(), user.cells.tolist(), strict=True))
    if len(pairs) < len(text.cells):
        settings["repeats"] = "keep"
    return Guess(settings, split is not None, left_out)


def wide_columns(columns: dict[str, Column]) -> list[str]:
    """Columns that are one for each annotator (`rater1`, `rater2`, ...), of a table with one row per text; or none."""
    if any(USER.search(column.name) and _reused(column) and not column.is_label for column in columns.values()):
        return []
    families: dict[str, list[Column]] = {}
    for column in columns.values():
        match = NUMBERED.match(column.name)
        if match and column.values and (column.is_label or len(column.values) <= MOST_CLASSES):
            families.setdefault(match.group(1).lower(), []).append(column)
    best = max(families.values(), key=len, default=[])
    values = set().union(*(column.values for column in best)) if best else set()
    alike = all(len(column.values) >= 0.5 * len(values) for column in best)
    return [column.name for column in best] if len(best) >= 3 and len(values) <= MOST_CLASSES and alike else []


def _named(columns: dict[str, Column], name: str | None, role: str, where: Path) -> Column | None:
    if name is None:
        return None
    if name not in columns:
        raise DataError(f"{where}: no column {name!r} for --{role}. It has: {', '.join(columns)}.")
    return columns[name]


def _text_column(columns: dict[str, Column], where: Path) -> Column:
    usable = [each for each in columns.values() if each.numbers is None and each.length >= 4 and len(each.values) > 2]
    if not usable:
        raise DataError(f"{where}: no column looks like text. Name it: --text COLUMN. It has: {', '.join(columns)}.")

    def like_text(column: Column) -> float:
        """Many different values, rather long, of several words: ids have no spaces, contexts recur."""
        words = np.mean([" " in value or not value.isascii() for value in list(column.values)[:1_000]])
        named = 3 if TEXT.search(column.name) else 1
        return named * len(column.values) * column.length**0.5 * (1 if words > 0.1 else 0.2)

    return max(usable, key=like_text)


def _user_column(columns: dict[str, Column], text: Column, where: Path) -> Column:
    usable = [
        each
        for each in columns.values()
        if each is not text and _reused(each) and each.words < 2.5 and not _told_by(each, text) and not each.binary
    ]
    named = [each for each in usable if USER.search(each.name)]
    if named:
        return max(named, key=lambda each: (len(USER.findall(each.name)), len(each.values)))
    others = [each for each in usable if not each.is_label and not CLASS.search(each.name)]
    ids = [each for each in others if re.search(r"id$|_id|^id", each.name, re.I)]
    for found in (ids, others):
        if len(found) == 1:
            return found[0]
    lonely = [each for each in columns.values() if USER.search(each.name) and len(each.values) == 1]
    if lonely:
        return lonely[0]  # refused where users are counted, with a better message
    alone = [each for each in columns.values() if USER.search(each.name) and each is not text and not each.is_label]
    if alone:
        raise DataError(
            f'{where}: "{alone[0].name}" names another person in almost every row. From one judgement nothing is to be '
            "learned of anybody: give more of each, or name another column: --user COLUMN."
        )
    raise DataError(
        f"{where}: no column identifies the user. Name it: --user COLUMN. It has: {', '.join(columns)}. "
        "Without one there is nothing to personalise."
    )


def _labels(candidates: list[Column], asked: GivenColumns, left_out: dict[str, str], where: Path) -> dict[str, Any]:
    """The labels among some columns, as settings."""
    missing = [name for name in asked.labels or () if name not in {column.name for column in candidates}]
    if missing:
        raise DataError(f"{where}: no column {missing[0]!r} for --labels.")
    labels = [column for column in candidates if column.is_label]
    if labels:
        left_out |= {column.name: "neither 0 and 1 nor a scale" for column in candidates if column not in labels}
        settings: dict[str, Any] = {"labels": {column.name: _rule(column) for column in labels}}
        return settings | ({"allow_missing": True} if any(column.missing for column in labels) else {})
    classes = [column for column in candidates if 2 <= len(column.values) <= MOST_CLASSES and _reused(column)]
    if not classes:
        raise DataError(
            f"{where}: no column holds judgements: 0 and 1, yes and no, steps of a scale, or at most {MOST_CLASSES} "
            "classes, given otherwise by different people. Name them: --labels A,B."
        )
    chosen = max(classes, key=lambda each: (bool(CLASS.search(each.name)), -len(each.values)))
    left_out |= {column.name: "not the column of classes" for column in candidates if column is not chosen}
    return {"kind": "multiclass", "label_column": chosen.name}


def _rule(column: Column) -> dict[str, Any]:
    """How a label is read; see `label_rules.LabelRule`."""
    if column.binary:
        return {}
    if column.worded:
        return {"values": {value: WORDS[value.strip().lower()] for value in sorted(column.values)}}
    low, high = column.scale or (0, 1)
    return {"at_least": 1 if low == 0 else low + (high - low) // 2 + 1, "range": [low, high]}


def _reused(column: Column) -> bool:
    """Whether values come more than once."""
    return 1 <= len(column.values) <= 0.7 * len(column.filled)


def _told_by(column: Column, other: Column) -> bool:
    """Whether one column follows from another whose values come again, as an age does from a person."""
    pairs = {pair for pair in zip(other.cells.tolist(), column.cells.tolist(), strict=True) if None not in pair}
    known = {value for value, _ in pairs}
    return len(pairs) == len(known) and len(known) <= 0.7 * len(column.filled)


def _all_parts(column: Column) -> bool:
    words = {value.lower() for value in column.values}
    return (
        "test" in words and bool(words & {"train", "training"}) and bool(words & {"valid", "validation", "val", "dev"})
    )


def _text(cell: Any) -> str:
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)

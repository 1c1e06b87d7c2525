"""A column of somebody's table, looked at: its values, how often they come again, what follows from what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beholder.data.label_rules import present

SAMPLE = 200_000
"""Rows that are looked at to know what a column holds."""
RECURS = 0.7
"""Values come again where there are at most this many distinct ones for each filled cell."""


@dataclass(frozen=True)
class Column:
    """A column, as far as it was looked at.

    Attributes:
        name: as in the table.
        cells: its values as text, None where empty: object [rows].
        nested: `list`, `struct` or `binary`, where its cells are no plain values; lists are written as JSON.
    """

    name: str
    cells: NDArray[np.object_]
    nested: str | None = None

    @cached_property
    def filled(self) -> NDArray[np.object_]:
        """The cells that are not empty."""
        return self.cells[self.codes >= 0]

    @cached_property
    def _encoded(self) -> tuple[list[str], NDArray[np.int64]]:
        place: dict[str, int] = {}
        codes = [-1 if cell is None else place.setdefault(cell, len(place)) for cell in self.cells]
        return list(place), np.asarray(codes, dtype=np.int64)

    @property
    def distinct(self) -> list[str]:
        """Distinct values, in order of first appearance."""
        return self._encoded[0]

    @property
    def codes(self) -> NDArray[np.int64]:
        """For each row the position of its value in `distinct`, -1 where empty."""
        return self._encoded[1]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How often each of `distinct` occurs."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.distinct))

    @cached_property
    def values(self) -> set[str]:
        """Distinct values."""
        return set(self.distinct)

    @property
    def missing(self) -> int:
        """How many cells are empty."""
        return int((self.codes < 0).sum())

    @cached_property
    def as_numbers(self) -> NDArray[np.float64]:
        """`distinct` as numbers, NaN where one is none."""
        return np.asarray([_number(value) for value in self.distinct], dtype=np.float64)

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return bool(len(self.distinct)) and not np.isnan(self.as_numbers).any()

    @cached_property
    def length(self) -> float:
        """Mean number of characters of its distinct values."""
        return float(np.mean([len(value) for value in self.distinct[:2_000]])) if self.distinct else 0.0

    @cached_property
    def words(self) -> float:
        """Mean number of words of its distinct values."""
        return float(np.mean([len(value.split()) for value in self.distinct[:2_000]])) if self.distinct else 0.0

    @property
    def recurs(self) -> bool:
        """Whether values come more than once, as those of people and of answers do."""
        return 1 <= len(self.distinct) <= RECURS * len(self.filled)

    def rows_of(self, values: set[str]) -> NDArray[np.int64]:
        """The rows (from 0) of some values."""
        wanted = [place for place, value in enumerate(self.distinct) if value in values]
        return np.flatnonzero(np.isin(self.codes, wanted))


def look_at(table: pa.Table) -> dict[str, Column]:
    """The columns of a table, looked at on the first rows."""
    found = {}
    for name in table.column_names:
        kind = table[name].type
        nested = _nested(kind)
        cells = (
            [_text(present(value)) for value in table[name].slice(0, SAMPLE).to_pylist()] if nested != "binary" else []
        )
        cells = cells or [None] * min(SAMPLE, table.num_rows)
        found[name] = Column(name, np.asarray([*cells, None], dtype=object)[:-1], nested)
    return found


def follows(column: Column, other: Column) -> bool:
    """Whether one column follows from another whose values come again, as an age does from a person."""
    both = (column.codes >= 0) & (other.codes >= 0)
    if not both.any():
        return False
    ours, theirs = column.codes[both], other.codes[both]
    pairs = len(np.unique(theirs * (len(column.distinct) + 1) + ours))
    known = len(np.unique(theirs))
    return pairs == known and known <= RECURS * len(column.filled)


def pairs_recur(first: Column, second: Column) -> int:
    """How many rows repeat a pair of values of an earlier row, where neither is empty."""
    both = (first.codes >= 0) & (second.codes >= 0)
    pairs = first.codes[both] * (len(second.distinct) + 1) + second.codes[both]
    return len(pairs) - len(np.unique(pairs))


def others_of(first: Column, second: Column) -> float:
    """The mean number of distinct values of `second` that a value of `first` comes with."""
    both = (first.codes >= 0) & (second.codes >= 0)
    if not both.any():
        return 0.0
    pairs = np.unique(first.codes[both] * (len(second.distinct) + 1) + second.codes[both])
    return len(pairs) / max(1, len(np.unique(first.codes[both])))


def named(columns: Sequence[Column]) -> str:
    """Names of columns for messages."""
    return ", ".join(column.name for column in columns)


def _nested(kind: pa.DataType) -> str | None:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return "list"
    if pa.types.is_nested(kind):
        return "struct"
    return "binary" if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else None


def _number(value: str) -> float:
    try:
        found = float(value)
    except ValueError:
        return np.nan
    return found if np.isfinite(found) and "_" not in value else np.nan


def _text(cell: Any) -> str | None:
    if cell is None:
        return None
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, list | dict):
        return json.dumps(cell, ensure_ascii=False, default=str)
    return str(cell).strip()

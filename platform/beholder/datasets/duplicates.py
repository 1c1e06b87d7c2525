"""Rows that are there twice, rows without anything, and judgements given twice: the same user, the same text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beholder.data.label_rules import present
from beholder.data.validation import Raw


@dataclass(frozen=True)
class Surplus:
    """Rows of a table that add nothing. `blank`, `repeated`: bool [rows]; `repeated` are equal to an earlier row."""

    blank: NDArray[np.bool_]
    repeated: NDArray[np.bool_]

    @property
    def kept(self) -> NDArray[np.int64]:
        """The other rows, from 0: int64 [some]."""
        return np.flatnonzero(~(self.blank | self.repeated))

    @property
    def left_out(self) -> dict[str, int]:
        """Why rows are left out -> how many."""
        found = {"nothing in the row": int(self.blank.sum()), "equal to an earlier row": int(self.repeated.sum())}
        return {why: count for why, count in found.items() if count}


def surplus(table: pa.Table, text: str | None = None) -> Surplus:
    """Find the rows in which every cell is empty, and those equal to an earlier row in every column.

    Args:
        table: as in the file.
        text: the column of the text. Rows without one are no judgements given twice; they are refused, each by itself.
    """
    blank = np.ones(table.num_rows, dtype=bool)
    group = np.zeros(table.num_rows, dtype=np.int64)
    distinct = 1
    for column in table.columns:
        codes, empty = _codes(column)
        blank &= empty
        if distinct < table.num_rows:  # while two rows may still be equal
            values, group = np.unique(group * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)
            distinct = len(values)
    first = np.full(max(distinct, 1), table.num_rows, dtype=np.int64)
    np.minimum.at(first, group, np.arange(table.num_rows))
    repeated = ~blank & (first[group] != np.arange(table.num_rows))
    if text in table.column_names:
        repeated &= ~_codes(table[text])[1]
    return Surplus(blank, repeated)


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Equal numbers for equal cells, and which are empty."""
    position: dict[str, int] = {}
    try:
        encoded: Any = pa.chunked_array([column.combine_chunks()]).dictionary_encode().combine_chunks()
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
        values = [*encoded.dictionary.to_pylist(), None]
        index = encoded.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False).astype(np.int64)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # lists
        values = column.to_pylist()
        index = np.arange(len(values))
    codes = [position.setdefault(repr(present(value)), len(position)) for value in values]
    empty = [present(value) is None for value in values]
    return np.asarray(codes, dtype=np.int64)[index], np.asarray(empty, dtype=bool)[index]


def without_repeats(rows: NDArray[np.integer], raw: Raw, text: str, user: str) -> tuple[NDArray[np.integer], int]:
    """Keep the first judgement of each (text, user), in file order.

    Args:
        rows: rows of `raw` to look at.
        raw: the file's rows.
        text, user: the columns of their ids. A row without one stays, for validation to refuse.

    Returns:
        The rows kept, and how many were left out.
    """
    texts, users = raw.strings(text), raw.strings(user)
    seen: set[tuple[Any, Any]] = set()
    first = np.ones(len(rows), dtype=bool)
    for place, row in enumerate(rows):
        key = (texts[row], users[row])
        if all(key):
            first[place] = key not in seen
            seen.add(key)
    return rows[first], int((~first).sum())


def repeat_numbers(text_ids: NDArray[np.object_], users: NDArray[np.object_]) -> NDArray[np.int64]:
    """1 for the first judgement of a text by a user, 2 for the second, and so on: int64 [rows]."""
    seen: dict[tuple[str, str], int] = {}
    numbers = np.empty(len(text_ids), dtype=np.int64)
    for row, key in enumerate(zip(text_ids, users, strict=True)):
        numbers[row] = seen[key] = seen.get(key, 0) + 1
    return numbers


def with_repeat_number(text_ids: NDArray[np.object_], users: NDArray[np.object_]) -> NDArray[np.object_]:
    """Ids under which every repeat is a judgement of its own: `c7`, `c7#2`, ..."""
    numbers = repeat_numbers(text_ids, users)
    return np.asarray([f"{text}#{n}" if n > 1 else text for text, n in zip(text_ids, numbers, strict=True)], object)

"""Rows as they stand in one or several files, and which file and row each is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beholder.data.label_rules import present
from beholder.datasets.json_rows import Record, table_of
from beholder.util.errors import DataError, first_line


@dataclass(frozen=True)
class FileRows:
    """Rows of one or several files of the same columns.

    Attributes:
        written: the rows: a table, or the objects of JSON files.
        files: each file and its number of rows, in order.
        problems: row (from 0) -> column and what is wrong there, for rows that no table can hold as they are.
        stands: int64 [rows], the row of the files together (from 0) that each row comes from, where they were turned;
            None where they are the rows of the files.
    """

    written: pa.Table | list[Record]
    files: tuple[tuple[Path, int], ...]
    problems: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    stands: NDArray[np.int64] | None = None

    @cached_property
    def table(self) -> pa.Table:
        """The rows as a table: nested values of JSON that differ in kind stand in it as JSON."""
        return table_of(self.written) if isinstance(self.written, list) else self.written

    @cached_property
    def records(self) -> list[Record]:
        """The rows as dictionaries, nested values of JSON as they are."""
        return self.written if isinstance(self.written, list) else self.written.to_pylist()

    def head(self, count: int) -> list[Record]:
        """The first rows as dictionaries, without turning the others to such."""
        return self.written[:count] if isinstance(self.written, list) else self.written.slice(0, count).to_pylist()

    @cached_property
    def names(self) -> list[str]:
        """The names of the columns, of JSON in the order in which they occur."""
        if isinstance(self.written, list):
            return list(dict.fromkeys(name for row in self.written for name in row))
        return self.written.column_names

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.written) if isinstance(self.written, list) else self.written.num_rows

    def place(self, row: int) -> tuple[Path, int]:
        """The file a row stands in, and its number there, from 1."""
        row = row if self.stands is None else int(self.stands[row])
        for file, rows in self.files:
            if row < rows:
                return file, row + 1
            row -= rows
        raise IndexError(row)


def joined(parts: Sequence[FileRows]) -> FileRows:
    """The rows of several files as those of one.

    Columns may stand in another order. Of JSON, where a key without value is often left out, one file may lack keys
    that another has.

    Raises:
        DataError: two files have different columns; names both files and the columns.
    """
    if len(parts) == 1:
        return parts[0]
    for part in parts[1:]:
        _check_alike(parts[0], part)
    if all(isinstance(part.written, pa.Table) for part in parts):
        written: Any = _concatenated(parts)
    else:
        written = [record for part in parts for record in part.records]
    problems: dict[int, tuple[str, str]] = {}
    start = 0
    for part in parts:
        problems |= {start + row: what for row, what in part.problems.items()}
        start += len(part)
    return FileRows(written, tuple(file for part in parts for file in part.files), problems)


def _check_alike(first: FileRows, other: FileRows) -> None:
    here, there = set(first.names), set(other.names)
    keys_may_lack = not isinstance(first.written, pa.Table) and not isinstance(other.written, pa.Table)
    if here == there or (keys_may_lack and (here <= there or there <= here)):
        return
    only = [
        f"{part.files[0][0]} has {', '.join(sorted(names))}"
        for part, names in ((first, here - there), (other, there - here))
        if names
    ]
    raise DataError(
        f"{first.files[0][0]} and {other.files[0][0]} have different columns ({'; '.join(only)}). "
        "Give tables of the same columns, or one of them alone."
    )


def _concatenated(parts: Sequence[FileRows]) -> pa.Table:
    names = parts[0].names
    tables = [part.table.select(names).replace_schema_metadata(None) for part in parts]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        for name in names:
            kinds = [table.schema.field(name).type for table in tables]
            odd = next((place for place, kind in enumerate(kinds) if kind != kinds[0]), None)
            if odd is not None:
                raise DataError(
                    f'{parts[0].files[0][0]} and {parts[odd].files[0][0]}, column "{name}": {kinds[0]} in one and '
                    f"{kinds[odd]} in the other. Make them the same."
                ) from error
        raise DataError(
            f"{parts[0].files[0][0]}: the files do not fit together ({first_line(error)[:200]})."
        ) from error


def without_equal_rows(rows: FileRows) -> FileRows:
    """The rows without those equal in everything to an earlier one of the same file. Blank rows stay."""
    seen: set[tuple[Path, str]] = set()
    kept = []
    for row, record in enumerate(rows.records):
        key = (rows.place(row)[0], json.dumps(record, sort_keys=True, default=str))
        if key not in seen or all(present(value) is None for value in record.values()):
            kept.append(row)
            seen.add(key)
    if len(kept) == len(rows):
        return rows
    stands = np.asarray(kept, dtype=np.int64)
    written = [rows.records[row] for row in kept] if isinstance(rows.written, list) else rows.written.take(stands)
    problems = {place: rows.problems[row] for place, row in enumerate(kept) if row in rows.problems}
    return FileRows(written, rows.files, problems, stands)

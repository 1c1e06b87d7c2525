"""Rows as they stand in one or several files, and which file and row each is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beholder.datasets.json_rows import Record, table_of
from beholder.util.errors import DataError, first_line


@dataclass(frozen=True)
class FileRows:
    """Rows of one or several files of the same columns.

    Attributes:
        written: the rows: a table, or the objects of JSON files.
        files: each file and its number of rows, in order.
        numbers: int64 [rows], the number of each row in its file, from 1.
        problems: row (from 0) -> column and what is wrong there, for rows that no table can hold as they are.
        notes: what was left out, a line each.
    """

    written: pa.Table | Sequence[Record]
    files: tuple[tuple[Path, int], ...]
    numbers: NDArray[np.int64]
    problems: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def table(self) -> pa.Table:
        """The rows as a table: nested values of JSON that differ in kind stand in it as JSON."""
        return self.written if isinstance(self.written, pa.Table) else table_of(self.written)

    @cached_property
    def records(self) -> Sequence[dict[str, Any]]:
        """The rows as dictionaries, nested values of JSON as they are."""
        return self.written.to_pylist() if isinstance(self.written, pa.Table) else self.written

    @cached_property
    def names(self) -> list[str]:
        """The names of the columns, of JSON in the order in which they occur."""
        if isinstance(self.written, pa.Table):
            return self.written.column_names
        return list(dict.fromkeys(name for row in self.written for name in row))

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.numbers)


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
    starts = np.cumsum([0, *(len(part) for part in parts)])
    return FileRows(
        written,
        tuple(file for part in parts for file in part.files),
        np.concatenate([part.numbers for part in parts]),
        {
            int(start) + row: what
            for start, part in zip(starts, parts, strict=False)
            for row, what in part.problems.items()
        },
        tuple(note for part in parts for note in part.notes),
    )


def _check_alike(first: FileRows, other: FileRows) -> None:
    here, there = set(first.names), set(other.names)
    keys_may_lack = not isinstance(first.written, pa.Table) and not isinstance(other.written, pa.Table)
    if here == there or (keys_may_lack and (here <= there or there <= here)):
        return
    only = [f"{part.files[0][0]} has {', '.join(sorted(names))}" for part, names in
            ((first, here - there), (other, there - here)) if names]  # fmt: skip
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

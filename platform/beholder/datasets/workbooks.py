"""Spreadsheets (.xlsx, .ods) into Arrow tables."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from beholder.datasets.delimited import check_file, check_names
from beholder.datasets.header import looks_like_data, numbered
from beholder.util.errors import DataError, first_line

Cells = list[list[Any]]
COMPOUND_FILE = b"\xd0\xcf\x11\xe0"
"""How a workbook begins that Excel has encrypted: the archive stands inside a compound file."""


def read_workbook(file: Path, header: bool | None = None) -> pa.Table:
    """Read the one sheet of a workbook that is not empty.

    A number without a fraction is a whole number, as it was typed (the format stores 12 and 12.0 alike); text stays as
    typed, with leading zeros and spaces; dates are written as ISO 8601. A column of several kinds is text.

    Args:
        file: .xlsx or .ods.
        header: see `delimited.read_csv`.

    Raises:
        DataError: missing, damaged, protected by a password, without or with several filled sheets, or a column without
            a name.
    """
    check_file(file)
    sheets = {name: cells for name, cells in _sheets(file).items() if any(any(map(_filled, row)) for row in cells)}
    if not sheets:
        raise DataError(f"{file}: all sheets are empty. Write a row of names and at least one row of judgements.")
    if len(sheets) > 1:
        names = ", ".join(f'"{name}"' for name in sheets)
        raise DataError(
            f"{file}: holds several sheets ({names}). Save the one with the judgements as a file of its own."
        )
    return _table(file, next(iter(sheets.values())), header)


def _sheets(file: Path) -> dict[str, Cells]:
    from python_calamine import CalamineError, PasswordError, load_workbook

    locked = (
        f"{file}: protected by a password. Save it without one (in Excel: File, Info, Protect Workbook), or as CSV."
    )
    with file.open("rb") as stream:
        if stream.read(len(COMPOUND_FILE)) == COMPOUND_FILE:
            raise DataError(locked)
    try:
        with load_workbook(str(file)) as book:
            return {name: book.get_sheet_by_name(name).to_python(skip_empty_area=False) for name in book.sheet_names}
    except PasswordError as error:
        raise DataError(locked) from error
    except (CalamineError, OSError, ValueError) as error:
        raise DataError(
            f"{file}: truncated, or not a workbook ({first_line(error).rstrip('.')[:200]}). Save it again, or as CSV."
        ) from error


def _table(file: Path, cells: Cells, header: bool | None) -> pa.Table:
    width = max(len(row) for row in cells)
    filled = [[*row, *[""] * (width - len(row))] for row in cells]
    while not any(map(_filled, filled[0])):
        del filled[0]
    names = numbered(width) if header is False else [str(_plain(cell) or "").strip() for cell in filled.pop(0)]
    columns: dict[str, pa.Array] = {}
    check_names(file, [name for name in names if name])
    for place, name in enumerate(names):
        values = [_plain(row[place]) for row in filled]
        if name:
            columns[name] = _column(values)
        elif any(value is not None for value in values):
            raise DataError(f"{file}: the column at place {place + 1} has no name. Write one into the first row.")
    table = pa.table(columns)
    if header and looks_like_data(table):
        raise DataError(
            f"{file}: the first row looks like data, not like names of columns. Add a row of names, or set "
            "source.header: false (init: --no-header) to call them column1, column2, and so on."
        )
    return table


def _filled(cell: Any) -> bool:
    return cell is not None and not (isinstance(cell, str) and not cell.strip())


def _plain(cell: Any) -> Any:
    """A cell as it was typed, None where empty."""
    if not _filled(cell):
        return None
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, dt.datetime | dt.date | dt.time):
        return cell.isoformat()
    return str(cell) if isinstance(cell, dt.timedelta) else cell


def _column(values: Sequence[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds == {int, float}:
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError):
            pass
    return pa.array([value if value is None else _written(value) for value in values], pa.string())


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

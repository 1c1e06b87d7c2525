"""Rows of JSON: objects, one a line or in one list, as they stand, and as an Arrow table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from beholder.datasets.delimited import check_file, check_utf8
from beholder.util.errors import DataError

Record = dict[str, Any]
SURROGATE = re.compile(r"[\ud800-\udfff]")
ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON writes a surrogate: files without one are not looked at again."""
HALF_A_CHARACTER = (
    "half of a character (a surrogate without its other half), as where a text was cut inside an emoji. "
    "Fix it, or pass --on-bad-rows skip."
)


@dataclass(frozen=True)
class JsonRows:
    """Objects of a file, in order.

    Attributes:
        records: one a row; half a character is replaced by U+FFFD.
        problems: row (from 0) -> key and what is wrong there, for the rows with half a character.
    """

    records: list[Record]
    problems: dict[int, tuple[str, str]] = field(default_factory=dict)


def read_lines(file: Path) -> JsonRows:
    """Read JSON lines: one object a line.

    Raises:
        DataError: missing, empty, not UTF-8, or a line that is not a JSON object.
    """
    check_file(file)
    check_utf8(file)
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        records, escapes = [], False
        for line, record in _objects(lines, file):
            records.append(record)
            escapes = escapes or ESCAPED.search(line) is not None
    return _checked(records) if escapes else JsonRows(records)


def read_json(file: Path) -> JsonRows:
    """Read one JSON value: a list of objects, an object of objects (whose keys become `id`), or one of equally long
    columns. Lines of objects are read as `read_lines` does.

    Raises:
        DataError: missing, empty, not UTF-8, not JSON, or of another form.
    """
    check_file(file)
    check_utf8(file)
    written = file.read_text(encoding="utf-8-sig")
    try:
        value = json.loads(written)
    except RecursionError as error:
        raise DataError(f"{file}: nested too deeply. Write a list of objects.") from error
    except ValueError as error:
        if written.lstrip().startswith("{") and "Extra data" in str(error):
            return read_lines(file)
        raise DataError(f"{file}: not JSON: {error}. Write a list of objects, or one object a line.") from error
    rows = _rows_of(value)
    if rows is None:
        raise DataError(
            f"{file}: holds no rows. Write a list of objects, such as [{{...}}, {{...}}], or one object a line."
        )
    return _checked(rows) if ESCAPED.search(written) else JsonRows(rows)


def table_of(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Objects as a table; a key that an object lacks is null there."""
    names = list(dict.fromkeys(name for row in records for name in row))
    return pa.table({name: _column([row.get(name) for row in records]) for name in names})


def _objects(lines: Iterator[str], file: Path) -> Iterator[tuple[str, Record]]:
    """Each line that is not blank, and the object on it."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: not JSON: {error}. Write one object a line.") from error
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise DataError(f"{file}, line {number}: a {kind} is not an object. Write one object a line.")
        yield line, row


def _rows_of(value: Any) -> list[Record] | None:
    """The rows that a JSON value holds, or None."""
    if isinstance(value, list):
        return value if value and all(isinstance(row, dict) for row in value) else None
    if not isinstance(value, dict) or not value:
        return None
    inner = list(value.values())
    if all(isinstance(each, list) for each in inner) and len({len(each) for each in inner}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*inner, strict=True)]
    if all(isinstance(each, dict) for each in inner):
        keys = list(dict.fromkeys(key for each in inner for key in each))
        if all(key.isdecimal() for key in keys) and len({len(each) for each in inner}) == 1:  # pandas: by column
            return [{name: column.get(key) for name, column in value.items()} for key in keys]
        return [{"id": key, **each} for key, each in value.items()]
    return [value]


def _checked(records: list[Record]) -> JsonRows:
    """Find and replace half characters, which no file in UTF-8 can hold."""
    problems: dict[int, tuple[str, str]] = {}
    for row, record in enumerate(records):
        if SURROGATE.search(json.dumps(record, ensure_ascii=False)):
            key = next(key for key in record if SURROGATE.search(json.dumps({key: record[key]}, ensure_ascii=False)))
            problems[row] = (_whole(key), HALF_A_CHARACTER)
            records[row] = _whole(record)
    return JsonRows(records, problems)


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(each) for key, each in value.items()}
    return value


def _column(values: list[Any]) -> pa.Array:
    """One Arrow column; where kinds are mixed, everything that is not text is written as JSON, as it stood."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError):
            pass  # nested values of mixed kinds, or whole numbers beyond 64 bits
    return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])

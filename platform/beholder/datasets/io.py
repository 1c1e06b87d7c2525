"""Files of rows into Arrow tables: CSV, TSV, Parquet, JSON lines, saved `datasets` folders.

CSV and TSV are read as text, exactly as written: an id `007` stays one, a text `NA` stays a text. What cannot be read
is refused in one line that states where the file is damaged and how to fix it, without quoting its contents.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from beholder.data.conversions import arrow_of
from beholder.util.errors import DataError, first_line, unknown

BLOCK_BYTES = 16 << 20  # no single row may be longer


def read_table(path: Path) -> pa.Table:
    """Read a table of any known format, by its extension; a folder is a saved `datasets` folder.

    The fields of a .csv may stand between commas, semicolons (a spreadsheet where the comma is for decimals) or tabs.

    Raises:
        DataError: missing, empty, damaged, not UTF-8, or of an unknown format.
    """
    if path.is_dir():
        return read_saved_dataset(path)
    readers: dict[str, Callable[[Path], pa.Table]] = {
        ".csv": read_csv,
        ".tsv": lambda file: read_csv(file, delimiter="\t"),
        ".parquet": read_parquet,
        ".jsonl": read_jsonl,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: {path.suffix or 'a name without extension'} is no known table format. "
            f"Save it as {', '.join(readers)} or a `datasets` folder."
        )
    return reader(path)


def read_csv(
    file: Path, *, delimiter: str | None = None, quoted: bool = True, names: Sequence[str] | None = None
) -> pa.Table:
    """Read a CSV or TSV file, every column as text.

    Args:
        file: UTF-8, with or without a byte order mark.
        delimiter: between fields; else that of `,`, `;` and tab which cuts the header into most of them.
        quoted: whether `"` encloses fields; where not, it is an ordinary character.
        names: column names, for a file without a header.

    Raises:
        DataError: missing, empty, not UTF-8, or rows of differing length.
    """
    _check_file(file)
    try:
        table = pa_csv.read_csv(
            file,
            read_options=pa_csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES, use_threads=False),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter or _delimiter(file), quote_char='"' if quoted else False, newlines_in_values=quoted
            ),
            convert_options=pa_csv.ConvertOptions(default_column_type=pa.string(), strings_can_be_null=False),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        _check_utf8(file)
        what = re.sub(r"(Expected \d+ columns, got \d+):.*", r"\1", _short(error))
        raise DataError(f"{file}: not a well-formed table: {what}. Fix that row, or its quotes.") from error
    _check_header(file, table.column_names)
    if quoted:
        _check_quotes(file, table)
    return table


def read_parquet(file: Path) -> pa.Table:
    """Read a Parquet file.

    Raises:
        DataError: missing, empty, truncated, or not Parquet.
    """
    _check_file(file)
    try:
        return pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file}: truncated, or not a Parquet file ({_short(error)}). Copy it again from where it came from."
        ) from error


def read_jsonl(file: Path) -> pa.Table:
    """Read JSON lines: one object a line. A key that a line lacks is null there.

    Raises:
        DataError: missing, empty, not UTF-8, or a line that is not a JSON object.
    """
    _check_file(file)
    _check_utf8(file)
    rows: list[dict[str, Any]] = []
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
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
            rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _json_column([row.get(name) for row in rows]) for name in names})


def read_saved_dataset(folder: Path) -> pa.Table:
    """Read what `datasets.Dataset.save_to_disk` wrote; class numbers become class names.

    Raises:
        DataError: not such a folder, damaged, or one that holds several parts.
    """
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(
            f"{folder}: not a saved `datasets` folder, or damaged ({_short(error)}). "
            "Write one with Dataset.save_to_disk, or name a file."
        ) from error
    if isinstance(dataset, DatasetDict):
        parts = ", ".join(str(part) for part in dataset)
        raise DataError(
            f"{folder}: holds several parts ({parts}). Name one, such as {folder / str(next(iter(dataset)))}."
        )
    return arrow_of(dataset)


def require_columns(table: pa.Table, columns: Iterable[str], where: Path, remedy: str) -> None:
    """Refuse a table that lacks a column.

    Raises:
        DataError: names all missing columns, the nearest known one, and `remedy`.
    """
    missing = [column for column in columns if column not in table.column_names]
    if len(missing) == 1:
        raise DataError(f"{where}: {unknown('column', missing[0], table.column_names)} {remedy}")
    if missing:
        raise DataError(
            f"{where}: no columns {', '.join(missing)}. There are {', '.join(table.column_names)}. {remedy}"
        )


def _check_file(file: Path) -> None:
    if not file.is_file():
        raise DataError(f"{file}: no such file. Fix its path.")
    if file.stat().st_size == 0:
        raise DataError(f"{file}: the file is empty. Write a header and at least one row.")


def _delimiter(file: Path) -> str:
    """What stands between the fields of a CSV, as its header shows."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        header = lines.readline(csv.field_size_limit())  # no field of a longer one would be parsed
    return max(",;\t", key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _check_utf8(file: Path) -> None:
    offset = 0
    with file.open("rb") as lines:
        if lines.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise DataError(f"{file}: UTF-16. Save the file as UTF-8, for example: iconv -f UTF-16 -t UTF-8.")
        lines.seek(0)
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{file}, line {number}: byte {offset + error.start + 1} of the file is not "
                    "UTF-8. Save the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8."
                ) from error
            offset += len(line)


def _check_header(file: Path, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f'{file}: column "{twice[0]}" appears twice in the header. Rename one.')


def _check_quotes(file: Path, table: pa.Table) -> None:
    """A quote that is never closed swallows the rest of the file into one field: an odd count and a torn last row."""
    if not table.num_rows or not any("\n" in (column[-1].as_py() or "") for column in table.columns):
        return
    with file.open("rb") as stream:
        quotes = sum(block.count(b'"') for block in iter(lambda: stream.read(BLOCK_BYTES), b""))
    if quotes % 2:
        raise DataError(f'{file}, row {table.num_rows}: a quote (") is opened and never closed. Close or double it.')


def _json_column(values: list[Any]) -> pa.Array:
    """One Arrow column; where kinds are mixed, everything that is not text is written as JSON, as it stood."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError):
            pass  # nested values of mixed kinds, or whole numbers beyond 64 bits
    return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])


def _short(error: BaseException) -> str:
    return first_line(error).rstrip(".")[:200]

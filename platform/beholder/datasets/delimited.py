"""CSV and TSV files into Arrow tables, every column as text, exactly as written.

An id `007` stays one, a text `NA` stays a text. What cannot be read is refused in one line that states where the file
is damaged and how to fix it, without quoting its contents.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from beholder.datasets.header import looks_like_data, numbered
from beholder.util.errors import DataError, first_line

BLOCK_BYTES = 16 << 20  # no single row may be longer
SEPARATOR_LINE = re.compile(r"""["']?sep=(.)["']?\s*""", re.I)
"""Excel's own first line, which names what stands between fields."""


def read_csv(
    file: Path,
    *,
    delimiter: str | None = None,
    quoted: bool = True,
    names: Sequence[str] | None = None,
    header: bool | None = None,
) -> pa.Table:
    """Read a CSV or TSV file, every column as text.

    Args:
        file: UTF-8, with or without a byte order mark. A first line `sep=;`, which Excel writes, is read as such.
        delimiter: between fields; else that of `,`, `;` and tab which cuts the header into most of them.
        quoted: whether `"` encloses fields; where not, it is an ordinary character.
        names: column names, for a file without a header.
        header: whether the first row holds the names of the columns; if not, they are called `column1`, `column2`, and
            so on. None takes them from the first row, without a look at whether it is a row of data.

    Raises:
        DataError: missing, empty, not UTF-8, rows of differing length, or (with `header`) a first row of data.
    """
    check_file(file)
    form = _form(file, delimiter)
    generated = header is False and names is None
    try:
        table = pa_csv.read_csv(
            file,
            read_options=pa_csv.ReadOptions(
                column_names=names,
                autogenerate_column_names=generated,
                skip_rows=form.skipped,
                block_size=BLOCK_BYTES,
                use_threads=False,
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=form.delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
            ),
            convert_options=pa_csv.ConvertOptions(default_column_type=pa.string(), strings_can_be_null=False),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        check_utf8(file)
        what = re.sub(r"(Expected \d+ columns, got \d+):.*", r"\1", first_line(error).rstrip(".")[:200])
        raise DataError(f"{file}: not a well-formed table: {what}. Fix that row, or its quotes.") from error
    if generated:
        table = table.rename_columns(numbered(table.num_columns))
    elif header and looks_like_data(table):
        raise DataError(
            f"{file}: the first row looks like data, not like names of columns. Add a row of names, or set "
            "source.header: false (init: --no-header) to call them column1, column2, and so on."
        )
    check_names(file, table.column_names)
    if quoted:
        _check_quotes(file, table)
    return table


def check_file(file: Path) -> None:
    """Check that a file is there and holds something.

    Raises:
        DataError: it does not.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file. Fix its path.")
    if file.stat().st_size == 0:
        raise DataError(f"{file}: the file is empty. Write a header and at least one row.")


def check_utf8(file: Path) -> None:
    """Check the encoding of a file.

    Raises:
        DataError: not UTF-8; names the line and byte.
    """
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


def check_names(file: Path, names: Sequence[str]) -> None:
    """Check that no two columns have one name.

    Raises:
        DataError: two have.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f'{file}: column "{twice[0]}" appears twice in the header. Rename one.')


@dataclass(frozen=True)
class _Form:
    delimiter: str
    skipped: int = 0


def _form(file: Path, delimiter: str | None) -> _Form:
    """What stands between the fields of a file, as its first line shows, and how many lines stand before its header."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        first = lines.readline(csv.field_size_limit())  # no field of a longer one would be parsed
    stated = SEPARATOR_LINE.fullmatch(first.rstrip("\n"))
    if stated:
        return _Form(stated[1], 1)
    if delimiter:
        return _Form(delimiter)
    return _Form(max(",;\t", key=lambda each: len(next(csv.reader([first], delimiter=each), []))))


def _check_quotes(file: Path, table: pa.Table) -> None:
    """A quote that is never closed swallows the rest of the file into one field: an odd count and a torn last row."""
    if not table.num_rows or not any("\n" in (column[-1].as_py() or "") for column in table.columns):
        return
    with file.open("rb") as stream:
        quotes = sum(block.count(b'"') for block in iter(lambda: stream.read(BLOCK_BYTES), b""))
    if quotes % 2:
        raise DataError(f'{file}, row {table.num_rows}: a quote (") is opened and never closed. Close or double it.')

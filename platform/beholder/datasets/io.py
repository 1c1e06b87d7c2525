"""Files of rows into Arrow tables, in every format, one or several of them.

CSV and TSV are read as text, exactly as written; see `delimited`. What cannot be read is refused in one line that
states where the file is damaged and how to fix it, without quoting its contents.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beholder.data.conversions import arrow_of
from beholder.data.label_rules import present
from beholder.datasets.compressed import ARCHIVES, unpacked
from beholder.datasets.delimited import check_file, read_csv
from beholder.datasets.file_rows import FileRows, joined
from beholder.datasets.hub import is_hub_name, read_hub
from beholder.datasets.json_rows import JsonRows, read_json, read_lines
from beholder.datasets.places import expanded
from beholder.datasets.workbooks import read_workbook
from beholder.util.errors import DataError, first_line, unknown

__all__ = ["FORMATS", "FileRows", "read_csv", "read_parquet", "read_rows", "read_table", "require_columns"]

_READERS: dict[str, Callable[[Path, bool | None], pa.Table | JsonRows]] = {
    ".csv": lambda file, header: read_csv(file, header=header),
    ".tsv": lambda file, header: read_csv(file, delimiter="\t", header=header),
    ".parquet": lambda file, header: read_parquet(file),
    ".jsonl": lambda file, header: read_lines(file),
    ".ndjson": lambda file, header: read_lines(file),
    ".json": lambda file, header: read_json(file),
    ".xlsx": read_workbook,
    ".ods": read_workbook,
}
FORMATS = (*_READERS, *ARCHIVES)
"""Extensions of files that are read."""


def read_table(where: Path | str | Sequence[Path | str], header: bool = True) -> pa.Table:
    """The table of `read_rows`."""
    return read_rows(where, header).table


def read_rows(where: Path | str | Sequence[Path | str], header: bool = True) -> FileRows:
    """Read a table of any known format, by its extension.

    The fields of a .csv may stand between commas, semicolons (a spreadsheet where the comma is for decimals) or tabs.
    Any format may be compressed with gzip (`.csv.gz`), or stand alone in a zip archive.

    Args:
        where: a file; a folder, saved by `datasets` or of files of one format; a pattern such as `ratings-*.csv`; a
            data set of the Hugging Face hub, `hf://owner/name[:split]`; or several of these. Several files must have
            the same columns.
        header: whether the first row of a CSV, TSV or workbook holds the names of its columns.

    Raises:
        DataError: missing, empty, damaged, not UTF-8, of an unknown format, or files of different columns.
    """
    parts: list[FileRows] = []
    for place in expanded(where, FORMATS):
        parts += _read_place(place, header)
    return joined(parts)


def read_parquet(file: Path) -> pa.Table:
    """Read a Parquet file.

    Raises:
        DataError: missing, empty, truncated, or not Parquet.
    """
    check_file(file)
    try:
        return pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file}: truncated, or not a Parquet file ({first_line(error).rstrip('.')[:200]}). "
            "Copy it again from where it came from."
        ) from error


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
            f"{folder}: not a saved `datasets` folder, or damaged ({first_line(error).rstrip('.')[:200]}). "
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


def _read_place(place: Path | str, header: bool) -> list[FileRows]:
    """The tables at one place: several only where a zip archive holds several."""
    if is_hub_name(place):
        return [_named(Path(place), read_hub(str(place)))]
    file = Path(place)
    if file.is_dir():
        return [_named(file, read_saved_dataset(file))]
    if file.suffix.lower() not in ARCHIVES:
        return [_read_file(file, file, header)]
    if file.suffix.lower() == ".gz":
        _reader(Path(file.stem), file)  # an unknown format is refused before anything is unpacked
    with unpacked(file, tuple(_READERS)) as members:
        found = []
        for shown, inner in members:
            with _under_its_name(inner, shown):
                found.append(_read_file(inner, shown, header))
        return found


def _read_file(file: Path, shown: Path, header: bool) -> FileRows:
    rows = _reader(file, shown)(file, header)
    if isinstance(rows, JsonRows):
        return FileRows(rows.records, ((shown, len(rows.records)),), rows.problems)
    return _named(shown, rows)


def _reader(file: Path, shown: Path) -> Callable[[Path, bool | None], pa.Table | JsonRows]:
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise DataError(
            f"{shown}: {file.suffix or 'a name without extension'} is no known table format. "
            f"Save it as {', '.join(_READERS)} or a `datasets` folder."
        )
    return reader


@contextlib.contextmanager
def _under_its_name(file: Path, shown: Path) -> Iterator[None]:
    """Name the compressed file in errors, not the copy that was unpacked from it."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace(str(file), str(shown))) from error


def _named(file: Path, table: pa.Table) -> FileRows:
    """A table without its columns that have neither a name nor a value, as spreadsheets leave them at the right."""
    unnamed = [name for name in table.column_names if not name.strip()]
    empty = [name for name in unnamed if all(present(value) is None for value in table[name].to_pylist())]
    return FileRows(table.drop_columns(empty) if empty else table, ((file, table.num_rows),))

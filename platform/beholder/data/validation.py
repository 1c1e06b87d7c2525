"""Through here every source's rows go: refused with file, row, column and value, or skipped, counted and kept aside."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beholder.data.annotations import Annotations, RowError, find_problems
from beholder.data.label_rules import Rule, parse_column
from beholder.data.task import Task
from beholder.data.texts import text_key
from beholder.util.atomic import beside
from beholder.util.errors import DataError
from beholder.util.paths import home

BadRows = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Loaded:
    """What a source gives.

    `origin`: one line for people: what data, where it was found, its licence. `refused`: rows skipped, all of which
    stand in `refused_files` with the reason. `left_out`: why rows that are no judgements were left out -> how
    many. `notes`: what else a person should know, a line each.
    """

    annotations: Annotations
    origin: str
    refused: int = 0
    refused_files: tuple[Path, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """What was left out and what else a person should know, a line each."""
        dropped = (
            f"{count:,} {'row' if count == 1 else 'rows'} left out: {why}" for why, count in self.left_out.items()
        )
        return (*dropped, *self.notes)


@dataclass(frozen=True)
class Raw:
    """The rows as they stand in one or more files of the same columns, and what is wrong with them so far."""

    table: pa.Table
    files: tuple[tuple[Path, int], ...]
    """Each file and its number of rows, in the order of `table`, or of `numbers_in_file`."""
    problems: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Row of `table` (from 0) -> column, message. The first problem of a row counts."""
    numbers_in_file: NDArray[np.int64] | None = None
    """The row of the files together (from 0) that each row of `table` is of, where rows were left out or turned."""

    @classmethod
    def of(cls, table: pa.Table, file: Path) -> Raw:
        """The rows of one file."""
        return cls(table, ((file, table.num_rows),))

    def strings(self, column: str) -> NDArray[np.object_]:
        """A column as text, None where null: object [rows]."""
        values = self.table[column]
        if not pa.types.is_string(values.type):
            values = values.cast(pa.string())
        return np.asarray([*values.to_pylist(), None], dtype=object)[:-1]

    def numbers(self, column: str, rule: Rule) -> NDArray[np.float64]:
        """A column as labels: float64 [rows]; values the rule refuses are noted as problems."""
        numbers, refused = parse_column(self.table[column], rule)
        for row, message in refused.items():
            self.problems.setdefault(row, (column, message))
        return numbers

    @property
    def sound(self) -> NDArray[np.bool_]:
        """The rows nothing was found wrong with so far: bool [rows]."""
        sound = np.ones(self.table.num_rows, dtype=bool)
        sound[list(self.problems)] = False
        return sound

    def place(self, row: int) -> tuple[Path, int]:
        """The file a row stands in, and its number there, from 1."""
        row = row if self.numbers_in_file is None else int(self.numbers_in_file[row])
        for file, rows in self.files:
            if row < rows:
                return file, row + 1
            row -= rows
        raise IndexError(row)


@dataclass(frozen=True)
class UncheckedRows:
    """Rows about to be checked. The arrays hold sound rows only; `rows` holds where in `raw` each is."""

    raw: Raw
    task: Task
    rows: NDArray[np.integer]
    text: NDArray[np.object_]
    user_id: NDArray[np.object_]
    labels: NDArray[np.float32]
    text_id: NDArray[np.object_] | None
    context: Mapping[str, NDArray[np.object_]]
    column_of: Mapping[str, str]
    """The file's name for `text`, `user_id`, `text_id` and each label, for messages."""


def admit(
    draft: UncheckedRows, origin: str, on_bad_rows: BadRows, *, keep_refused: bool = True, remedy: str = ""
) -> Loaded:
    """Check a draft and make Annotations of it.

    Args:
        draft: parsed rows, and what could not be parsed.
        origin: for `Loaded`.
        on_bad_rows: `skip` writes the refused rows, with a column `reason`, to `<file>.refused.csv` beside the input
            (in `$BEHOLDER_HOME/refused` where that folder cannot be written) and continues without them.
        keep_refused: whether `skip` writes that file.
        remedy: what else can be done where a user judged a text twice, as in "keep both with source.repeats: keep".

    Raises:
        DataError: a row is refused and `on_bad_rows` is `refuse`, or no row is left.
    """
    where = draft.raw.files[0][0]
    text_id = draft.text_id if draft.text_id is not None else _text_ids(draft.text)
    bad = dict(draft.raw.problems)
    found = find_problems(
        draft.task,
        text=draft.text.tolist(),
        user_id=draft.user_id.tolist(),
        labels=draft.labels,
        text_id=text_id.tolist(),
    )
    bad.update(_placed(found, draft, text_id, f"{remedy}, " if remedy else ""))
    if bad and on_bad_rows == "refuse":
        row = min(bad)
        file, number = draft.raw.place(row)
        more = f" ({len(bad) - 1} more such rows.)" if len(bad) > 1 else ""
        raise DataError(RowError(number, *bad[row]).line(str(file)) + more)
    keep = np.ones(len(draft.rows), dtype=bool)
    keep[[problem.row - 1 for problem in found]] = False
    kept = np.flatnonzero(keep)
    if bad and not len(kept):
        raise DataError(f"{where}: all {len(bad)} rows would be skipped; the first is {_first(draft.raw, bad)}")
    annotations = Annotations.from_columns(
        draft.task,
        text=draft.text[kept].tolist(),
        user_id=draft.user_id[kept].tolist(),
        labels=draft.labels[kept],
        text_id=text_id[kept].tolist(),
        context={name: values[kept].tolist() for name, values in draft.context.items()},
        where=str(where),
    )
    kept_in = (_write_refused(draft.raw, bad),) if bad and keep_refused else ()
    return Loaded(annotations, origin, len(bad), kept_in)


def _text_ids(texts: NDArray[np.object_]) -> NDArray[np.object_]:
    keys = {text: text_key(text) for text in set(texts) if text is not None}
    return np.asarray([*(keys.get(text, "-") for text in texts), None], dtype=object)[:-1]


def _placed(
    found: Sequence[RowError], draft: UncheckedRows, text_id: NDArray[np.object_], remedy: str
) -> dict[int, tuple[str, str]]:
    """Problems under the file's own row numbers and column names."""
    refused = {problem.row - 1 for problem in found}
    duplicates = [p for p in found if p.column == "text_id" and str(text_id[p.row - 1] or "").strip()]
    first: dict[tuple[str, str], int] = {}
    if duplicates:
        for row in range(len(draft.rows)):
            if row not in refused:
                first.setdefault((str(text_id[row]), str(draft.user_id[row])), row)
    placed = {int(draft.rows[p.row - 1]): (draft.column_of.get(p.column, p.column), p.message) for p in found}
    for problem in duplicates:
        row = problem.row - 1
        earlier = int(draft.rows[first[(str(text_id[row]), str(draft.user_id[row]))]])
        file, number = draft.raw.place(earlier)
        other = f" of {file}" if file != draft.raw.place(int(draft.rows[row]))[0] else ""
        column = "text_id" if draft.text_id is not None else "text"
        placed[int(draft.rows[row])] = (
            draft.column_of.get(column, column),
            f'user "{draft.user_id[row]}" judged the same text already in row {number}{other}. Remove one, '
            f"{remedy}or pass --on-bad-rows skip to keep the first.",
        )
    return placed


def _first(raw: Raw, bad: Mapping[int, tuple[str, str]]) -> str:
    row = min(bad)
    return RowError(raw.place(row)[1], *bad[row]).line(raw.place(row)[0].name)


def _write_refused(raw: Raw, bad: Mapping[int, tuple[str, str]]) -> Path:
    rows = sorted(bad)
    source = raw.files[0][0]
    beside_it = source.parent.parent if source.parent.is_file() else source.parent  # a file inside an archive
    folder = beside_it if beside_it.is_dir() and os.access(beside_it, os.W_OK) else home() / "refused"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{source.name}.refused.csv"
    temporary = beside(target)
    several = len(raw.files) > 1
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow([*raw.table.column_names, *(["file"] if several else []), "reason"])
            for row, values in zip(rows, raw.table.take(rows).to_pylist(), strict=True):
                file, number = raw.place(row)
                reason = RowError(number, *bad[row]).line(file.name)
                writer.writerow([*values.values(), *([file.name] if several else []), reason])
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"{target}: the refused rows cannot be written ({error.strerror}). Free the place.") from error
    return target

"""The user's own table: CSV, TSV, Parquet, JSON lines, or a saved `datasets` folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from beholder.data.columns import Columns, as_text, drafted, text_columns
from beholder.data.label_rules import present
from beholder.data.reshape import Reshape, reshaped
from beholder.data.texts import text_key
from beholder.data.validation import BadRows, Loaded, Raw, admit
from beholder.datasets.duplicates import surplus, with_repeat_number
from beholder.datasets.io import read_table, require_columns
from beholder.datasets.same_ids import folded, look_alikes
from beholder.util.errors import DataError

KEEP_BOTH = "keep both with source.repeats: keep"


class Table(Columns):
    """Settings of `table`: which columns hold what.

    Rows without anything in them, and rows equal to an earlier one in every column, are left out and counted.

    Args:
        path: a .csv, .tsv, .parquet or .jsonl file, or a folder written by `datasets.Dataset.save_to_disk`.
        reshape: how the table becomes one with a judgement in each row, where it is not; see `Reshape`.
        split_column: a column saying each row's part, kept as the context column `split`.
        repeats: what a second judgement of a text by the same user is: refused, or kept as a judgement of its own.
        not_asked: what is written in a label's column where the label was not asked or not answered, as in `[N/A, -1]`,
            in upper or lower case; `""` for an empty cell. Rows in which no label was answered are left out and
            counted.
        user_ids: `exact`, or `fold`: ids that differ only in case or white space at the ends are one person.
    """

    added: ClassVar[tuple[str, ...]] = (*Columns.added, "reshape", "not_asked", "user_ids")

    name: Literal["table"] = "table"
    path: Path
    reshape: Reshape | None = None
    split_column: str | None = None
    repeats: Literal["refuse", "keep"] = "refuse"
    not_asked: tuple[str, ...] = ()
    user_ids: Literal["exact", "fold"] = "exact"


def load(config: Table, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load the user's own table.

    Raises:
        DataError: missing, damaged, of an unknown format, without a named column, or a row is refused.
    """
    path = config.path.expanduser()
    if not path.exists():
        raise DataError(f"{path}: no such file or folder. Fix source.path.")
    return of_table(config, read_table(path), path, on_bad_rows)


def of_table(
    config: Table, table: pa.Table, path: Path, on_bad_rows: BadRows = "refuse", *, keep_refused: bool = True
) -> Loaded:
    """Check the rows of a table that was read from a file.

    Args:
        config: its settings, of which `path` is not read.
        table: as it stands in the file.
        path: the file, for messages.
        on_bad_rows, keep_refused: see `validation.admit`.

    Raises:
        DataError: a named column is missing, or a row is refused.
    """
    raw, left_out = _one_judgement_a_row(config, table, path)
    named = [*config.named, *([("split_column", config.split_column)] if config.split_column else [])]
    for key, column in named:  # a missing column is refused by the key that names it
        require_columns(raw.table, (column,), path, f"Name the right one under source.{key}.")
    raw, config, unasked = _without_unasked(config, raw)
    draft = drafted(config, raw)
    users = draft.user_id
    if config.user_ids == "fold":
        draft = replace(draft, user_id=folded(users))
    alike = look_alikes(users) if config.user_ids == "exact" else None
    if config.split_column is not None:
        parts = as_text(raw, config.split_column)[draft.rows]
        draft = replace(draft, context={**draft.context, "split": parts})
    if config.repeats == "keep":
        ids = draft.text_id
        ids = (
            ids if ids is not None else np.asarray([*(text_key(text or "") for text in draft.text), None], object)[:-1]
        )
        draft = replace(draft, text_id=with_repeat_number(ids, draft.user_id))
    origin = f"your own table ({path}, {table.num_rows} rows)"
    loaded = admit(draft, origin, on_bad_rows, keep_refused=keep_refused, remedy=KEEP_BOTH)
    return replace(loaded, left_out=left_out | unasked, notes=(alike,) if alike else ())


def _one_judgement_a_row(config: Table, table: pa.Table, path: Path) -> tuple[Raw, dict[str, int]]:
    """The rows of the file that are judgements, and what was left out."""
    found = surplus(table, text_columns(config.text)[-1])
    kept = found.kept
    if len(kept) < table.num_rows:
        table = table.take(pa.array(kept))
    problems: Mapping[int, tuple[str, str]] = {}
    if config.reshape is not None:
        of_text = [config.text_id] if config.text_id is not None else text_columns(config.text)
        made = reshaped(table, config.reshape, path, [*of_text, config.user])
        table, kept, problems = made.table, kept[made.rows], made.problems
    return Raw(table, ((path, table.num_rows),), dict(problems), kept), found.left_out


def _without_unasked(config: Table, raw: Raw) -> tuple[Raw, Table, dict[str, int]]:
    """The table with the words of `not_asked` taken out, without the rows in which no label was answered."""
    if not config.not_asked:
        return raw, config, {}
    words = {word.strip().casefold() for word in config.not_asked}
    columns = [rule.column or name for name, rule in config.labels.items()]
    columns += [config.label_column] if config.label_column else []
    table, problems = raw.table, dict(raw.problems)
    empty = np.ones((table.num_rows, len(columns)), dtype=bool)
    named = np.zeros(table.num_rows, dtype=bool)
    for place, column in enumerate(dict.fromkeys(columns)):
        cells = table[column].to_pylist()
        unasked = np.asarray([_written(cell) in words for cell in cells], dtype=bool)
        blank = np.asarray([present(cell) is None for cell in cells], dtype=bool)
        if not config.allow_missing:
            for row in np.flatnonzero(blank & ~unasked):
                message = "missing value. Fill it in, set source.allow_missing: true, or pass --on-bad-rows skip."
                problems.setdefault(int(row), (column, message))
        left = [None if gone else cell for gone, cell in zip(unasked, cells, strict=True)]
        table = table.set_column(table.column_names.index(column), column, pa.array(left, table[column].type))
        empty[:, place] = unasked | blank
        named |= unasked
    gone = named & empty.all(axis=1)
    gone[list(problems)] = False
    kept = np.flatnonzero(~gone)
    config = config if config.label_column else config.model_copy(update={"allow_missing": True})
    if not gone.any():
        return replace(raw, table=table, problems=problems), config, {}
    place_of = {int(row): place for place, row in enumerate(kept)}
    numbers = raw.numbers_in_file if raw.numbers_in_file is not None else np.arange(raw.table.num_rows)
    left_out = Raw(
        table.take(pa.array(kept)),
        ((raw.files[0][0], len(kept)),),
        {place_of[row]: problem for row, problem in problems.items()},
        numbers[kept],
    )
    return left_out, config, {f"no answer ({', '.join(word or 'empty' for word in config.not_asked)})": int(gone.sum())}


def _written(value: Any) -> str:
    value = present(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip().casefold()

"""The user's own table, in any format that is read, or the export of an annotation tool."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import StringConstraints, field_validator, model_validator

from beholder.data.columns import Columns, as_text, drafted, text_columns
from beholder.data.label_rules import present
from beholder.data.reshape import Reshape, reshaped
from beholder.data.texts import text_key
from beholder.data.validation import BadRows, Loaded, Raw, admit
from beholder.datasets.duplicates import surplus, with_repeat_number
from beholder.datasets.importers import FORMATS, OpenedTable, inferred, open_export
from beholder.datasets.io import FileRows, require_columns
from beholder.datasets.profile.guesses import GivenColumns
from beholder.datasets.same_ids import folded, look_alikes
from beholder.util.errors import counted, unknown
from beholder.util.strict_model import build

HubName = Annotated[str, StringConstraints(pattern=r"^hf://?[^/]")]
OF_TASK = {"kind", "labels", "label_column", "classes", "allow_missing"}
"""Settings that state what is judged."""
KEEP_BOTH = "keep both with source.repeats: keep"


class Table(Columns):
    """Settings of `table`: which columns hold what.

    Rows without anything in them, and rows equal to an earlier one in every column, are left out and counted.

    Args:
        path: a file (.csv, .tsv, .parquet, .jsonl, .ndjson, .json, .xlsx, .ods; or one of them as .gz or .zip); a
            folder written by `datasets.Dataset.save_to_disk`, or of files of one format; a pattern such as
            `part-*.csv`; a data set of the Hugging Face hub, `hf://owner/name[:split]`; or a list of these, of the same
            columns.
            Relative paths are relative to the current folder.
        format: `table`: columns are what the other settings name. The name of an annotation tool, whose export the file
            is: columns are those its importer makes, and settings that are not given are its own. `auto`: whichever the
            file looks like.
        header: whether the first row of a CSV, TSV or workbook names its columns; if not, they are called `column1`,
            `column2`, and so on.
        reshape: how the table becomes one with a judgement in each row, where it is not; see `Reshape`.
        split_column: a column saying each row's part, kept as the context column `split`.
        repeats: what a second judgement of a text by the same user is: refused, or kept as a judgement of its own.
        not_asked: what is written in a label's column where the label was not asked or not answered, as in `[N/A, -1]`,
            in upper or lower case; `""` for an empty cell. Rows in which no label was answered are left out and
            counted.
        user_ids: `exact`, or `fold`: ids that differ only in case or white space at the ends are one person.
    """

    added: ClassVar[tuple[str, ...]] = (*Columns.added, "format", "header", "reshape", "not_asked", "user_ids")

    name: Literal["table"] = "table"
    path: HubName | Path | tuple[HubName | Path, ...]
    format: str = "table"
    header: bool = True
    reshape: Reshape | None = None
    split_column: str | None = None
    repeats: Literal["refuse", "keep"] = "refuse"
    not_asked: tuple[str, ...] = ()
    user_ids: Literal["exact", "fold"] = "exact"

    @field_validator("format")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in ("auto", "table", *FORMATS):
            raise ValueError(unknown("format", name, ("auto", "table", *FORMATS)).removesuffix("."))
        return name

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Table:
        given = self.labels or self.label_column or self.classes or self.kind != "multilabel"
        return self if self.format != "table" and not given else super()._fits_its_kind()  # type: ignore[return-value]

    @property
    def where(self) -> Path:
        """The path, or the first of several, for messages."""
        return Path(self.path[0] if isinstance(self.path, tuple) else self.path).expanduser()


def load(config: Table, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load the user's own table.

    Raises:
        DataError: missing, damaged, of an unknown format, without a named column, or a row is refused.
    """
    opened = open_export(config.path, config.format, config.header)
    return of_rows(completed(config, opened), opened.rows, on_bad_rows)


def completed(config: Table, opened: OpenedTable) -> Table:
    """The settings, with those of the annotation tool where they are not given.

    Raises:
        DataError: the tool's export does not show which of its columns hold the text, or what its answers mean.
    """
    if opened.imported is None:
        return config if config.format == "table" else build(Table, {**_given(config), "format": "table"}, "source")
    given = _given(config)
    stated = {**opened.imported.settings, **given}
    if OF_TASK & set(given) and {"text", "user"} <= set(stated):  # its labels, and none of the format's
        known = {key: value for key, value in stated.items() if key not in OF_TASK or key in given}
    else:
        known = {**inferred(opened, _columns_given(config)).settings, **given}
    return build(Table, {**known, "format": "table"}, "source")


def of_rows(config: Table, rows: FileRows, on_bad_rows: BadRows = "refuse", *, keep_refused: bool = True) -> Loaded:
    """Check the rows of a table that was read.

    Args:
        config: its settings, of which `path` and `format` are not read.
        rows: as they stand in the files, or as an importer made them.
        on_bad_rows, keep_refused: see `validation.admit`.

    Raises:
        DataError: a named column is missing, or a row is refused.
    """
    path = rows.files[0][0]
    raw, left_out = _one_judgement_a_row(config, rows)
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
    more = f" and {counted(len(rows.files) - 1, 'more file')}" if len(rows.files) > 1 else ""
    origin = f"your own table ({path}{more}, {len(rows)} rows)"
    loaded = admit(draft, origin, on_bad_rows, keep_refused=keep_refused, remedy=KEEP_BOTH)
    return replace(loaded, left_out=left_out | unasked, notes=(alike,) if alike else ())


def _given(config: Table) -> dict[str, Any]:
    """The settings that were written, as they were."""
    return {key: value for key, value in config.model_dump().items() if key in config.model_fields_set}


def _columns_given(config: Table) -> GivenColumns:
    given = config.model_fields_set
    labels = tuple(rule.column or name for name, rule in config.labels.items())
    return GivenColumns(
        config.text if "text" in given else None,
        config.user if "user" in given else None,
        labels or ((config.label_column,) if config.label_column else None),
    )


def _one_judgement_a_row(config: Table, rows: FileRows) -> tuple[Raw, dict[str, int]]:
    """The rows of the files that are judgements, and what was left out."""
    table = rows.table
    found = surplus(table, text_columns(config.text)[-1])
    kept = found.kept if rows.stands is None else np.flatnonzero(~found.blank)  # an importer has looked for equal rows
    if len(kept) < table.num_rows:
        table = table.take(pa.array(kept))
    problems: dict[int, tuple[str, str]] = {}
    if config.reshape is not None:
        of_text = [config.text_id] if config.text_id is not None else text_columns(config.text)
        made = reshaped(table, config.reshape, rows.files[0][0], [*of_text, config.user])
        table, kept, problems = made.table, kept[made.rows], dict(made.problems)
    problems |= {place: rows.problems[int(row)] for place, row in enumerate(kept) if int(row) in rows.problems}
    return Raw(table, rows.files, problems, kept if rows.stands is None else rows.stands[kept]), (
        found.left_out if rows.stands is None else {}
    )


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
        raw.files,
        {place_of[row]: problem for row, problem in problems.items()},
        numbers[kept],
    )
    return left_out, config, {f"no answer ({', '.join(word or 'empty' for word in config.not_asked)})": int(gone.sum())}


def _written(value: Any) -> str:
    value = present(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip().casefold()

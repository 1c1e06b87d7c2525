"""The user's own table: CSV, TSV, Parquet, JSON lines, or a saved `datasets` folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from beholder.data.columns import Columns, as_text, drafted
from beholder.data.texts import text_key
from beholder.data.validation import BadRows, Loaded, Raw, admit
from beholder.datasets.duplicates import with_repeat_number
from beholder.datasets.io import read_table, require_columns
from beholder.util.errors import DataError


class Table(Columns):
    """Settings of `table`: which columns hold what.

    Args:
        path: a .csv, .tsv, .parquet or .jsonl file, or a folder written by `datasets.Dataset.save_to_disk`.
        split_column: a column saying each row's part, kept as the context column `split`.
        repeats: what a second judgement of a text by the same user is: refused, or kept as a judgement of its own.
    """

    name: Literal["table"] = "table"
    path: Path
    split_column: str | None = None
    repeats: Literal["refuse", "keep"] = "refuse"


def load(config: Table, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load the user's own table.

    Raises:
        DataError: missing, damaged, of an unknown format, without a named column, or a row is refused.
    """
    path = config.path.expanduser()
    if not path.exists():
        raise DataError(f"{path}: no such file or folder. Fix source.path.")
    raw = Raw.of(read_table(path), path)
    named = [*config.named, *([("split_column", config.split_column)] if config.split_column else [])]
    for key, column in named:  # a missing column is refused by the key that names it
        require_columns(raw.table, (column,), path, f"Name the right one under source.{key}.")
    draft = drafted(config, raw)
    if config.split_column is not None:
        parts = as_text(raw, config.split_column)[draft.rows]
        draft = replace(draft, context={**draft.context, "split": parts})
    if config.repeats == "keep":
        ids = draft.text_id
        ids = ids if ids is not None else np.asarray([text_key(text or "") for text in draft.text], object)
        draft = replace(draft, text_id=with_repeat_number(ids, draft.user_id))
    return admit(draft, f"your own table ({path}, {raw.table.num_rows} rows)", on_bad_rows)

"""Unhealthy Comments Corpus: is a news comment healthy, and if not, how so? 588 crowd workers (Price et al. 2020)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from beholder.data.label_rules import one_of
from beholder.data.task import Task
from beholder.data.validation import BadRows, Loaded, Raw, UncheckedRows, admit
from beholder.datasets.config import SourceSettings
from beholder.datasets.duplicates import without_repeats
from beholder.datasets.io import read_csv, require_columns
from beholder.datasets.locate import find
from beholder.datasets.official_splits import official_parts

LABELS = (
    "antagonize",
    "condescending",
    "dismissive",
    "generalisation",
    "generalisation_unfair",
    "healthy",
    "hostile",
    "sarcastic",
)
COLUMNS = ("_unit_id", "comment", "_trust", "_worker_id", *LABELS)
SPLIT_FILES = {"train": "train.csv", "valid": "val.csv", "test": "test.csv"}
REMEDY = "Expected the full per-worker format; get it with: beholder data prepare unhealthy --download."


class Unhealthy(SourceSettings):
    """Settings of `unhealthy`. `path`: `unhealthy_full.csv`, or the folder it lies in.

    The eight labels are the file's own columns, `healthy` among them; an empty field = not asked. `drop_unlabelled`
    (step 1 of the paper's protocol): rows with no label at all, neither healthy nor any fault, are left out; where
    kept, they count as "none of the labels". A row whose eight fields are all empty is no judgement and always left
    out. Where a worker judged the same unit twice, the first judgement in file order is kept: the worker saw it fresh.
    How many rows these rules left out stands in the origin line. `corpus/{train,val,test}.csv` beside the file, matched
    by `_unit_id`, become the context column `official_split`.
    """

    name: Literal["unhealthy"] = "unhealthy"
    drop_unlabelled: bool = True


def load(config: Unhealthy, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load the Unhealthy Comments Corpus, one row per worker and comment.

    Raises:
        DataError: not found, a column is missing, or a row is refused.
    """
    file = find("unhealthy", config.path)
    table = read_csv(file)
    require_columns(table, COLUMNS, file, REMEDY)
    raw = Raw.of(table, file)
    labels = np.column_stack([raw.numbers(name, one_of(range(2), missing=True)) for name in LABELS]).astype(np.float32)
    sound = raw.sound
    labelled = (labels == 1).any(axis=1) if config.drop_unlabelled else ~np.isnan(labels).all(axis=1)
    rows, repeats = without_repeats(np.flatnonzero(sound & labelled), raw, "_unit_id", "_worker_id")
    text_ids = raw.strings("_unit_id")[rows]
    split_files = {part: file.parent / "corpus" / name for part, name in SPLIT_FILES.items()}
    draft = UncheckedRows(
        raw,
        Task(LABELS),
        rows,
        text=raw.strings("comment")[rows],
        user_id=raw.strings("_worker_id")[rows],
        labels=labels[rows],
        text_id=text_ids,
        context=official_parts(split_files, _split_ids, text_ids),
        column_of={"text": "comment", "text_id": "_unit_id", "user_id": "_worker_id"},
    )
    dropped = int((sound & ~labelled).sum())
    origin = (
        f"Unhealthy Comments Corpus ({file}, CC BY-NC-SA 4.0); "
        f"{dropped} rows without a label and {repeats} repeats left out"
    )
    return admit(draft, origin, on_bad_rows)


def _split_ids(file: Path) -> pa.ChunkedArray:
    table = read_csv(file)
    require_columns(table, ("_unit_id",), file, REMEDY)
    return table["_unit_id"]

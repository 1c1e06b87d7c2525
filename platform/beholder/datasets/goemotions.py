"""GoEmotions: 27 emotions and neutral in Reddit comments, 82 raters, raw format (Demszky et al. 2020)."""

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
from beholder.datasets.locate import FILES, find
from beholder.datasets.official_splits import official_parts

EMOTIONS = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip
COLUMNS = (
    "text", "id", "author", "subreddit", "link_id", "parent_id", "created_utc", "rater_id", "example_very_unclear",
    *EMOTIONS,
)  # fmt: skip
SPLIT_FILES = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
SPLIT_COLUMNS = ("text", "label_numbers", "id")  # the split files have no header


class GoEmotions(SourceSettings):
    """Settings of `goemotions`. `path`: the folder of `goemotions_{1,2,3}.csv`, or one CSV file of that format.

    `drop_unlabelled` (step 1 of the paper's protocol): rows with no label at all are left out. These are the rows
    marked `example_very_unclear`; where kept, they count as "none of the labels". Where a rater judged the same comment
    twice, the first judgement in file order is kept: the rater saw it fresh. How many rows either rule left out stands
    in the origin line. Official split files beside the CSV files become the context column `official_split`.
    """

    name: Literal["goemotions"] = "goemotions"
    drop_unlabelled: bool = True


def load(config: GoEmotions, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load GoEmotions, one row per rater and comment.

    Raises:
        DataError: not found, a column is missing, or a row is refused.
    """
    place = find("goemotions", config.path)
    files = [place] if place.is_file() else [place / file for file in FILES["goemotions"]]
    tables = [_read(file) for file in files]
    raw = Raw(pa.concat_tables(tables), tuple(zip(files, (table.num_rows for table in tables), strict=True)))
    labels = np.column_stack([raw.numbers(name, one_of(range(2))) for name in EMOTIONS]).astype(np.float32)
    sound = raw.sound
    unlabelled = sound & ~labels.any(axis=1)
    kept = sound & ~unlabelled if config.drop_unlabelled else sound
    rows, repeats = without_repeats(np.flatnonzero(kept), raw, "id", "rater_id")
    text_ids = raw.strings("id")[rows]
    split_files = {part: files[0].parent / file for part, file in SPLIT_FILES.items()}
    draft = UncheckedRows(
        raw,
        Task(EMOTIONS),
        rows,
        text=raw.strings("text")[rows],
        user_id=raw.strings("rater_id")[rows],
        labels=labels[rows],
        text_id=text_ids,
        context=official_parts(split_files, _split_ids, text_ids),
        column_of={"text_id": "id", "user_id": "rater_id"},
    )
    dropped = int(unlabelled.sum()) if config.drop_unlabelled else 0
    origin = (
        f"GoEmotions, raw ratings ({place}, CC BY 4.0); {dropped} rows without a label and {repeats} repeats left out"
    )
    return admit(draft, origin, on_bad_rows)


def _read(file: Path) -> pa.Table:
    table = read_csv(file)
    remedy = "Expected the raw per-rater format, 37 columns; get it with: beholder data prepare goemotions --download."
    require_columns(table, COLUMNS, file, remedy)
    return table.select(list(COLUMNS))


def _split_ids(file: Path) -> pa.ChunkedArray:
    return read_csv(file, delimiter="\t", quoted=False, names=SPLIT_COLUMNS)["id"]

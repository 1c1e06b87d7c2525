"""HateXplain: is a post hateful, offensive or normal? 120 crowd workers, three a post (Mathew et al. 2021)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from beholder.data.label_rules import class_of
from beholder.data.task import Task
from beholder.data.validation import BadRows, Loaded, Raw, UncheckedRows, admit
from beholder.datasets.config import SourceSettings
from beholder.datasets.io import read_parquet, require_columns
from beholder.datasets.locate import find

CLASSES = ("normal", "offensive", "hateful")


class HateXplain(SourceSettings):
    """Settings of `hatexplain`: one class a judgement, `normal`, `offensive` or `hateful`.

    The file holds the validation and test posts of the data set.
    """

    name: Literal["hatexplain"] = "hatexplain"


def load(config: HateXplain, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load HateXplain, one row per worker and post.

    Raises:
        DataError: not found, damaged, a column is missing, or a row is refused.
    """
    file = find("hatexplain", config.path)
    raw = Raw.of(read_parquet(file), file)
    needed = ("text_id", "text", "annotator_id", "label")
    require_columns(raw.table, needed, file, "Expected hatexplain_valtest.parquet; name it under source.path.")
    place = raw.numbers("label", class_of(CLASSES))
    rows = np.flatnonzero(raw.sound)
    draft = UncheckedRows(
        raw,
        Task(CLASSES, "multiclass"),
        rows,
        text=raw.strings("text")[rows],
        user_id=raw.strings("annotator_id")[rows],
        labels=np.eye(len(CLASSES), dtype=np.float32)[place[rows].astype(np.int64)],
        text_id=raw.strings("text_id")[rows],
        context={},
        column_of={"user_id": "annotator_id", **dict.fromkeys(CLASSES, "label")},
    )
    return admit(draft, f"HateXplain, validation and test posts ({file}, MIT)", on_bad_rows)

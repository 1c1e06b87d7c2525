"""Two paradigms: 200 texts, each judged hateful or not by 20 annotators, their own view (Roettger et al. 2022)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from beholder.data.label_rules import one_of
from beholder.data.task import Task
from beholder.data.validation import BadRows, Loaded, Raw, UncheckedRows, admit
from beholder.datasets.config import SourceSettings
from beholder.datasets.io import read_parquet, require_columns
from beholder.datasets.locate import find


class Rottger(SourceSettings):
    """Settings of `rottger`: one label, `hateful`; `annotator_gender` as context."""

    name: Literal["rottger"] = "rottger"


def load(config: Rottger, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load the descriptive part of "Two Contrasting Data Annotation Paradigms".

    Raises:
        DataError: not found, damaged, or a row is refused.
    """
    file = find("rottger", config.path)
    raw = Raw.of(read_parquet(file), file)
    needed = ("text_id", "text", "annotator_id", "hateful", "annotator_gender")
    require_columns(raw.table, needed, file, "Expected rottger_two_paradigms_g3.parquet as described in its README.")
    hateful = raw.numbers("hateful", one_of(range(2)))
    rows = np.flatnonzero(raw.sound)
    draft = UncheckedRows(
        raw,
        Task(("hateful",)),
        rows,
        text=raw.strings("text")[rows],
        user_id=raw.strings("annotator_id")[rows],
        labels=hateful[rows][:, None].astype(np.float32),
        text_id=raw.strings("text_id")[rows],
        context={"annotator_gender": raw.strings("annotator_gender")[rows]},
        column_of={"user_id": "annotator_id"},
    )
    return admit(draft, f"Two paradigms of hate speech annotation ({file}, CC0)", on_bad_rows)

"""Template of a data set: is a postcard funny? A CSV with the columns card, text, rater, funny and age."""

from __future__ import annotations

from typing import Literal

import numpy as np

from beholder.data.label_rules import one_of
from beholder.data.task import Task
from beholder.data.validation import BadRows, Loaded, Raw, UncheckedRows, admit
from beholder.datasets.config import SourceSettings
from beholder.datasets.io import read_csv, require_columns
from beholder.datasets.locate import find
from beholder.datasets.traits import one_answer_each


class Postcards(SourceSettings):
    """Settings of `postcards`: one label, `funny`; the age of the rater as context column."""

    name: Literal["postcards"] = "postcards"


def load(config: Postcards, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load the postcards, one row per rater and card.

    Raises:
        DataError: not found, damaged, a column is missing, or a row is refused.
    """
    file = config.path or find("postcards")  # `find` looks in the usual places for the file named in `locate.FILES`
    raw = Raw.of(read_csv(file), file)
    require_columns(raw.table, ("card", "text", "rater", "funny", "age"), file, "Expected postcards.csv.")
    funny = raw.numbers("funny", one_of(range(2)))  # float64 [rows]; other values are recorded as problems
    rows = np.flatnonzero(raw.sound)
    raters = raw.strings("rater")[rows]
    draft = UncheckedRows(
        raw,
        Task(("funny",)),
        rows,
        text=raw.strings("text")[rows],
        user_id=raters,
        labels=funny[rows][:, None].astype(np.float32),  # [rows, labels]
        text_id=raw.strings("card")[rows],
        context={"age": one_answer_each(raw.strings("age")[rows], raters).groups()},
        column_of={"user_id": "rater", "text_id": "card"},  # for error messages
    )
    return admit(draft, f"postcards ({file}, CC0)", on_bad_rows)

"""ConvAbuse: is a user of a chatbot abusive, and how? Eight experts, English (Cercas Curry et al. 2021)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from beholder.data.label_rules import one_of
from beholder.data.task import Task
from beholder.data.validation import BadRows, Loaded, Raw, UncheckedRows, admit
from beholder.datasets.config import SourceSettings
from beholder.datasets.duplicates import repeat_numbers, with_repeat_number
from beholder.datasets.io import read_parquet, require_columns
from beholder.datasets.locate import find
from beholder.util.errors import DataError, unknown

CONTEXT = ("bot", "agent", "prev_user", "prev_agent")
ASPECTS = ("type_", "target_", "direction_")


class ConvAbuse(SourceSettings):
    """Settings of `convabuse`.

    Labels: `abusive` (severity < 0), `severe` (severity <= -2), and each `type_*`, `target_*` and `direction_*` column
    that at least `min_positive` of the judgements are positive in. Those columns were only asked when the judgement was
    abusive; a judgement "not abusive" implies 0, which is also what the file holds but for a handful of ambiguous rows
    (severity 0), and there beholder makes it so. `labels` picks by name instead, whatever their share.

    357 judgements are deliberate repeats (same text, same annotator). `repeats: average` takes the mean of the repeats
    on the severity scale and on each 0/1 column, and then cuts: abusive where the mean severity is below 0, severe
    where it is at most -2, an aspect where its mean is at least 0.5 and the mean severity abusive. `repeats: keep`
    keeps each as a row of its own, the second under the text id `c0#2`.
    """

    name: Literal["convabuse"] = "convabuse"
    repeats: Literal["average", "keep"] = "average"
    min_positive: float = Field(default=0.02, ge=0, le=1)
    labels: tuple[str, ...] | None = Field(default=None, min_length=1)


def load(config: ConvAbuse, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load ConvAbuse. See `ConvAbuse` for what its labels mean.

    Raises:
        DataError: not found, damaged, or a row is refused.
    """
    file = find("convabuse", config.path)
    raw = Raw.of(read_parquet(file), file)
    aspects = [name for name in raw.table.column_names if name.startswith(ASPECTS)]
    needed = ("text_id", "text", "annotator_id", "severity", *CONTEXT)
    require_columns(raw.table, needed, file, "Expected convabuse.parquet as described in its README.")
    severity = raw.numbers("severity", one_of(range(-3, 2)))
    flags = np.column_stack(
        [raw.numbers(name, one_of(range(2))) for name in aspects] or [np.empty((len(severity), 0))]
    )  # [rows, aspects]
    rows = np.flatnonzero(raw.sound)
    text_ids, users = raw.strings("text_id")[rows], raw.strings("annotator_id")[rows]
    severity, flags = severity[rows], flags[rows]
    repeat = repeat_numbers(text_ids, users)
    if config.repeats == "average":
        group, first = _groups(text_ids, users)
        count = np.bincount(group, minlength=len(first))
        severity = np.bincount(group, severity, len(first)) / count
        flags = np.column_stack([np.bincount(group, flag, len(first)) / count for flag in flags.T] or [flags[first]])
        rows, text_ids, users = rows[first], text_ids[first], users[first]
    else:
        text_ids = with_repeat_number(text_ids, users)
    abusive = severity < 0
    columns = {"abusive": abusive, "severe": severity <= -2}
    columns |= {name: (flags[:, place] >= 0.5) & abusive for place, name in enumerate(aspects)}
    labels = _chosen(config, columns)
    draft = UncheckedRows(
        raw,
        Task(labels),
        rows,
        text=raw.strings("text")[rows],
        user_id=users,
        labels=np.column_stack([columns[name] for name in labels]).astype(np.float32),
        text_id=text_ids,
        context={name: raw.strings(name)[rows] for name in CONTEXT},
        column_of={"user_id": "annotator_id", "abusive": "severity", "severe": "severity"},
    )
    repeats = "averaged" if config.repeats == "average" else "kept"
    origin = f"ConvAbuse ({file}, CC BY 4.0); {int((repeat > 1).sum())} repeat judgements {repeats}"
    return admit(draft, origin, on_bad_rows)


def _chosen(config: ConvAbuse, columns: dict[str, NDArray[np.bool_]]) -> tuple[str, ...]:
    if config.labels is None:
        always = ("abusive", "severe")
        return tuple(name for name in columns if name in always or columns[name].mean() >= config.min_positive)
    for name in config.labels:
        if name not in columns:
            raise DataError(f"source.labels: {unknown('label', name, columns)}")
    return config.labels


def _groups(text_ids: NDArray[np.object_], users: NDArray[np.object_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The (text, user) group of each row, numbered by first appearance, and the first row of each group."""
    place: dict[tuple[str, str], int] = {}
    keys = zip(text_ids, users, strict=True)
    group = np.fromiter((place.setdefault(key, len(place)) for key in keys), np.int64, len(text_ids))
    return group, np.unique(group, return_index=True)[1].astype(np.int64)

"""Several sources at once, as tasks of one model: a row has the labels of its own task, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from beholder.data.annotations import GROUP, UNIT, Annotations
from beholder.data.task import Task
from beholder.data.validation import BadRows, Loaded
from beholder.datasets.single import SINGLE, SingleConfig
from beholder.util.errors import DataError
from beholder.util.strict_model import Section

TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""Without a dot or a colon: both stand behind it in names made of it."""


class Several(Section):
    """Settings of `several`. `sources`: the tasks, each under a name of its own with its settings."""

    name: Literal["several"] = "several"
    sources: dict[TaskName, SingleConfig] = Field(min_length=2)


def load(config: Several, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load each source and join them. See `join`.

    Raises:
        DataError: a source cannot be used, or has another kind of labels than can stand beside others'.
    """
    loaded = {key: SINGLE[source.name][1](source, on_bad_rows) for key, source in config.sources.items()}
    return Loaded(
        join({key: each.annotations for key, each in loaded.items()}),
        "; ".join(f"{key}: {each.origin}" for key, each in loaded.items()),
        sum(each.refused for each in loaded.values()),
        tuple(file for each in loaded.values() for file in each.refused_files),
    )


def join(tasks: Mapping[str, Annotations]) -> Annotations:
    """All rows of all tasks, one task after the other.

    Labels are called `TASK.label`, those of other tasks NaN (not asked); user and text ids `TASK:id`: nobody is taken
    for somebody else, and one person in two sources is two users. The text itself stays as it is, so that a split
    by text keeps a text that stands in two sources in one part. Context columns are null where a task has none.

    Raises:
        DataError: a task is not multilabel.
    """
    for key, each in tasks.items():
        if each.task.kind != "multilabel":
            raise DataError(
                f"source.sources.{key}: its labels are the classes of one question ({each.task.kind}), which cannot "
                "stand beside other tasks. Make each class a label of its own (kind: multilabel), or leave it out."
            )
    names = [f"{key}.{label}" for key, each in tasks.items() for label in each.task.labels]
    scales = tuple(
        replace(scale, name=f"{key}.{scale.name}") for key, each in tasks.items() for scale in each.task.scales
    )
    labels = np.full((sum(len(each) for each in tasks.values()), len(names)), np.nan, dtype=np.float32)
    row = column = 0
    for each in tasks.values():
        labels[row : row + len(each), column : column + len(each.task.labels)] = each.labels
        row, column = row + len(each), column + len(each.task.labels)
    grouped = [name for name in (GROUP, UNIT) if any(name in each.context_columns for each in tasks.values())]
    tasks = {
        key: each.with_column(name, each.text_keys.tolist()) if name not in each.context_columns else each
        for name in grouped
        for key, each in tasks.items()
    } or tasks
    context = dict.fromkeys(name for each in tasks.values() for name in each.context_columns)
    return Annotations.from_columns(
        Task(tuple(names), scales=scales),
        text=[text for each in tasks.values() for text in each.texts],
        user_id=[f"{key}:{user}" for key, each in tasks.items() for user in each.user_ids],
        labels=labels,
        text_id=[f"{key}:{text}" for key, each in tasks.items() for text in each.text_ids],
        context={name: _column(name, list(tasks.values())) for name in context},
        where="source.sources",
    )


def _column(name: str, tasks: list[Annotations]) -> list[Any]:
    """A context column over all tasks, null where a task has none; as text where its types differ."""
    types = {each.type_of(name) for each in tasks if name in each.context_columns}
    values = [
        value for each in tasks for value in (each.column(name) if name in each.context_columns else [None] * len(each))
    ]
    return values if len(types) == 1 else [None if value is None else str(value) for value in values]

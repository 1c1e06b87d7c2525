"""What an importer makes of the export of an annotation tool."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beholder.util.errors import counted

KEPT = "(repeats: keep)"
"""How a note ends that counts judgements which were given again."""


@dataclass(frozen=True)
class Imported:
    """An export as a table.

    Attributes:
        table: one judgement a row: text, user, answers and context as columns.
        settings: settings of the source `table` that the format states for sure: `text`, `user`, `labels` (label ->
            rule), `label_column`, `kind`, `allow_missing`, `context`. What is not in it has to be inferred from values.
        left_out: column, or part of the export -> why it is not used.
        notes: what else a person should know, a line each.
        stands: int64 [rows], the row of the export (from 0) in which each judgement stands, for messages.
        questions: the columns that hold answers, where `settings` does not state what they mean.
    """

    table: pa.Table
    settings: dict[str, Any]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stands: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    questions: tuple[str, ...] = ()


def repeated(imported: Imported) -> Imported:
    """The same, with the setting that keeps judgements which a person gave twice of a text, where there are some."""
    columns = [imported.settings.get(role) for role in ("text", "user")]
    if None in columns:
        return imported
    pairs = Counter(zip(*(imported.table[column].to_pylist() for column in columns), strict=True))
    again = sum(count - 1 for count in pairs.values())
    if not again:
        return imported
    note = f"{counted(again, 'judgement')} of a text by a person who judged it before: each counts {KEPT}"
    return replace(imported, settings={**imported.settings, "repeats": "keep"}, notes=(*imported.notes, note))

"""What an importer makes of the export of an annotation tool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


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

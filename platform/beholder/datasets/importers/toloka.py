"""Toloka: the TSV of a pool's results.

A row per task and performer (toloka-kit, `GetAssignmentsTsvParameters`): `INPUT:NAME` for the fields of the task,
`OUTPUT:NAME` for the answers, `GOLDEN:NAME` for the known answers of control tasks, `HINT:text`, and
`ASSIGNMENT:worker_id`, `ASSIGNMENT:status` (APPROVED, SUBMITTED, REJECTED, SKIPPED, EXPIRED, ACTIVE) and others. An
empty line stands between the tasks of two assignments.
"""

from __future__ import annotations

from beholder.datasets.importers.crowd import as_table, kept_rows
from beholder.datasets.importers.imported import Imported
from beholder.datasets.importers.values import words
from beholder.datasets.io import FileRows
from beholder.util.errors import DataError

NAME = "Toloka"
INPUT, OUTPUT, GOLDEN, WORKER = "INPUT:", "OUTPUT:", "GOLDEN:", "ASSIGNMENT:worker_id"
USED = ("", "APPROVED", "ACCEPTED", "SUBMITTED")


def recognise(export: FileRows) -> float:
    """`INPUT:` and `OUTPUT:` columns."""
    names = export.names
    inputs, outputs = (any(name.startswith(prefix) for name in names) for prefix in (INPUT, OUTPUT))
    return 0.95 if inputs and outputs else 0.0


def read(export: FileRows) -> Imported:
    """Read the results of a pool.

    Raises:
        DataError: no performers.
    """
    where = export.files[0][0]
    if WORKER not in export.names:
        raise DataError(
            f"{where}: no column {WORKER} in it, which names who judged. Download the results again, with the "
            "performer's id among the columns; aggregated results have none."
        )
    golden = [name for name in export.names if name.startswith(GOLDEN)]
    checks = [
        ("control tasks, whose answer is known (GOLDEN)", lambda row: any(words(row.get(name)) for name in golden)),
        (
            "not accepted (ASSIGNMENT:status)",
            lambda row: (words(row.get("ASSIGNMENT:status")) or "").upper() not in USED,
        ),
    ]
    kept, notes = kept_rows(export, checks)
    inputs = [name for name in export.names if name.startswith(INPUT)]
    outputs = [name for name in export.names if name.startswith(OUTPUT)]
    answers = {name: [words(export.records[row].get(name)) for row in kept] for name in outputs}
    left = [name for name in export.names if name not in (*inputs, *outputs, WORKER)]
    return as_table(export, kept, WORKER, inputs, answers, notes, dict.fromkeys(left, "of the platform"))

"""Appen (CrowdFlower, Figure Eight): the full report.

The full report has a row per judgement: `_unit_id`, `_created_at`, `_golden`, `_id`, `_missed`, `_started_at`,
`_tainted`, `_channel`, `_trust`, `_worker_id`, `_country`, `_region`, `_city`, `_ip`, then the answers, for each
question `QUESTION_gold`, and the columns of the uploaded data. `_golden` marks test questions, whose answer is known
to the platform; `_missed` that the worker did not know it; `_tainted` judgements of workers who failed too many. The
aggregated report (`_trusted_judgments`, `QUESTION:confidence`) has no workers. Several answers of a check box are
lines of one cell.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from beholder.datasets.importers.crowd import judging, kept_rows
from beholder.datasets.importers.imported import Imported
from beholder.datasets.importers.values import is_true, text_column, words
from beholder.datasets.io import FileRows
from beholder.util.errors import DataError

NAME = "Appen"
WORKER, GOLD = "_worker_id", "_gold"
FULL_REPORT = "Download the full report (Results, Reports: Full), which has a row per judgement."


def recognise(export: FileRows) -> float:
    """`_unit_id` with `_worker_id` and `_trust`; or those of the aggregated report, which is refused."""
    names = set(export.names)
    if "_unit_id" not in names:
        return 0.0
    if WORKER in names:
        return 0.95 if names & {"_trust", "_golden", "_channel"} else 0.8
    return 0.9 if names & {"_trusted_judgments", "_unit_state", "_golden"} else 0.5


def read(export: FileRows) -> Imported:
    """Read a full report.

    Raises:
        DataError: an aggregated report.
    """
    where = export.files[0][0]
    if WORKER not in export.names:
        raise DataError(f"{where}: no column {WORKER} in it: an aggregated report, without workers. {FULL_REPORT}")
    kept, notes = kept_rows(
        export,
        [
            ("test questions of the platform (_golden)", lambda row: is_true(row.get("_golden"))),
            ("judgements the platform does not trust (_tainted)", lambda row: is_true(row.get("_tainted"))),
        ],
    )
    names = export.names
    questions = [name for name in names if f"{name}{GOLD}" in names]
    rest = [
        name
        for name in names
        if not name.startswith("_") and name not in questions and not name.endswith((GOLD, f"{GOLD}_reason"))
    ]
    table = {
        name: pa.array([words(export.records[row].get(name)) for row in kept], pa.string())
        for name in (WORKER, *questions, *rest)
    }
    left_out = {name: "of the platform" for name in names if name not in table}
    judged, unused = judging({name: table[name].to_pylist() for name in questions})
    if questions and not judged:
        raise DataError(
            f"{where}: no question judges a text; {'; '.join(f'{name}: {unused[name]}' for name in unused)}."
        )
    table = {name: column for name, column in table.items() if name not in unused}
    left_out |= unused
    text = text_column(rest)
    settings = {"user": WORKER} | ({"text": text} if text else {})
    stands = np.asarray(kept, dtype=np.int64)
    return Imported(pa.table(table), settings, left_out, tuple(notes), stands, tuple(judged))

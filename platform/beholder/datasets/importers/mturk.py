"""Amazon Mechanical Turk: the CSV of a batch's results.

The requester's site (docs.aws.amazon.com/AWSMechTurk, Reviewing Assignments Offline) writes a row per assignment:
`HITId`, `HITTypeId`, ..., `AssignmentId`, `WorkerId`, `AssignmentStatus` (Submitted, Approved or Rejected), times,
`LifetimeApprovalRate` and others, then `Input.NAME` for the columns of the uploaded file, `Answer.NAME` for the
fields of the form, and `Approve` and `Reject`. Forms of Crowd HTML Elements give `Answer.sentiment.label`, or a flag
per option, `Answer.rude.yes`; the newer ones put all answers as JSON into `Answer.taskAnswers`. A row may hold
several texts (`Input.text1`, `Input.text2`) with an answer to each (`Answer.rude1`, `Answer.rude2`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beholder.datasets.importers.crowd import answers_of, as_table, flattened, kept_rows
from beholder.datasets.importers.imported import Imported
from beholder.datasets.importers.values import parsed, words
from beholder.datasets.io import FileRows
from beholder.util.errors import DataError

NAME = "Amazon Mechanical Turk"
INPUT, ANSWER, WORKER = "Input.", "Answer.", "WorkerId"
TASK_ANSWERS = "Answer.taskAnswers"


def recognise(export: FileRows) -> float:
    """`Input.` and `Answer.` columns, with `WorkerId` or `HITId`."""
    names = set(export.names)
    if not any(name.startswith(ANSWER) for name in names):
        return 0.0
    sure = 0.4 + 0.25 * (WORKER in names) + 0.2 * any(name.startswith(INPUT) for name in names)
    return min(0.95, sure + 0.2 * bool(names & {"HITId", "AssignmentId", "AssignmentStatus"}))


def read(export: FileRows) -> Imported:
    """Read the results of a batch.

    Raises:
        DataError: no workers, or no answers.
    """
    where = export.files[0][0]
    if WORKER not in export.names:
        raise DataError(
            f"{where}: no column WorkerId in it, which names who judged. Download the results of the batch again "
            "(Manage, Review Results, Download CSV), and keep that column."
        )
    kept, notes = kept_rows(
        export,
        [
            (
                "the requester rejected the work (AssignmentStatus)",
                lambda row: row.get("AssignmentStatus") == "Rejected",
            ),
            ("nobody has answered yet", lambda row: words(row.get(WORKER)) is None and not _answers(row)),
        ],
    )
    inputs = [name for name in export.names if name.startswith(INPUT)]
    answers = answers_of([_answers(export.records[row]) for row in kept])
    answers = {name: values for name, values in answers.items() if any(value is not None for value in values)}
    left = [name for name in export.names if name not in (*inputs, WORKER) and not name.startswith(ANSWER)]
    return as_table(export, kept, WORKER, inputs, answers, notes, dict.fromkeys(left, "of the platform"))


def _answers(row: Mapping[str, Any]) -> dict[str, str | None]:
    """The answers of a row, those inside JSON under the names they would have as columns."""
    found = {name: words(value) for name, value in row.items() if name.startswith(ANSWER) and name != TASK_ANSWERS}
    inner = parsed(row.get(TASK_ANSWERS))
    for each in inner if isinstance(inner, list) else [inner]:
        if isinstance(each, dict):
            found |= {ANSWER + name: value for name, value in flattened(each).items()}
    return {name: value for name, value in found.items() if value is not None}

"""Prolific: its own export, which describes people and holds no judgements.

The export of a study (researcher-help.prolific.com, Export submissions) has a row per submission: `Submission id`,
`Participant id`, `Status`, `Completion code`, times, and what participants stated of themselves (`Age`, `Sex`,
`Ethnicity simplified`, ...). What they judged stands where they did it: in Qualtrics, a form, or a page of one's own,
under their `PROLIFIC_PID`.
"""

from __future__ import annotations

from beholder.datasets.importers.imported import Imported
from beholder.datasets.io import FileRows
from beholder.util.errors import DataError

NAME = "Prolific"
PERSON = {"Participant id", "participant_id"}
SUBMISSION = {"Submission id", "session_id", "Completion code", "entered_code"}


def recognise(export: FileRows) -> float:
    """`Participant id` beside `Submission id` or `Completion code`."""
    names = set(export.names)
    return 0.9 if names & PERSON and names & SUBMISSION else 0.0


def read(export: FileRows) -> Imported:
    """Refuse it: there are no judgements in it.

    Raises:
        DataError: always; names where the judgements are.
    """
    raise DataError(
        f"{export.files[0][0]}: Prolific's export describes participants and holds no judgements. Give the responses "
        "of the survey they filled in, with PROLIFIC_PID as a column (Qualtrics: keep it as embedded data); columns of "
        "this file can be joined to it by Participant id."
    )

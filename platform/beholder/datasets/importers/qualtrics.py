"""Qualtrics: CSV or TSV of survey responses, with or without Prolific.

The file has three rows of headers (qualtrics.com/support, Understanding Your Dataset): names (`Q1`, `Q2_1`), the
wording of the questions, and `{"ImportId":"QID1"}`. A row per response: `StartDate`, `Status` (`Survey Preview` is a
test), `Finished`, `ResponseId`, `DistributionChannel` (`preview`) and others, then questions and embedded data. Each
statement of a matrix table is a column, with the wording `Question - Statement`. Surveys for workers of Prolific keep
their id as embedded data, called `PROLIFIC_PID` (researcher-help.prolific.com, Integrating Qualtrics with Prolific).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from beholder.datasets.importers.crowd import Check, kept_rows
from beholder.datasets.importers.imported import Imported
from beholder.datasets.importers.questionnaire import QuestionColumn, turned
from beholder.datasets.importers.values import is_true, words
from beholder.datasets.io import FileRows
from beholder.util.errors import DataError

NAME = "Qualtrics"
PERSON = re.compile(r"prolific[_ ]?p?id|(worker|participant|annotator|respondent|rater|user)[_ ]?id|p?pid", re.I)
"""Names of embedded data, or of questions, that hold an id of participants."""
BOOKKEEPING = {
    "StartDate", "EndDate", "Status", "IPAddress", "Progress", "Duration (in seconds)", "Finished", "RecordedDate",
    "ResponseId", "RecipientLastName", "RecipientFirstName", "RecipientEmail", "ExternalReference", "LocationLatitude",
    "LocationLongitude", "DistributionChannel", "UserLanguage", "STUDY_ID", "SESSION_ID", "Q_RecaptchaScore",
}  # fmt: skip
CHECKS: list[Check] = [
    (
        "a preview of the survey",
        lambda row: "preview" in f"{row.get('Status')} {row.get('DistributionChannel')}".lower(),
    ),
    ("not finished", lambda row: words(row.get("Finished")) is not None and not is_true(row.get("Finished"))),
]
TIMING = re.compile(r".*(First Click|Last Click|Page Submit|Click Count|_DO(_.*)?)$")


def recognise(export: FileRows) -> float:
    """The second row below the names holds `ImportId`."""
    rows = export.head(2)
    if len(rows) == 2 and _has_ids(rows[1]):
        return 0.97
    return 0.5 if {"ResponseId", "RecordedDate"} <= set(export.names) else 0.0


def read(export: FileRows) -> Imported:
    """Read responses.

    Raises:
        DataError: the headers with the wording are missing, or no questions hold texts.
    """
    where = export.files[0][0]
    if recognise(export) < 0.9:
        raise DataError(
            f"{where}: the two rows with the wording of the questions and their ids are missing below the names. "
            "Export as CSV from Data & Analysis, and leave all three rows of headers in it."
        )
    wording = {name: words(value) or name for name, value in export.records[0].items()}
    headers = {row + step for row, each in enumerate(export.records) for step in (0, -1) if _has_ids(each)}
    kept, notes = kept_rows(export, CHECKS, headers)
    ids = [name for name in export.names if PERSON.fullmatch(name)]
    person = next((name for name in ids if any(words(export.records[row].get(name)) for row in kept)), "ResponseId")
    users = [words(export.records[row].get(person)) for row in kept]
    if person == "ResponseId":
        notes.append("each response counts as a person (ResponseId): there is no id of participants in the survey")
    questions = [
        QuestionColumn(name, wording[name], [words(export.records[row].get(name)) for row in kept])
        for name in export.names
        if name not in BOOKKEEPING and name != person and not TIMING.fullmatch(f"{name} {wording[name]}")
    ]
    left_out = {name: "of the platform" for name in export.names if name in BOOKKEEPING and name != person}
    return turned(where, questions, users, kept, notes, left_out)


def _has_ids(record: Mapping[str, Any]) -> bool:
    """Whether a row is the one of ids, the third of a file's headers."""
    cells = [str(value) for value in record.values()]
    return sum('"ImportId"' in cell for cell in cells) > 0.5 * len(cells)

"""Google Forms: responses as CSV or as a spreadsheet.

The first column is `Timestamp`; `Email Address` (or `Username`) follows where it was collected; then a column per
question, named by its wording, with the answer's text. Each row of a grid is a column `Question [Row]`. Several
answers of check boxes stand in one cell, separated by commas. A form has no ids of respondents: without e-mail
addresses or a question for an id, each response counts as a person.
"""

from __future__ import annotations

import re

from beholder.datasets.importers.imported import Imported
from beholder.datasets.importers.questionnaire import GRID, QuestionColumn, turned
from beholder.datasets.importers.values import words
from beholder.datasets.io import FileRows

NAME = "Google Forms"
TIMESTAMP = "Timestamp"
ADDRESS = ("Email Address", "Email address", "Username")
ID = re.compile(r"\b(prolific|participant|worker|annotator|respondent|your)\b.*\b(id|code|pid|name)\b", re.I)


def recognise(export: FileRows) -> float:
    """`Timestamp` first, then questions: grids, or sentences as names."""
    names = export.names
    if len(names) < 3 or names[0] != TIMESTAMP:
        return 0.0
    rest = [name for name in names[1:] if name not in ADDRESS]
    grids = sum(GRID.fullmatch(name) is not None for name in rest)
    sentences = sum(len(name.split()) >= 4 for name in rest)
    if grids >= 2:
        return 0.9
    return 0.8 if sentences >= max(2, 0.5 * len(rest)) else 0.3


def read(export: FileRows) -> Imported:
    """Read responses.

    Raises:
        DataError: no questions hold texts.
    """
    rows = [row for row, record in enumerate(export.records) if any(words(value) for value in record.values())]
    person = next((name for name in (*ADDRESS, *filter(ID.search, export.names)) if name in export.names), None)
    notes = []
    if person is None:
        users = [f"response {row + 1}" for row in rows]
        notes.append("each response counts as a person: no e-mail addresses were collected, and no question has ids")
    else:
        users = [words(export.records[row].get(person)) for row in rows]
    questions = [
        QuestionColumn(name, name, [words(export.records[row].get(name)) for row in rows])
        for name in export.names
        if name not in (TIMESTAMP, *ADDRESS, person)
    ]
    left_out = {TIMESTAMP: "when the response was sent"}
    return turned(export.files[0][0], questions, users, rows, notes, left_out)

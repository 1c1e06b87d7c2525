"""Postbox, an invented annotation tool: JSON lines with one card a line.

A line has `card` (the text), `votes`: a list of `{"by", "funny", "stars"}`, where `by` is who voted, and `test`, which
marks cards that are not evaluated. Say here where these facts come from: the tool's documentation, or its exporter.
"""

from __future__ import annotations

from beholder.datasets.importers.answers import AskedQuestion, GivenAnswers, as_judgements
from beholder.datasets.importers.imported import Imported
from beholder.datasets.importers.values import is_true, words
from beholder.datasets.io import FileRows
from beholder.util.errors import DataError, counted

NAME = "Postbox"
QUESTIONS = {"funny": AskedQuestion("binary"), "stars": AskedQuestion("ordinal", (1, 5))}


def recognise(export: FileRows) -> float:
    """`card` beside `votes`: names that no other tool has together."""
    return 0.9 if {"card", "votes"} <= set(export.names) else 0.0


def read(export: FileRows) -> Imported:
    """Read cards with votes.

    Raises:
        DataError: votes without a name; states how to export them from Postbox.
    """
    judged, tests = [], 0
    for row, card in enumerate(export.records):
        if is_true(card.get("test")):
            tests += 1
            continue
        for vote in card.get("votes") or []:
            answers = {name: float(vote[name]) for name in QUESTIONS if vote.get(name) is not None}
            judged.append(GivenAnswers(row, words(card.get("card")), words(vote.get("by")), answers))
    if all(each.user is None for each in judged):
        raise DataError(
            f"{export.files[0][0]}: no vote has a name under by. Export with names, in Postbox: Share, Named."
        )
    return as_judgements(judged, QUESTIONS, notes=[f"{counted(tests, 'card')} for tests left out"] if tests else [])

"""Questionnaires: a row per person, a column per question, whose wording holds the text that was judged.

Questions with the same answers are taken together: what is different in their wording is the text, what is the same
is the question. Questions of other answers describe the person, or are free text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from beholder.datasets.importers.answers import is_free_text
from beholder.datasets.importers.imported import Imported
from beholder.util.errors import DataError, counted

FEWEST_ITEMS = 2
MOST_GROUPS = 12
"""Groups of people that are compared."""
GRID = re.compile(r"(?P<question>.*?)\s*\[(?P<item>.+)\]\s*", re.S)
"""How a grid names its rows in a header."""
DASH = " - "
"""What stands between the question and a row of a matrix table."""
MARKS = ":\"“”'\n"
"""What separates a question from the text it is about."""
FEWEST_WORDS = 2
"""Words that questions have to have in common, where nothing separates them from the text."""
AROUND = " \n\t:\"“”'"


@dataclass(frozen=True)
class QuestionColumn:
    """A question: its column in the export, its wording, and the answers, row by row."""

    column: str
    wording: str
    answers: Sequence[str | None]

    @property
    def given(self) -> list[str]:
        """The answers that were given."""
        return [answer for answer in self.answers if answer is not None]


@dataclass(frozen=True)
class _Item:
    question: str
    text: str
    of: QuestionColumn


def turned(
    where: Path,
    questions: Sequence[QuestionColumn],
    users: Sequence[str | None],
    rows: Sequence[int],
    notes: Sequence[str],
    left_out: Mapping[str, str],
) -> Imported:
    """One judgement for each person and text.

    Args:
        where: the file, for messages.
        questions: all that are no bookkeeping.
        users: who answered, row by row.
        rows: the row of the export that each is.
        notes, left_out: see `Imported`.

    Raises:
        DataError: no two questions have the same answers and differ in their wording.
    """
    items = _items(questions)
    if not items:
        raise DataError(
            f"{where}: no questions that differ only in the text they are about: the texts have to stand in the "
            "wording of the questions, or in the rows of a grid. Give a table with a row per judgement instead."
        )
    used = {item.of.column for item in items}
    left_out = dict(left_out)
    context: dict[str, Sequence[str | None]] = {}
    for each in questions:
        if each.column in used:
            continue
        groups = len(set(each.given))
        if 2 <= groups <= MOST_GROUPS and groups <= 0.7 * len(each.given):
            context[_context_name(each)] = each.answers
            left_out[each.column] = "describes the person; kept, to compare groups in the report"
        else:
            left_out[each.column] = "free text, or another answer of each person" if groups > 1 else "the same for all"
    names = list(dict.fromkeys(item.question for item in items))
    by_text: dict[str, dict[str, QuestionColumn]] = defaultdict(dict)
    for item in items:
        by_text[item.text][item.question] = item.of
    table: dict[str, list[str | None]] = {name: [] for name in ("text", "user", *names, *context)}
    stands = []
    for place, user in enumerate(users):
        for text, asked in by_text.items():
            answers = {name: asked[name].answers[place] if name in asked else None for name in names}
            if all(answer is None for answer in answers.values()):
                continue
            for name, value in {"text": text, "user": user, **answers}.items():
                table[name].append(value)
            for name, values in context.items():
                table[name].append(values[place])
            stands.append(rows[place])
    note = f"{counted(len(by_text), 'text')} in the wording of the questions: turned to a row per person and text"
    settings = {"text": "text", "user": "user"} | ({"context": list(context)} if context else {})
    columns = {name: pa.array(values, pa.string()) for name, values in table.items()}
    imported = Imported(
        pa.table(columns), settings, left_out, (*notes, note), np.asarray(stands, dtype=np.int64), tuple(names)
    )
    return imported


def _items(questions: Sequence[QuestionColumn]) -> list[_Item]:
    """The questions that judge texts, with their text."""
    in_grids = _in_grids([item for item in map(_of_grid, questions) if item is not None])
    if in_grids:
        return in_grids
    groups: dict[frozenset[str], list[QuestionColumn]] = {}
    for each in questions:
        if each.given and not is_free_text(each.given):
            _put(groups, each)
    best = max(groups.values(), key=len, default=[])
    return _by_wording(best) if len(best) >= FEWEST_ITEMS else []


def _in_grids(rows: Sequence[_Item]) -> list[_Item]:
    """The rows of the largest grid, and of others that have most of their rows in common with it.

    Others are no judgements of these texts, but such as what people use how often.
    """
    stems: dict[str, list[_Item]] = defaultdict(list)
    for row in rows:
        stems[row.question].append(row)
    grids = [_stem_taken_off(grid) for grid in stems.values() if len(grid) >= FEWEST_ITEMS]
    texts = {row.text for row in max(grids, key=len, default=[])}
    alike = [grid for grid in grids if sum(row.text in texts for row in grid) >= 0.5 * len(grid)]
    return [row for grid in alike for row in grid]


def _stem_taken_off(grid: list[_Item]) -> list[_Item]:
    """The rows of a grid whose question has a dash in it: what all rows begin with up to a dash is the question."""
    common = _common([row.text for row in grid])
    end = common.rfind(DASH) + len(DASH)
    if end < len(DASH):
        return grid
    question = f"{grid[0].question}{DASH}{common[: end - len(DASH)]}"
    return [_Item(question, row.text[end:].strip(), row.of) for row in grid]


def _of_grid(each: QuestionColumn) -> _Item | None:
    """A row of a grid: `Question [row]` of forms, `Question - row` of matrix tables."""
    match = GRID.fullmatch(each.wording)
    if match and match["question"]:
        return _Item(match["question"].strip(), match["item"].strip(), each)
    question, dash, item = each.wording.partition(DASH)
    return _Item(question.strip(), item.strip(), each) if dash and question.strip() and item.strip() else None


def _put(groups: dict[frozenset[str], list[QuestionColumn]], each: QuestionColumn) -> None:
    """Put a question to those with answers in common; numbers go with numbers."""
    answers = frozenset(each.given)
    numbers = all(re.fullmatch(r"-?\d+(\.\d+)?", answer) for answer in answers)
    for known in groups:
        known_numbers = all(re.fullmatch(r"-?\d+(\.\d+)?", answer) for answer in known)
        if (numbers and known_numbers and _near(answers, known)) or (not numbers and answers & known):
            groups[known | answers] = [*groups.pop(known), each]
            return
    groups[answers] = [each]


def _near(answers: frozenset[str], known: frozenset[str]) -> bool:
    """Whether numbers may be of one scale: an age and a rating are not."""
    highest = max(max(map(float, answers)), max(map(float, known)))
    return min(max(map(float, answers)), max(map(float, known))) >= highest / 3


def _by_wording(group: Sequence[QuestionColumn]) -> list[_Item]:
    """What is different in the wording is the text; without a common part, all of it."""
    wordings = [each.wording for each in group]
    if len(set(wordings)) < len(wordings):
        return []
    start = _cut(_common(wordings))
    rests = [wording[start:] for wording in wordings]
    end = _cut(_common([rest[::-1] for rest in rests]), quoted=True)
    texts = [rest[: len(rest) - end].strip(AROUND) for rest in rests]
    if not all(texts) or len(set(texts)) < len(texts):
        return []
    parts = (wordings[0][:start].strip(AROUND), wordings[0][len(wordings[0]) - end :].strip(AROUND))
    name = " ".join(part for part in parts if part) or "judgement"
    return [_Item(name, text, each) for text, each in zip(texts, group, strict=True)]


def _cut(common: str, quoted: bool = False) -> int:
    """How much of what questions begin with is no part of the text; with `quoted`, a colon separates nothing."""
    marks = MARKS.replace(":", "") if quoted else MARKS
    marked = max(common.rfind(mark) for mark in marks) + 1
    spaced = common.rfind(" ") + 1
    return marked or (spaced if len(common[:spaced].split()) >= FEWEST_WORDS else 0)


def _common(wordings: Sequence[str]) -> str:
    """What all begin with."""
    shortest, longest = min(wordings), max(wordings)
    same = next((place for place, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b), len(shortest))
    return shortest[:same]


def _context_name(each: QuestionColumn) -> str:
    return each.column if each.column not in ("text", "user", "text_id", "user_id", "labels") else f"{each.column}_"

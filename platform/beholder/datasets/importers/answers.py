"""Answers to an annotation tool's questions as columns, and the label rules that follow.

Tools store answers by question: one choice, several choices, a step of a scale, a number. One question with one
choice is a class (`multiclass`). Everything else becomes labels: a column of 0 and 1 for each choice, a column of
numbers for each scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from beholder.datasets.importers.imported import Imported
from beholder.util.errors import counted

AnswerKind = Literal["binary", "choice", "choices", "ordinal", "number"]
TEXT, USER = "text", "user"
STARS = ((1, 5), (1, 7), (0, 10), (1, 10))
"""Scales that are usual; the first that holds all answers is taken where the export does not state the scale."""
MOST_CHOICES = 30
"""More different answers than this are free text."""
YES_NO = {"yes": 1, "no": 0, "true": 1, "false": 0}


@dataclass(frozen=True)
class GivenAnswers:
    """What one person answered about one text.

    Attributes:
        row: of the export, from 0.
        text, user: None where missing, which is refused by row.
        answers: question -> a choice (str), several (a set of str), or a number; a question not answered is missing.
        context: further columns, as text.
    """

    row: int
    text: str | None
    user: str | None
    answers: Mapping[str, str | frozenset[str] | float]
    context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AskedQuestion:
    """A question of the tool. `ends`: lowest and highest answer, where the export states them."""

    kind: AnswerKind
    ends: tuple[float, float] | None = None


@dataclass
class _Columns:
    """Columns and rules, as they are made question by question."""

    table: dict[str, pa.Array] = field(default_factory=dict)
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def as_judgements(
    judged: Sequence[GivenAnswers],
    questions: Mapping[str, AskedQuestion] | None = None,
    left_out: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Imported:
    """Make a table of what people answered, and the settings under which it is read.

    Judgements without any answer are left out and counted. Exactly equal judgements are not: they may have been given
    twice.

    Args:
        judged: in the order of the export.
        questions: in order; their kinds are inferred from the answers where None.
        left_out, notes: see `Imported`.
    """
    questions = kinds_of(judged) if questions is None else questions
    kept = [each for each in judged if any(question in each.answers for question in questions)]
    notes = list(notes)
    if len(kept) < len(judged):
        notes.append(f"{counted(len(judged) - len(kept), 'judgement')} without an answer left out")
    made = _Columns({TEXT: pa.array([each.text for each in kept], pa.string()),
                     USER: pa.array([each.user for each in kept], pa.string())})  # fmt: skip
    if len(questions) == 1 and next(iter(questions.values())).kind == "choice":
        _one_class(made, next(iter(questions)), kept)
    else:
        for name, question in questions.items():
            _add(made, name, question, kept, len(questions) > 1)
    context = list(dict.fromkeys(name for each in kept for name in each.context))
    for name in context:
        made.table[_free(made, name)] = pa.array([each.context.get(name) for each in kept], pa.string())
    settings: dict[str, Any] = {"text": TEXT, "user": USER, **made.settings}
    if made.rules:
        settings["labels"] = made.rules
        if any(made.table[rule.get("column", name)].null_count for name, rule in made.rules.items()):
            settings["allow_missing"] = True
    stands = np.asarray([each.row for each in kept], dtype=np.int64)
    return Imported(pa.table(made.table), settings, dict(left_out or {}), (*notes, *made.notes), stands)


def kinds_of(judged: Sequence[GivenAnswers]) -> dict[str, AskedQuestion]:
    """The questions, in the order in which they were answered, and what kind of answers they have."""
    names = list(dict.fromkeys(name for each in judged for name in each.answers))
    found = {}
    for name in names:
        answers = [each.answers[name] for each in judged if name in each.answers]
        if any(isinstance(answer, frozenset) for answer in answers):
            found[name] = AskedQuestion("choices")
        elif any(isinstance(answer, str) for answer in answers):
            found[name] = AskedQuestion("choice")
        else:
            whole = all(float(answer).is_integer() for answer in answers)  # type: ignore[arg-type]
            found[name] = AskedQuestion("ordinal" if whole and len(set(answers)) <= MOST_CHOICES else "number")
    return found


def is_free_text(answers: Sequence[str]) -> bool:
    """Whether answers are written freely: more of them differ than choices would."""
    distinct = len(set(answers))
    return distinct > MOST_CHOICES or (distinct > 5 and distinct > 0.5 * len(answers))


def _one_class(made: _Columns, name: str, judged: Sequence[GivenAnswers]) -> None:
    answers = [str(each.answers[name]) for each in judged]
    options = sorted(set(answers))
    if _yes_or_no(made, name, answers):
        return
    column = _free(made, name)
    made.table[column] = pa.array(answers, pa.string())
    if len(options) == 1:
        made.rules[f"{name}: {options[0]}"] = {"column": column, "values": {options[0]: 1}}
        made.notes.append(f'"{name}": everybody chose "{options[0]}"; there is nothing to learn of it')
    else:
        made.settings |= {"kind": "multiclass", "label_column": column}


def _yes_or_no(made: _Columns, name: str, answers: Sequence[Any]) -> bool:
    """Make one label of a question that is answered with yes and no; whether it is one."""
    options = sorted({answer for answer in answers if isinstance(answer, str)})
    if len(options) != 2 or {option.lower() for option in options} not in ({"yes", "no"}, {"true", "false"}):
        return False
    column = _free(made, name)
    made.table[column] = pa.array(answers, pa.string())
    made.rules[column] = {"values": {option: YES_NO[option.lower()] for option in options}}
    return True


def _add(made: _Columns, name: str, question: AskedQuestion, judged: Sequence[GivenAnswers], several: bool) -> None:
    answers = [each.answers.get(name) for each in judged]
    if question.kind == "choice" and _yes_or_no(made, name, answers):
        return
    if question.kind in ("choice", "choices"):
        sets = [None if answer is None else _set(answer) for answer in answers]
        for option in sorted({option for chosen in sets if chosen for option in chosen}):
            column = _free(made, f"{name}: {option}" if several and option != name else option)
            made.table[column] = pa.array([None if chosen is None else int(option in chosen) for chosen in sets])
            made.rules[column] = {}
        return
    if question.kind == "binary":
        column = _free(made, name)
        made.table[column] = pa.array([None if answer is None else int(answer) for answer in answers], pa.int8())  # type: ignore[arg-type]
        made.rules[column] = {}
        return
    numbers = [math.nan if answer is None else float(answer) for answer in answers]  # type: ignore[arg-type]
    whole = all(math.isnan(number) or number.is_integer() for number in numbers)
    column = _free(made, name)
    made.table[column] = pa.array(
        [None if math.isnan(number) else int(number) if whole else number for number in numbers],
        pa.int64() if whole else pa.float64(),
    )
    low, high = question.ends or _ends(made, name, question.kind, [each for each in numbers if not math.isnan(each)])
    ends = [int(end) if float(end).is_integer() else end for end in (low, high)]
    made.rules[column] = {"kind": "ordinal" if question.kind == "ordinal" else "continuous", "range": ends}


def _ends(made: _Columns, name: str, kind: AnswerKind, numbers: Sequence[float]) -> tuple[float, float]:
    """The ends of a scale that the export does not state."""
    low, high = min(numbers), max(numbers)
    usual = next((ends for ends in STARS if kind == "ordinal" and ends[0] <= low and high <= ends[1]), None)
    if usual is None and low == high:
        usual = (low, low + 1)
    ends = usual or (low, high)
    made.notes.append(
        f'"{name}": the export does not state the scale; taken as {ends[0]:g} to {ends[1]:g} (answers are {low:g} to '
        f"{high:g}). Correct it under source.labels.{name}.range"
    )
    return ends


def _set(answer: Any) -> frozenset[str]:
    return answer if isinstance(answer, frozenset) else frozenset([str(answer)])


def _free(made: _Columns, name: str) -> str:
    """A column name that is not taken."""
    taken = {*made.table, "text_id", "user_id", "labels"}
    while name in taken:
        name = f"{name}_"
    return name

"""What exports of crowd platforms have in common: prefixed columns, rows that were rejected, several texts per row.

The platforms state which columns the requester gave (inputs), which the worker filled in (answers), and who that was;
what an answer means, its values show.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import pyarrow as pa

from beholder.data.label_rules import present
from beholder.datasets.importers.answers import is_free_text
from beholder.datasets.importers.imported import Imported
from beholder.datasets.importers.values import text_column, words
from beholder.datasets.io import FileRows
from beholder.util.errors import DataError, counted

Check = tuple[str, Callable[[Mapping[str, Any]], bool]]
"""Why a row is left out, and whether it is."""
BLANK: Check = ("nothing in the row", lambda row: all(present(value) is None for value in row.values()))
NUMBER = re.compile(r"\s*[-+]?\d+([.,]\d+)?\s*")
WIDEST_SCALE = 1000
"""No slider goes further."""
NUMBERED = re.compile(r"(?P<name>.*?)[ _.\-]?(?P<number>\d+)(?P<rest>(?:[._]\D*)?)")


def kept_rows(
    export: FileRows, checks: Sequence[Check], headers: Set[int] = frozenset()
) -> tuple[list[int], list[str]]:
    """The rows that are judgements: not blank, none of `headers`, and no check holds for them.

    Returns:
        The rows, from 0; and a line for each reason why others were left out.
    """
    counts: dict[str, int] = {}
    kept = []
    for row, record in enumerate(export.records):
        if row in headers:
            continue
        why = next((why for why, holds in (BLANK, *checks) if holds(record)), None)
        if why is None:
            kept.append(row)
        else:
            counts[why] = counts.get(why, 0) + 1
    return kept, [f"{counted(count, 'row')} left out: {why}" for why, count in counts.items()]


def as_table(
    export: FileRows,
    kept: Sequence[int],
    user: str,
    inputs: Sequence[str],
    answers: Mapping[str, Sequence[str | None]],
    notes: Sequence[str],
    left_out: Mapping[str, str],
) -> Imported:
    """Inputs and answers as a table; rows with several numbered texts become a row for each.

    Args:
        export: with all its rows.
        kept: the rows that count.
        user: the column of who judged.
        inputs: columns the requester gave.
        answers: name -> answers of the kept rows.
        notes, left_out: see `Imported`.

    Raises:
        DataError: no answers in it.
    """
    answers, unused = judging(answers)
    left_out = {**left_out, **unused}
    if not answers:
        raise DataError(
            f"{export.files[0][0]}: no column with answers that judge a text in it"
            f"{''.join(f'; {name}: {why}' for name, why in unused.items())}. Expected the results of workers."
        )
    given = {name: [words(export.records[row].get(name)) for row in kept] for name in inputs}
    given = {name: values for name, values in given.items() if any(value is not None for value in values)}
    users = [words(export.records[row].get(user)) for row in kept]
    slots = numbered_slots(list(given), list(answers))
    if slots:
        return _by_slot(kept, user, users, given, answers, slots, notes, left_out)
    text = text_column(list(given))
    if text is None:
        _refuse_unmatched(export, given, answers)
    settings = {"user": user} | ({"text": text} if text else {})
    table = pa.table({**given, user: users, **answers})
    stands = np.asarray(kept, dtype=np.int64)
    return Imported(table, settings, dict(left_out), tuple(notes), stands, tuple(answers))


def judging(
    answers: Mapping[str, Sequence[str | None]],
) -> tuple[dict[str, Sequence[str | None]], dict[str, str]]:
    """The questions whose answers judge a text; and why the others do not."""
    unused = {}
    for name, values in answers.items():
        given = [value for value in values if value is not None]
        numbers = [float(value.replace(",", ".")) for value in given if NUMBER.fullmatch(value)]
        if len(set(given)) == 1 and len(given) == len(values):
            unused[name] = "the same in every row"
        elif len(numbers) == len(given) and max(map(abs, numbers), default=0) > WIDEST_SCALE:
            unused[name] = f"numbers beyond {WIDEST_SCALE}, such as times"
        elif len(numbers) < len(given) and is_free_text(given):
            unused[name] = "free text"
    return {name: values for name, values in answers.items() if name not in unused}, unused


def numbered_slots(inputs: Sequence[str], answers: Sequence[str]) -> dict[str, dict[str, str]]:
    """Slot number -> {name without number: column}, where several texts of a row have an answer each."""
    of_inputs, of_answers = _families(inputs), _families(answers)
    numbers = {number for number in of_inputs if number in of_answers}
    texts = {name for number in numbers for name in of_inputs[number]}
    if len(numbers) < 2 or any(set(of_inputs[number]) != texts for number in numbers):
        return {}
    without_answer = any(set(of_inputs[number]) & texts for number in of_inputs if number not in numbers)
    if without_answer or any(number not in numbers for number in of_answers):
        return {}
    ordered = sorted(numbers, key=int)
    return {number: {**of_inputs[number], **of_answers[number]} for number in ordered}


def _refuse_unmatched(export: FileRows, inputs: Iterable[str], answers: Iterable[str]) -> None:
    """Refuse rows of several numbered texts that do not have an answer to each."""
    numbers: dict[str, list[str]] = {}
    for of_number in _families(inputs).values():
        for name, column in of_number.items():
            numbers.setdefault(name, []).append(column)
    texts = max(numbers.values(), key=len, default=[])
    if len(texts) > 1:
        raise DataError(
            f"{export.files[0][0]}: {len(texts)} texts a row ({', '.join(texts)}), and not an answer to each by its "
            f"number ({', '.join(answers)}). Give a row per judgement, or number the answers alike."
        )


def _families(names: Iterable[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name in names:
        match = NUMBERED.fullmatch(name)
        if match:
            found.setdefault(str(int(match["number"])), {})[match["name"] + match["rest"]] = name
    return found


def _by_slot(
    kept: Sequence[int],
    user: str,
    users: Sequence[str | None],
    given: Mapping[str, Sequence[str | None]],
    answers: Mapping[str, Sequence[str | None]],
    slots: Mapping[str, Mapping[str, str]],
    notes: Sequence[str],
    left_out: Mapping[str, str],
) -> Imported:
    columns = list(dict.fromkeys(name for slot in slots.values() for name in slot))
    of_answer = [name for name in columns if any(slot.get(name) in answers for slot in slots.values())]
    made: dict[str, list[Any]] = {name: [] for name in (*columns, user)}
    stands = []
    for place, row in enumerate(kept):
        for slot in slots.values():
            cells = {name: {**given, **answers}[slot[name]][place] if name in slot else None for name in columns}
            if all(cells[name] is None for name in of_answer):
                continue
            for name in columns:
                made[name].append(cells[name])
            made[user].append(users[place])
            stands.append(row)
    texts = [name for name in columns if name not in of_answer]
    text = text_column(texts)
    settings = {"user": user} | ({"text": text} if text else {})
    note = f"{len(slots)} texts in a row: turned to a judgement of each, by their number"
    table = pa.table({name: pa.array(values, pa.string()) for name, values in made.items()})
    imported = Imported(
        table, settings, dict(left_out), (*notes, note), np.asarray(stands, dtype=np.int64), tuple(of_answer)
    )
    return imported


def answers_of(rows: Sequence[Mapping[str, str | None]]) -> dict[str, list[str | None]]:
    """Answers by question; radio buttons stored as a flag per option become the option that was chosen.

    Args:
        rows: question, or `question.option`, -> what was written, row by row.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    flags: dict[str, list[str]] = {}
    for name in names:
        question, dot, option = name.rpartition(".")
        values = {str(row.get(name)).lower() for row in rows if row.get(name) is not None}
        if dot and option != "label" and values and values <= {"true", "false", "on"}:
            flags.setdefault(question, []).append(name)
    found: dict[str, list[str | None]] = {}
    for name in names:
        question = name.rpartition(".")[0]
        options = flags.get(question, [])
        if name not in options:
            found[name] = [row.get(name) for row in rows]
            continue
        chosen = [[option for option in options if str(row.get(option)).lower() in ("true", "on")] for row in rows]
        if len(options) > 1 and all(len(each) <= 1 for each in chosen):
            if name == options[0]:
                found[question] = [each[0].rpartition(".")[2] if each else None for each in chosen]
        else:
            shown = [any(row.get(option) is not None for option in options) for row in rows]
            found[name] = [
                str(int(name in each)) if seen or len(options) == 1 else None
                for each, seen in zip(chosen, shown, strict=True)
            ]
    return found


def flattened(value: Any, prefix: str = "") -> dict[str, str | None]:
    """Nested answers under dotted names."""
    if isinstance(value, dict):
        return {
            name: each
            for key, inner in value.items()
            for name, each in flattened(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    if isinstance(value, list):
        return {prefix: json.dumps(value, ensure_ascii=False)}
    return {prefix: str(value).lower() if isinstance(value, bool) else words(value)}

"""Prodigy: JSONL as `prodigy db-out` writes it.

An example has `text` (or `html`), `answer`: `accept`, `reject` or `ignore`, `_annotator_id` and `_session_id` (the
data set's name and the session, `DATASET-NAME`), `_input_hash`, `_task_hash`, `_view_id`, `_timestamp`
(prodi.gy/docs/api-interfaces). Binary classification has `label`: `accept` is yes, `reject` is no, one example per
text and label. Its choice interface has `options` (a list of `{"id", "text"}`) and `accept`, the list of ids that
were chosen; `config.choice_style` is `single` or `multiple`. Sessions without a name are called after the time at
which the server was started, and may be several people or one.
"""

from __future__ import annotations

import re
from typing import Any

from beholder.datasets.importers.answers import AskedQuestion, GivenAnswers, as_judgements
from beholder.datasets.importers.imported import Imported
from beholder.datasets.importers.values import first, parsed, share, words
from beholder.datasets.io import FileRows
from beholder.util.errors import DataError, counted

NAME = "Prodigy"
ANSWERS = {"accept", "reject", "ignore"}
MOMENT = re.compile(r"(.*-)?\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}")
CHOICE = "choice"
"""The question of the choice interface, which has no name."""
NAMED_SESSIONS = "Give each annotator a session of their own: open /?session=NAME (PRODIGY_ALLOWED_SESSIONS)."


def recognise(export: FileRows) -> float:
    """`answer` with Prodigy's three words, beside its own ids."""
    names = set(export.names)
    answers = share(row.get("answer") in ANSWERS for row in first(export))
    if "answer" not in names or answers < 0.95:
        return 0.0
    if names & {"_annotator_id", "_session_id", "_input_hash", "_task_hash", "_view_id"}:
        return 0.95
    return 0.6


def read(export: FileRows) -> Imported:
    """Read examples with one label or with choices.

    Raises:
        DataError: no sessions, or no judgements of whole texts.
    """
    where = export.files[0][0]
    names = set(export.names)
    if not names & {"_annotator_id", "_session_id"}:
        raise DataError(f"{where}: no _annotator_id or _session_id in it, which name who judged. {NAMED_SESSIONS}")
    counts: dict[str, int] = {}
    merged: dict[Any, GivenAnswers] = {}
    multiple = False
    for row, record in enumerate(export.records):
        answer, options = record.get("answer"), parsed(record.get("options"))
        if answer not in ANSWERS or answer == "ignore" or (options and answer == "reject"):
            counts[str(answer)] = counts.get(str(answer), 0) + 1
            continue
        config = parsed(record.get("config")) or {}
        multiple = multiple or config.get("choice_style") == "multiple"
        given = _answers(record, options)
        if not given:
            counts["without a label"] = counts.get("without a label", 0) + 1
            continue
        _merge(merged, row, record, given)
    judged = list(merged.values())
    if not judged:
        raise DataError(
            f"{where}: no example judges a whole text: neither label with accept or reject, nor options with accept. "
            "Spans and entities are not read."
        )
    if all(each.user is None for each in judged):
        raise DataError(f"{where}: _annotator_id and _session_id are empty. {NAMED_SESSIONS}")
    return as_judgements(*_questions(judged, multiple), {}, _notes(counts, judged))


def _answers(record: dict[str, Any], options: Any) -> dict[str, Any]:
    if isinstance(options, list) and options:
        names = {
            str(each.get("id")): str(each.get("text") or each.get("id")) for each in options if isinstance(each, dict)
        }
        chosen = parsed(record.get("accept")) or []
        return {CHOICE: frozenset(names.get(str(each), str(each)) for each in chosen)}
    if isinstance(record.get("label"), str) and not parsed(record.get("spans")):
        return {record["label"]: float(record.get("answer") == "accept")}
    return {}


def _merge(merged: dict[Any, GivenAnswers], row: int, record: dict[str, Any], given: dict[str, Any]) -> None:
    """Put the answers to several labels of one text by one person into one judgement."""
    user = words(record.get("_annotator_id")) or words(record.get("_session_id"))
    text = words(record.get("text")) or words(record.get("html"))
    turn = 0
    while (user, text, turn) in merged and set(merged[user, text, turn].answers) & set(given):
        turn += 1  # the same question again
    before = merged.get((user, text, turn))
    answers = {**before.answers, **given} if before else given
    merged[user, text, turn] = GivenAnswers(before.row if before else row, text, user, answers)


def _questions(judged: list[GivenAnswers], multiple: bool) -> tuple[list[GivenAnswers], dict[str, AskedQuestion]]:
    names = list(dict.fromkeys(name for each in judged for name in each.answers))
    sets = [each.answers[CHOICE] for each in judged if CHOICE in each.answers]
    options = {option for chosen in sets if isinstance(chosen, frozenset) for option in chosen}
    exclusive = not multiple and all(isinstance(chosen, frozenset) and len(chosen) <= 1 for chosen in sets)
    single_choice = exclusive and len(options) > 1
    turned = []
    for each in judged:
        answers: dict[str, Any] = {}
        for name, answer in each.answers.items():
            if not isinstance(answer, frozenset) or not single_choice:
                answers[name] = answer
            elif answer:
                answers[name] = next(iter(answer))
        turned.append(GivenAnswers(each.row, each.text, each.user, answers))
    choice = AskedQuestion("choice" if single_choice else "choices")
    return turned, {name: choice if name == CHOICE else AskedQuestion("binary") for name in names}


def _notes(counts: dict[str, int], judged: list[GivenAnswers]) -> list[str]:
    notes = [
        f"{counted(count, 'example')} {why if why.startswith('without') else f'with answer {why}'} left out"
        for why, count in counts.items()
    ]
    unnamed = {each.user for each in judged if each.user and MOMENT.fullmatch(each.user)}
    if unnamed:
        notes.append(
            f"{counted(len(unnamed), 'session')} without a name, called after a time: each counts as a person. "
            f"{NAMED_SESSIONS}"
        )
    return notes

"""Potato: `annotated_instances.jsonl`, `.csv` and `.tsv`.

Potato (`flask_server.py`, `save_all_annotations`): in CSV and TSV a row per user and instance with `user`,
`instance_id`, `displayed_text`, and a column `SCHEMA:::LABEL` for each label; in JSON lines `user_id` (or the folder
of the file, `annotation_output/USER/annotated_instances.jsonl`), `instance_id` or `id`, `displayed_text`,
`label_annotations`: schema -> {label: value}, `span_annotations` and `behavioral_data`. A radio button or check box
that was chosen has a value (its name, its number, or true); a likert scale has `scale_3: 3`, a slider `slider: 42`, a
text `text_box`.
"""

from __future__ import annotations

import re
from typing import Any

from beholder.datasets.importers.answers import AskedQuestion, GivenAnswers, as_judgements
from beholder.datasets.importers.imported import Imported
from beholder.datasets.importers.values import parsed, words
from beholder.datasets.io import FileRows
from beholder.util.errors import DataError

NAME = "Potato"
SCALE = re.compile(r"scale_(-?\d+)")
TEXT_BOX = re.compile(r"text_?box|text_input|free_response|bad_text|text", re.I)
NOT_CHOSEN = ("", "false", "none", "null")
NUMBERS = {"slider", "number", "range"}
"""Labels whose value is the answer."""
FILE = "annotated_instances"


def recognise(export: FileRows) -> float:
    """`displayed_text` beside `label_annotations` or columns `SCHEMA:::LABEL`."""
    names = set(export.names)
    if {"displayed_text", "label_annotations"} <= names:
        return 0.95
    if {"user", "instance_id"} <= names and any(":::" in name for name in names):
        return 0.95
    return 0.6 if any(":::" in name for name in names) else 0.0


def read(export: FileRows) -> Imported:
    """Read annotated instances.

    Raises:
        DataError: no users, or no labels of whole texts.
    """
    where = export.files[0][0]
    rows = [(row, _user(export, row, record), _labels(record)) for row, record in enumerate(export.records)]
    if all(user is None for _, user, _ in rows):
        raise DataError(
            f"{where}: no user in it, and the file does not lie in a folder called after one. Give all users' files "
            f"as they lie, with the pattern 'annotation_output/*/{FILE}.jsonl'."
        )
    left_out = {"span_annotations": "about parts of a text, not the whole"} if _spans(export) else {}
    questions = _questions(rows, left_out)
    if not questions:
        raise DataError(
            f"{where}: no schema judges a whole text with choices or a scale. Spans and texts are not read."
        )
    judged = []
    for row, user, labels in rows:
        record = export.records[row]
        answers = {name: _answer(labels[name], questions[name]) for name in questions if labels.get(name)}
        given = {name: answer for name, answer in answers.items() if answer is not None}
        judged.append(GivenAnswers(row, words(record.get("displayed_text", record.get("text"))), user, given))
    return as_judgements(judged, questions, left_out)


def _user(export: FileRows, row: int, record: dict[str, Any]) -> str | None:
    user = words(record.get("user")) or words(record.get("user_id")) or words(record.get("username"))
    if user is None and export.place(row)[0].name.startswith(FILE):
        return export.place(row)[0].parent.name or None
    return user


def _labels(record: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Schema -> label -> value, of what was chosen."""
    found: dict[str, dict[str, str]] = {}
    nested = parsed(record.get("label_annotations"))
    for schema, labels in (nested if isinstance(nested, dict) else {}).items():
        for label, value in (labels if isinstance(labels, dict) else {str(labels): "true"}).items():
            found.setdefault(schema, {})[label] = words(value) or ""
    for name, value in record.items():
        schema, mark, label = name.partition(":::")
        if mark and schema != "span_annotation":
            found.setdefault(schema, {})[label] = words(value) or ""
    return {
        schema: {label: value for label, value in labels.items() if _chosen(label, value)}
        for schema, labels in found.items()
    }


def _chosen(label: str, value: str) -> bool:
    if value.strip() == "0":
        return label in NUMBERS or SCALE.fullmatch(label) is not None
    return value.strip().lower() not in NOT_CHOSEN


def _questions(rows: list[Any], left_out: dict[str, str]) -> dict[str, AskedQuestion]:
    """What each schema is, as its labels show."""
    chosen: dict[str, list[dict[str, str]]] = {}
    for _, _, labels in rows:
        for schema, values in labels.items():
            chosen.setdefault(schema, []).append(values)
    questions: dict[str, AskedQuestion] = {}
    for schema, given in chosen.items():
        names = {label for values in given for label in values}
        if not names:
            left_out[schema] = "never answered"
        elif all(SCALE.fullmatch(name) for name in names):
            questions[schema] = AskedQuestion("ordinal")
        elif names <= NUMBERS:
            questions[schema] = AskedQuestion("number")
        elif all(TEXT_BOX.fullmatch(name) for name in names):
            left_out[schema] = "free text"
        elif all(len(values) <= 1 for values in given) and len(names) > 1:
            questions[schema] = AskedQuestion("choice")
        else:
            questions[schema] = AskedQuestion("choices")
    return questions


def _answer(labels: dict[str, str], question: AskedQuestion) -> Any:
    label, value = next(iter(labels.items()))
    if question.kind == "ordinal":
        match = SCALE.fullmatch(label)
        return float(match[1]) if match else None
    if question.kind == "number":
        try:
            return float(value)
        except ValueError:
            return None
    return label if question.kind == "choice" else frozenset(labels)


def _spans(export: FileRows) -> bool:
    return any(parsed(record.get("span_annotations")) for record in export.records)

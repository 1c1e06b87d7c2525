"""Argilla: records of version 2 (nested and flat), feedback data sets of version 1, its first classification.

Version 2 (argilla `records/_io/_generic.py`): `Dataset.records.to_json` and `to_list()` write `id`, `fields`,
`metadata`, `suggestions`, and `responses`: question -> list of `{"value", "user_id"}`. `to_datasets()` and
`to_list(flatten=True)` write fields and metadata as columns and, for each question, `Q.responses`,
`Q.responses.users` and `Q.responses.status` as lists that run in parallel. Version 1
(`FeedbackDataset.format_as("datasets")`, the form on the hub): for each question a column with a list of `{"user_id",
"value", "status"}`, and `Q-suggestion`; its own JSON has `responses`: a list of `{"user_id", "values": {question:
{"value"}}, "status"}`. Its older text classification has `annotation` and `annotation_agent`, one annotation per
record.

A value is a text (a label, or free text), a list of texts (several labels), a number (a rating), a list of spans, or
a ranking; which question it is of is stated, what kind of question is not. Responses that are drafts or discarded are
not used. Suggestions are a model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from beholder.datasets.importers.answers import GivenAnswers, as_judgements, is_free_text, kinds_of
from beholder.datasets.importers.imported import Imported
from beholder.datasets.importers.values import parsed, text_column, words
from beholder.datasets.io import FileRows
from beholder.util.errors import DataError, counted

NAME = "Argilla"
BEYOND = (".responses", ".suggestion", "-suggestion", ".vectors")
KEPT_WITH_A_RECORD = {"id", "status", "_server_id", "external_id", "metadata", "vectors", "inserted_at", "updated_at"}
UNUSED = ("draft", "discarded", "pending")
EXPORT_AGAIN = "Export the records with their responses: dataset.records.to_json(path), or to_datasets()."
Response = tuple[str, Any, str | None, str]  # question, value, user, status


def recognise(export: FileRows) -> float:
    """`fields` with `responses`, columns `Q.responses.users`, `annotation_agent`, or lists of `user_id` and `value`."""
    names = set(export.names)
    if {"fields", "responses"} <= names or any(name.endswith(".responses.users") for name in names):
        return 0.95
    if {"annotation", "annotation_agent"} <= names:
        return 0.9
    return 0.9 if _listed(export) else 0.0


def read(export: FileRows) -> Imported:
    """Read records with responses.

    Raises:
        DataError: no responses, none with a user, or only of questions that are no judgements of a text.
    """
    listed = _listed(export)
    questions = {name.removesuffix(".responses") for name in export.names if name.endswith(".responses")} | set(listed)
    judged: list[GivenAnswers] = []
    left: dict[str, int] = {}
    left_out: dict[str, str] = {}
    keys = _field_keys(export, questions)
    text = text_column(keys)
    if text is None and not keys:
        raise DataError(f"{export.files[0][0]}: no field of the records holds text. {EXPORT_AGAIN}")
    for row, record in enumerate(export.records):
        fields = parsed(record.get("fields")) or record
        by_user: dict[str | None, dict[str, Any]] = {}
        for question, value, user, status in _responses(record, listed):
            if status in UNUSED:
                left[status] = left.get(status, 0) + 1
                continue
            answer = _answer(question, value, left_out, export)
            given = by_user.setdefault(user, {})
            if answer is not None:
                given[question] = answer
        context = {key: words(fields.get(key)) or "" for key in keys if key != text}
        for user, answers in by_user.items():
            judged.append(GivenAnswers(row, words(fields.get(text or "")), user, answers, context))
    notes = [f"{counted(count, 'response')} with status {status} left out" for status, count in left.items()]
    return _made(export, judged, text, keys, left_out, notes)


def _made(
    export: FileRows,
    judged: list[GivenAnswers],
    text: str | None,
    keys: list[str],
    left_out: dict[str, str],
    notes: list[str],
) -> Imported:
    where = export.files[0][0]
    if not judged:
        raise DataError(f"{where}: no record has a submitted response. {EXPORT_AGAIN}")
    if all(each.user is None for each in judged):
        raise DataError(f"{where}: no response has a user_id, which names who judged. {EXPORT_AGAIN}")
    questions = kinds_of(judged)
    for name, question in list(questions.items()):
        answers = [each.answers[name] for each in judged if name in each.answers]
        if question.kind == "choice" and is_free_text([str(answer) for answer in answers]):
            left_out[name] = "free text"
            del questions[name]
    if not questions:
        raise DataError(
            f"{where}: no question judges a text with labels or ratings"
            f"{''.join(f'; {name}: {why}' for name, why in left_out.items())}. Ask such a question."
        )
    if text is None:
        raise DataError(
            f"{where}: several fields may be the text ({', '.join(keys)}). Join them to one, called text, in a new "
            "field of the records."
        )
    return as_judgements(judged, questions, left_out, notes)


def _listed(export: FileRows) -> list[str]:
    """Version 1: the columns that hold lists of responses."""
    found = []
    for name in export.names:
        values = [parsed(row.get(name)) for row in export.head(50)]
        entries = [entry for value in values if value for entry in _entries(value)]
        if entries and all({"user_id", "value"} <= set(entry) for entry in entries):
            found.append(name)
    return found


def _entries(value: Any) -> list[dict[str, Any]]:
    """Responses as objects, whether they are stored as a list of objects or as an object of lists."""
    if isinstance(value, dict) and value and all(isinstance(each, list) for each in value.values()):
        return [dict(zip(value, row, strict=False)) for row in zip(*value.values(), strict=False)]
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _responses(record: dict[str, Any], listed: list[str]) -> Iterator[Response]:
    """Question, value, user and status of every response of a record, in any of the forms."""
    nested = parsed(record.get("responses"))
    if isinstance(nested, dict):
        for question, entries in nested.items():
            for entry in entries or []:
                yield question, entry.get("value"), words(entry.get("user_id")), _status(entry.get("status"))
    for entry in nested if isinstance(nested, list) else []:
        user, status = words(entry.get("user_id")), _status(entry.get("status"))
        for question, held in (entry.get("values") or {}).items():
            yield question, held.get("value") if isinstance(held, dict) else held, user, status
    for name in record:
        if name.endswith(".responses") and record[name]:
            values, question = parsed(record[name]) or [], name.removesuffix(".responses")
            users = parsed(record.get(f"{name}.users")) or [None] * len(values)
            statuses = parsed(record.get(f"{name}.status")) or [None] * len(values)
            for value, user, status in zip(values, users, statuses, strict=False):
                yield question, value, words(user), _status(status)
    for question in listed:
        for entry in _entries(parsed(record.get(question)) or []):
            yield question, entry.get("value"), words(entry.get("user_id")), _status(entry.get("status"))
    if "annotation_agent" in record and record.get("annotation") is not None:
        yield "annotation", record["annotation"], words(record["annotation_agent"]), "submitted"


def _status(status: Any) -> str:
    return str(status or "submitted").rpartition(".")[2].lower()


def _answer(question: str, value: Any, left_out: dict[str, str], export: FileRows) -> Any:
    """A choice, several, or a number; None where it is not used, with the reason in `left_out`."""
    value = parsed(value)
    if isinstance(value, dict) and {"rank", "value"} <= set(value) and isinstance(value["rank"], list):
        value = _entries(value)
    if isinstance(value, list):
        if any(isinstance(each, dict) and "rank" in each for each in value):
            raise DataError(
                f'{export.files[0][0]}: question "{question}" is a ranking of several texts, and no judgement of one. '
                "Leave it out of the export, or turn its pairs into rows of two texts and a winner."
            )
        if any(isinstance(each, dict) for each in value):
            left_out[question] = "spans: about parts of a text, not the whole"
            return None
        return frozenset(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float | str) else None


def _field_keys(export: FileRows, questions: set[str]) -> list[str]:
    """The names of the record's texts."""
    records = export.records
    if "fields" in export.names:
        fields = [parsed(record.get("fields")) for record in records]
        found = [
            key for each in fields if isinstance(each, dict) for key, value in each.items() if isinstance(value, str)
        ]
        return list(dict.fromkeys(found))
    taken = questions | KEPT_WITH_A_RECORD | {"annotation", "annotation_agent", "prediction", "prediction_agent"}
    names = [name for name in export.names if name not in taken and not any(part in name for part in BEYOND)]
    return [name for name in names if any(isinstance(record.get(name), str) for record in records[:200])]

"""Label Studio: JSON, JSON-MIN and CSV exports.

JSON (labelstud.io/guide/task_format): a task has `data` (the texts), and `annotations`, each with `completed_by` (a
number, or an object with `id` and `email`), `was_cancelled` (skipped by the annotator) and `result`: regions with
`from_name` (the control), `type` and `value`, as in `{"choices": ["rude"]}`, `{"rating": 4}`, `{"number": 30}`,
`{"taxonomy": [["People", "Family"]]}`. A `value` with `start` is about a part of the text. Versions before 1.0 have
`completions` instead of `annotations`, `skipped` instead of `was_cancelled`. `predictions` are a model's.

JSON-MIN and CSV (label-studio-converter, `exports/csv2.py` and `utils.prettify_result`): a row per annotation with
the keys of `data`, `annotator`, `annotation_id`, `created_at`, `updated_at`, `lead_time`, and a key per control: a
choice as text, several as `{"choices": [...]}`, others as lists of objects. Which keys are data and which controls is
not stated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from beholder.datasets.importers.answers import AskedQuestion, GivenAnswers, as_judgements
from beholder.datasets.importers.imported import Imported
from beholder.datasets.importers.values import first, is_true, parsed, refused, share, text_column, words
from beholder.datasets.io import FileRows
from beholder.util.errors import DataError, counted

NAME = "Label Studio"
KEPT_WITH_AN_ANNOTATION = {"annotation_id", "created_at", "updated_at", "lead_time", "was_cancelled", "agreement"}
OTHERS = {"textarea": "free text", "pairwise": "compares two texts", "ranker": "a ranking", "datetime": "a time"}
EXPORT_AGAIN = "Export as JSON, which has the annotators."


def recognise(export: FileRows) -> float:
    """`data` and `annotations` of tasks, or `annotator`, `annotation_id` and `lead_time` of flat rows."""
    names = set(export.names)
    if "data" in names and names & {"annotations", "completions"}:
        tasks = [row for row in first(export) if isinstance(row.get("data"), dict)]
        return 0.95 if share("result" in each for task in tasks for each in _annotations(task)) > 0.9 else 0.3
    if {"annotation_id", "lead_time"} <= names:
        return 0.95 if "annotator" in names else 0.8
    return 0.0


def read(export: FileRows) -> Imported:
    """Read tasks with annotations, or flat rows.

    Raises:
        DataError: no annotators, or no judgements of whole texts.
    """
    return _flat(export) if "annotation_id" in export.names else _tasks(export)


def _tasks(export: FileRows) -> Imported:
    data_keys = list(
        dict.fromkeys(
            key
            for task in export.records
            if isinstance(task.get("data"), dict)
            for key, value in task["data"].items()
            if isinstance(value, str)
        )
    )
    text = text_column(data_keys)
    judged: list[GivenAnswers] = []
    kinds: dict[str, str] = {}
    left_out: dict[str, str] = {}
    cancelled = 0
    for row, task in enumerate(export.records):
        if not isinstance(task.get("data"), dict):
            raise refused(export, row, "a task without data", EXPORT_AGAIN)
        for annotation in _annotations(task):
            if annotation.get("was_cancelled") or annotation.get("skipped"):
                cancelled += 1
                continue
            answers = dict(_answers(annotation.get("result") or [], kinds, left_out))
            data = {key: value for key, value in task["data"].items() if isinstance(value, str) and key != text}
            judged.append(GivenAnswers(row, task["data"].get(text or ""), _person(annotation), answers, data))
    if not judged:
        raise DataError(f"{export.files[0][0]}: no task has an annotation. {EXPORT_AGAIN}")
    if all(each.user is None for each in judged):
        raise DataError(f"{export.files[0][0]}: no annotation has completed_by, which names who judged. {EXPORT_AGAIN}")
    if not kinds:
        raise DataError(
            f"{export.files[0][0]}: no judgement of whole texts in it{_what(left_out)}. Expected choices, a rating, a "
            "number or a taxonomy."
        )
    notes = (
        [f"{counted(cancelled, 'annotation')} skipped by the annotator (was_cancelled) left out"] if cancelled else []
    )
    imported = as_judgements(*_complete(judged, kinds), left_out, notes)
    return imported if text else _without_text(imported, data_keys)


def _annotations(task: Any) -> list[dict[str, Any]]:
    found = parsed(task.get("annotations") if task.get("annotations") is not None else task.get("completions"))
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _person(annotation: dict[str, Any]) -> str | None:
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = by.get("id") if by.get("id") is not None else by.get("email") or by.get("username")
    return words(by)


def _answers(results: list[Any], kinds: dict[str, str], left_out: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """AskedQuestion -> answer of one annotation; what each question is, and what is not used, is noted."""
    chosen: dict[str, set[str]] = {}
    for result in results:
        name, value = str(result.get("from_name") or result.get("type")), result.get("value") or {}
        kind = str(result.get("type") or "")
        if not isinstance(value, dict) or "start" in value or "labels" in value:
            left_out[name] = "about parts of a text, not the whole"
        elif isinstance(value.get("choices"), list) or isinstance(value.get("taxonomy"), list):
            kinds[name] = "taxonomy" if "taxonomy" in value else "choices"
            chosen.setdefault(name, set()).update(map(_path, value.get("choices") or value.get("taxonomy") or []))
        elif isinstance(value.get("rating"), int | float) or isinstance(value.get("number"), int | float):
            kinds[name] = "rating" if "rating" in value else "number"
            yield name, float(value["rating"] if "rating" in value else value["number"])
        else:
            left_out[name] = OTHERS.get(kind, f"{kind or 'a result'}, which is not a judgement that is read")
    for name, options in chosen.items():
        yield name, frozenset(options)


def _path(choice: Any) -> str:
    return " / ".join(map(str, choice)) if isinstance(choice, list) else str(choice)


def _complete(judged: list[GivenAnswers], kinds: dict[str, str]) -> tuple[list[GivenAnswers], dict[str, AskedQuestion]]:
    """The questions, and an answer to each where a missing one means something.

    Whether choices are exclusive is not stated, but nobody chose two then. Where they are not, or there is only one, an
    annotation without a choice means none of them.
    """
    questions: dict[str, AskedQuestion] = {}
    for name, kind in kinds.items():
        sets = [each.answers[name] for each in judged if isinstance(each.answers.get(name), frozenset)]
        options = {option for chosen in sets for option in chosen}  # type: ignore[union-attr]
        exclusive = kind == "choices" and len(options) > 1 and all(len(chosen) <= 1 for chosen in sets)  # type: ignore[arg-type]
        numbers: dict[str, AskedQuestion] = {"rating": AskedQuestion("ordinal"), "number": AskedQuestion("number")}
        questions[name] = numbers.get(kind) or AskedQuestion("choice" if exclusive else "choices")
    completed = []
    for each in judged:
        answers: dict[str, Any] = {}
        for name, question in questions.items():
            given = each.answers.get(name)
            if question.kind == "choices":
                answers[name] = given if given is not None else frozenset()
            elif given is not None and given != frozenset():
                answers[name] = next(iter(given)) if isinstance(given, frozenset) else given
        completed.append(GivenAnswers(each.row, each.text, each.user, answers, each.context))
    return completed, questions


def _without_text(imported: Imported, keys: list[str]) -> Imported:
    """The same where it does not show which key of `data` is the text: it has to be named."""
    settings = {key: value for key, value in imported.settings.items() if key not in ("text", "repeats")}
    note = f"the text is one of {', '.join(keys)}: name it" if keys else "no key of data holds text"
    table = imported.table.drop_columns(["text"])
    return Imported(table, settings, imported.left_out, (*imported.notes, note), imported.stands)


def _what(left_out: dict[str, str]) -> str:
    return " (" + "; ".join(f"{name}: {why}" for name, why in left_out.items()) + ")" if left_out else ""


def _flat(export: FileRows) -> Imported:
    """Rows of JSON-MIN and CSV, whose structured answers become columns of 0 and 1, or of numbers."""
    where = export.files[0][0]
    if "annotator" not in export.names:
        raise DataError(f'{where}: there is no "annotator" in it, which names who judged. {EXPORT_AGAIN}')
    records = [{key: parsed(value) for key, value in row.items()} for row in export.records]
    kept = [row for row, record in enumerate(records) if not is_true(record.get("was_cancelled"))]
    rows = [records[row] for row in kept]
    table: dict[str, Any] = {"annotator": [words(row.get("annotator")) for row in rows]}
    left_out = {name: "about the annotation" for name in export.names if name in KEPT_WITH_AN_ANNOTATION}
    for name in export.names:
        if name in ("annotator", "id", *left_out):
            continue
        answers = [_structured(row.get(name)) for row in rows]
        if any(isinstance(answer, frozenset) for answer in answers):  # a single choice is written as text
            sets = [
                frozenset([str(answer)]) if isinstance(answer, str) else answer or frozenset() for answer in answers
            ]
            options = sorted({option for chosen in sets if isinstance(chosen, frozenset) for option in chosen})
            table |= {f"{name}: {option}": [int(option in chosen) for chosen in sets] for option in options}
        elif any(isinstance(answer, dict | list) for answer in answers):
            left_out[name] = "neither choices nor a rating"
        else:
            table[name] = [words(answer) for answer in answers]
    cancelled = len(records) - len(kept)
    notes = (f"{counted(cancelled, 'annotation')} skipped by the annotator (was_cancelled) left out",)
    stands = np.asarray(kept, dtype=np.int64)
    return Imported(pa.table(table), {"user": "annotator"}, left_out, notes if cancelled else (), stands)


def _structured(value: Any) -> Any:
    """An answer of a flat row: several choices as a set, a rating as a number, others as they stand."""
    inner = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(inner, dict):
        if isinstance(inner.get("choices"), list) or isinstance(inner.get("taxonomy"), list):
            return frozenset(map(_path, inner.get("choices") or inner.get("taxonomy") or []))
        number = inner.get("rating", inner.get("number"))
        return number if isinstance(number, int | float) else value
    return value

"""doccano: JSONL, JSON and CSV exports of text classification.

doccano (`backend/data_export/celery_tasks.py`) writes one file per member, called after them (`alice.jsonl`), in a
zip archive, or, where annotations are shared (`collaborative_annotation`), one file `all.jsonl` without annotators.
Rows have `id`, `text` (`data` before version 1.5), `label`: a list of names (in CSV joined by `#`; spans are lists of
start, end and label), and `Comments`. A member's file holds all texts, those they did not annotate with an empty
list. Version 1.0 wrote `annotations`: a list of `{"label", "user"}` with numbers for both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beholder.datasets.importers.answers import AskedQuestion, GivenAnswers, as_judgements
from beholder.datasets.importers.imported import Imported
from beholder.datasets.importers.values import first, parsed, share, words
from beholder.datasets.io import FileRows
from beholder.util.errors import DataError, counted

NAME = "doccano"
PERSON = ("annotator", "username", "user")
LABELS = ("label", "labels", "cats")
SHARED = {"all", "admin_all", "project"}
SHARED_REMEDY = (
    'In doccano, annotations that members share carry no name: copy the project with "Share annotations across all '
    'users" switched off, and export that (a zip archive with a file for each member).'
)


def recognise(export: FileRows) -> float:
    """Lists of labels or spans beside `id` and `text`, in files called after people or in one called `all`."""
    names = set(export.names)
    rows = first(export)
    if "annotations" in names and names & {"text", "data"}:
        entries = [each for row in rows for each in parsed(row.get("annotations")) or [] if isinstance(each, dict)]
        return 0.9 if entries and all({"label", "user"} <= set(each) for each in entries) else 0.0
    column = next((name for name in LABELS if name in names), None)
    if column is None or "id" not in names or not names & {"text", "data"}:
        return 0.0
    if share(isinstance(row.get(column), list) for row in rows) < 0.9 and "Comments" not in names:
        return 0.0
    stems = [_stem(file) for file, _ in export.files]
    several = len(stems) > 1 and len(set(stems)) == len(stems)
    alone = "Comments" in names or stems[0] in SHARED
    return 0.85 if (several and _per_member(export)) or alone or names & set(PERSON) else 0.4


def read(export: FileRows) -> Imported:
    """Read the files of members, or rows that name the annotator.

    Raises:
        DataError: annotators are missing, or labels are spans.
    """
    names = export.names
    person = next((name for name in PERSON if name in names), None)
    if "annotations" in names:
        return _first_version(export)
    column = next((name for name in LABELS if name in names), None)
    if column is None:
        raise DataError(f"{export.files[0][0]}: no column label in it. Export as JSONL.")
    if person is None and (len(export.files) == 1 or _stem(export.files[0][0]) in SHARED):
        raise DataError(f"{export.files[0][0]}: no annotators in it. {SHARED_REMEDY}")
    judged, empty = [], 0
    for row, record in enumerate(export.records):
        labels = _labels(record.get(column), export, row)
        if not labels:
            empty += 1
            continue
        user = words(record.get(person)) if person else _stem(export.place(row)[0])
        text = words(record.get("text", record.get("data")))
        judged.append(GivenAnswers(row, text, user, {"label": labels}))
    notes = [f"{counted(empty, 'row')} without a label left out: doccano does not mark which of them were annotated"]
    return _made(export, judged, notes if empty else [])


def _made(export: FileRows, judged: list[GivenAnswers], notes: list[str]) -> Imported:
    if not judged:
        raise DataError(f"{export.files[0][0]}: no row has a label. Export after the annotators have labelled texts.")
    sets = [frozenset(each.answers["label"]) for each in judged if isinstance(each.answers["label"], frozenset)]
    options = {option for chosen in sets for option in chosen}
    if len(options) < 2 or any(len(chosen) > 1 for chosen in sets):
        return as_judgements(judged, {"label": AskedQuestion("choices")}, {}, notes)
    single = [
        GivenAnswers(each.row, each.text, each.user, {"label": next(iter(chosen))})
        for each, chosen in zip(judged, sets, strict=True)
    ]
    return as_judgements(single, {"label": AskedQuestion("choice")}, {}, notes)


def _first_version(export: FileRows) -> Imported:
    judged = []
    for row, record in enumerate(export.records):
        by_user: dict[str | None, set[str]] = {}
        for each in parsed(record.get("annotations")) or []:
            if "start_offset" in each:
                raise _spans(export, row)
            by_user.setdefault(words(each.get("user")), set()).add(str(each.get("label")))
        text = words(record.get("text", record.get("data")))
        judged += [GivenAnswers(row, text, user, {"label": frozenset(labels)}) for user, labels in by_user.items()]
    return _made(export, judged, ["labels are doccano's numbers; export as JSONL with text labels for their names"])


def _labels(value: Any, export: FileRows, row: int) -> frozenset[str]:
    value = parsed(value)
    if isinstance(value, str):
        return frozenset(part for part in value.split("#") if part)
    if value is None:
        return frozenset()
    if not isinstance(value, list) or any(isinstance(each, list | dict) for each in value):
        raise _spans(export, row)
    return frozenset(map(str, value))


def _spans(export: FileRows, row: int) -> DataError:
    file, number = export.place(row)
    return DataError(
        f"{file}, row {number}: labels of spans, which are about parts of a text. Judgements of whole texts are read: "
        "export a project of type text classification."
    )


def _per_member(export: FileRows) -> bool:
    """Whether texts recur between files, as where each member has a file of all texts."""
    seen: dict[str, str] = {}
    for row, record in enumerate(export.head(20_000)):
        text, file = words(record.get("text", record.get("data"))) or "", str(export.place(row)[0])
        if seen.setdefault(text, file) != file:
            return True
    return False


def _stem(file: Path) -> str:
    """The name of a file without its extensions."""
    return file.name.split(".jsonl")[0].split(".json")[0].split(".csv")[0]

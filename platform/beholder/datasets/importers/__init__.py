"""Exports of annotation tools, as tables with a judgement a row that keep who judged.

An importer is a file here: `NAME` (the tool, as people call it), `recognise(export)`, which gives how sure it is that
rows are an export of the tool (0..1), and `read(export)`, which turns them to an `Imported`. A new one needs a line
in `FORMATS`; it is imported when it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from beholder.data.columns import text_columns
from beholder.datasets.duplicates import surplus
from beholder.datasets.file_rows import without_equal_rows
from beholder.datasets.importers.imported import KEPT, Imported, repeated
from beholder.datasets.io import FileRows, read_rows
from beholder.datasets.profile.guesses import GivenColumns, Guess
from beholder.datasets.profile.infer_columns import InferredColumns, infer
from beholder.util.errors import DataError, counted, unknown

__all__ = ["FORMATS", "Imported", "Importer", "OpenedTable", "inferred", "open_export", "recognise"]

SURE = 0.7
"""A format is recognised from this sureness on."""
NEAR = 0.1
"""Two formats this near each other are not distinguished."""


@dataclass(frozen=True)
class Importer:
    """One importer: the module that does the work, which is imported when it is used."""

    module: str

    @property
    def tool(self) -> str:
        """The tool, as people call it."""
        return self._loaded.NAME

    def recognise(self, export: FileRows) -> float:
        """How sure it is that these rows are an export of the tool: 0..1."""
        return self._loaded.recognise(export)

    def read(self, export: FileRows) -> Imported:
        """The judgements in an export.

        Raises:
            DataError: not such an export, or one without annotators; names the tool's own remedy.
        """
        return self._loaded.read(export)

    @property
    def _loaded(self) -> Any:
        return importlib.import_module(f"beholder.datasets.importers.{self.module}")


FORMATS: dict[str, Importer] = {
    "label-studio": Importer("label_studio"),
    "argilla": Importer("argilla"),
    "doccano": Importer("doccano"),
    "prodigy": Importer("prodigy"),
    "potato": Importer("potato"),
    "mturk": Importer("mturk"),
    "appen": Importer("appen"),
    "toloka": Importer("toloka"),
    "qualtrics": Importer("qualtrics"),
    "google-forms": Importer("google_forms"),
    "prolific": Importer("prolific"),
}
"""Name, as under `source.format` and `--format` -> importer."""


@dataclass(frozen=True)
class OpenedTable:
    """A table that was read, or an export that was turned to one.

    Attributes:
        rows: a judgement a row, or as they stand in the file.
        format: `table`, or the name of the importer.
        imported: what the importer made; None of a table.
    """

    rows: FileRows
    format: str = "table"
    imported: Imported | None = None


def open_export(where: Path | str | Sequence[Path | str], format: str = "auto", header: bool = True) -> OpenedTable:
    """Read a table or the export of an annotation tool.

    Args:
        where, header: see `io.read_rows`.
        format: `table`, the name of an importer, or `auto` for the one that is recognised, `table` if none is.

    Raises:
        DataError: not readable; an unknown format; not an export of the tool; or two tools look alike.
    """
    if format not in ("auto", "table", *FORMATS):
        raise DataError(unknown("format", format, ("auto", "table", *FORMATS)))
    rows = read_rows(where, header)
    found = recognise(rows) if format == "auto" else format
    if found is None or found == "table":
        return OpenedTable(rows)
    distinct = without_equal_rows(rows)
    imported = repeated(FORMATS[found].read(distinct))
    if not imported.table.num_rows:
        raise DataError(f"{rows.files[0][0]}: read as an export of {FORMATS[found].tool}, it holds no judgements.")
    equal = len(rows) - len(distinct)
    if equal:
        note = f"{counted(equal, 'row')} left out: equal to an earlier row of the same file"
        imported = replace(imported, notes=(note, *imported.notes))
    stands = imported.stands if distinct.stands is None else distinct.stands[imported.stands]
    problems = {place: rows.problems[int(row)] for place, row in enumerate(stands) if int(row) in rows.problems}
    return OpenedTable(FileRows(imported.table, rows.files, problems, stands), found, imported)


def recognise(export: FileRows) -> str | None:
    """The name of the tool whose export some rows are; None where they are like none.

    Raises:
        DataError: they are like those of two tools.
    """
    sureness = {name: importer.recognise(export) for name, importer in FORMATS.items()}
    first, second, *_ = sorted(sureness, key=lambda name: -sureness[name])
    if sureness[first] < SURE:
        return None
    if sureness[second] >= SURE and sureness[first] - sureness[second] < NEAR:
        raise DataError(
            f"{export.files[0][0]}: looks like an export of {FORMATS[first].tool} and of {FORMATS[second].tool}. "
            f"Choose: --format {first} or --format {second} (source.format), or --format table for neither."
        )
    return first


def inferred(opened: OpenedTable, given: GivenColumns) -> InferredColumns:
    """What the columns of an export hold: what its format states, and the rest as the values show.

    Args:
        opened: an export.
        given: what the caller knows of its columns.

    Raises:
        DataError: which column holds the text, or what the answers mean, does not show; names the remedy.
    """
    made, where = opened.imported, opened.rows.files[0][0]
    if made is None:
        raise ValueError("a table, which is no export")
    known = {**made.settings, **{role: name for role in ("text", "user") if (name := getattr(given, role))}}
    if not {"labels", "label_column"} & set(known):
        columns = replace(
            given,
            text=known.get("text"),
            user=known.get("user"),
            labels=given.labels or made.questions or None,
        )
        table = made.table.take(pa.array(surplus(made.table).kept))
        found = infer(table, columns, where)
        return replace(
            found,
            settings={**found.settings, **known},
            left_out={**found.left_out, **made.left_out},
            notes=(*made.notes, *(note for note in found.notes if "repeats" not in known or KEPT not in note)),
        )
    for role in ("text", "user"):
        named = text_columns(known[role]) if role == "text" and role in known else [known.get(role)]
        if not set(named) <= set(made.table.column_names):
            raise DataError(
                f"{where}: the export of {FORMATS[opened.format].tool} does not state which column holds the {role}. "
                f"Name it: --{role} COLUMN (source.{role}). It has: {', '.join(made.table.column_names)}."
            )
    if given.labels is not None:
        known["labels"] = _chosen(known, given.labels, where)
    guesses = {role: Guess(known[role], 1.0, f"export of {FORMATS[opened.format].tool}") for role in ("text", "user")}
    return InferredColumns(known, guesses, made.left_out, made.notes)


def _chosen(known: dict[str, Any], names: Sequence[str], where: Path) -> dict[str, Any]:
    """The labels that were named, of those that an export has."""
    labels = known.get("labels", {})
    for name in names:
        if name not in labels:
            what = ", ".join(labels) or f"the classes of {known['label_column']}"
            raise DataError(f"{where}: no label {name!r} for --labels. It has: {what}.")
    return {name: labels[name] for name in names}

"""Values in exports: nested JSON that a table holds as text, ids, and who judged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from beholder.data.label_rules import present
from beholder.datasets.io import FileRows
from beholder.datasets.profile.names import TEXT_LIKE
from beholder.util.errors import DataError

Record = Mapping[str, Any]


def parsed(value: Any) -> Any:
    """A value as JSON where it is text that holds an object or a list; None where nothing was written."""
    value = present(value)
    if isinstance(value, str) and value.strip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def words(value: Any) -> str | None:
    """A value as text, None where nothing was written; whole numbers without a point."""
    value = present(value)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def is_true(value: Any) -> bool:
    """Whether a flag is set: true, 1, yes, as tools write it."""
    return str(value).strip().lower() in ("true", "1", "1.0", "yes", "t")


def text_column(names: Sequence[str]) -> str | None:
    """The one name that may be that of the text: the only one, or the only one that texts are called by."""
    if len(names) == 1:
        return names[0]
    for called in ({"text"}, {"text", *TEXT_LIKE}):
        found = [name for name in names if name.lower().rpartition(".")[2].rpartition(":")[2].strip() in called]
        if len(found) == 1:
            return found[0]
    return None


def first(export: FileRows) -> list[Record]:
    """The first rows of an export, for a look at their form."""
    return list(export.head(50))


def share(rows: Iterable[Any]) -> float:
    """The share of rows that hold."""
    checked = [bool(row) for row in rows]
    return sum(checked) / len(checked) if checked else 0.0


def refused(export: FileRows, row: int, what: str, remedy: str) -> DataError:
    """An error about one row of an export."""
    file, number = export.place(row)
    return DataError(f"{file}, row {number}: {what}. {remedy}")

"""The one table everything flows through: who judged which text how.

A row is one annotation: a user judged a text. `Annotations` is immutable, Arrow-backed and validated when made, so that
no code behind it has to ask whether a text is empty or a label is out of range. What recurs, texts and users, stands
there once, and rows hold its number: five million judgements of 20,000 texts take what their numbers and labels take.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beholder.data.conversions import Convertible
from beholder.data.task import Task, tasks_of
from beholder.data.texts import near_copies, text_key, unit_key
from beholder.util.atomic import atomic_write
from beholder.util.errors import DataError

COLUMNS = ("text_id", "text", "user_id", "labels")
RECURRING = ("text_id", "text", "user_id")
WRITTEN_ROWS = 250_000
"""Rows that are written to a file at once."""


@dataclass(frozen=True)
class RowError:
    """One row refused by validation. `row` counts data rows from 1, the header not counted."""

    row: int
    column: str
    message: str

    def line(self, where: str) -> str:
        return f'{where}, row {self.row}, column "{self.column}": {self.message}'


GROUP = "__text_group"
"""A column: rows with the same value are near copies of one text; see `Annotations.with_near_copies`."""
UNIT = "__unit"
"""A column: rows with the same value stay together where rows are split and intervals drawn, whatever their texts."""


class Annotations(Convertible):
    """An immutable table of judgements and the task they answer.

    Columns: `text_id`, `text`, `user_id` (strings), `labels` (float32 [labels], 0..1, NaN = not asked), and any context
    columns a source adds. Build one with `from_columns`, `from_pandas`, `from_arrow` or `from_datasets`, which check
    every row.
    """

    def __init__(self, table: pa.Table, task: Task) -> None:
        for place, name in enumerate(table.column_names):
            if pa.types.is_string(table[name].type):  # recurring strings stand once
                table = table.set_column(place, name, table[name].dictionary_encode())
        self._table = table.unify_dictionaries().combine_chunks()
        self.task = task

    @classmethod
    def from_columns(
        cls,
        task: Task,
        *,
        text: Sequence[Any],
        user_id: Sequence[Any],
        labels: NDArray[Any],
        text_id: Sequence[Any] | None = None,
        context: Mapping[str, Sequence[Any]] | None = None,
        where: str = "annotations",
    ) -> Annotations:
        """Check every row and build the table.

        Args:
            task: label names, in the order of the columns of `labels`, and kind.
            text, user_id: one per row.
            labels: float [rows, labels] in 0..1; NaN = this label was not asked of this user.
            text_id: one per row; made from the text where None.
            context: further columns, kept as they are.
            where: the file's name, for messages.

        Raises:
            DataError: names the first bad row, its column, its value and the remedy, and counts the others.
        """
        problems = find_problems(task, text=text, user_id=user_id, labels=labels, text_id=text_id)
        if problems:
            more = f" ({len(problems) - 1} more such rows.)" if len(problems) > 1 else ""
            raise DataError(problems[0].line(where) + more)
        if len(text) == 0:
            raise DataError(f"{where}: no annotations. Give at least one row.")
        ids = [str(value) for value in text_id] if text_id is not None else [text_key(value) for value in text]
        flat = pa.array(np.ascontiguousarray(labels, dtype=np.float32).reshape(-1), type=pa.float32())
        columns: dict[str, Any] = {
            "text_id": _dictionary(ids),
            "text": _dictionary([str(value) for value in text]),
            "user_id": _dictionary([str(value) for value in user_id]),
            "labels": pa.FixedSizeListArray.from_arrays(flat, len(task.labels)),
        }
        for name, values in (context or {}).items():
            columns[name] = pa.array(values)
        return cls(pa.table(columns), task)

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def context_columns(self) -> list[str]:
        """Names of the columns a source added."""
        return [name for name in self._table.column_names if name not in COLUMNS]

    def column(self, name: str) -> list[Any]:
        """The values of a context column; rows that say the same share one string."""
        if pa.types.is_dictionary(self._table[name].type):
            return self._strings(name).tolist()
        return self._table[name].to_pylist()

    def type_of(self, name: str) -> pa.DataType:
        """Of a context column."""
        kind = self._table[name].type
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    @cached_property
    def texts(self) -> NDArray[np.object_]:
        """str [rows]"""
        values, index = self.distinct_texts
        return np.asarray(values, dtype=object)[index]

    @cached_property
    def text_ids(self) -> NDArray[np.object_]:
        """str [rows]"""
        return self._strings("text_id")

    @cached_property
    def user_ids(self) -> NDArray[np.object_]:
        """str [rows]"""
        return self._strings("user_id")

    @cached_property
    def labels(self) -> NDArray[np.float32]:
        """float32 [rows, labels], NaN = not asked. Read-only."""
        column = _one(self._table["labels"])
        labels = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        labels = labels.reshape(len(self), len(self.task.labels))
        labels.flags.writeable = False
        return labels

    @property
    def users(self) -> list[str]:
        """Distinct user ids, sorted."""
        return self.by_user[0]

    @cached_property
    def by_user(self) -> tuple[list[str], NDArray[np.int64]]:
        """Distinct user ids, sorted, and for each row the position of its user's: int64 [rows]."""
        values, index = self._encoded("user_id")
        order = np.argsort(np.asarray(values).astype(str), kind="stable")
        place = np.empty(len(values), dtype=np.int64)
        place[order] = np.arange(len(values))
        return [values[each] for each in order], place[index]

    @cached_property
    def distinct_texts(self) -> tuple[list[str], NDArray[np.int64]]:
        """The distinct texts, in order of first appearance, and for each row the position of its text: int64 [rows].

        This is what sharing work rests on: whatever depends on the text alone is computed once per distinct text.
        """
        values, index = self._encoded("text")
        return values, index.astype(np.int64)

    @cached_property
    def text_keys(self) -> NDArray[np.object_]:
        """str [rows]: equal for rows that count as one where rows are split and intervals drawn.

        These are `same_texts`, or what the column `UNIT` holds.
        """
        return self.same_texts if UNIT not in self._table.column_names else self._strings(UNIT)

    @cached_property
    def same_texts(self) -> NDArray[np.object_]:
        """str [rows]: equal for texts that count as one text, whatever their ids.

        See `texts.unit_key`; where near copies were looked for, a column of the table.
        """
        if GROUP in self._table.column_names:
            return np.asarray([*self.column(GROUP), None], dtype=object)[:-1]
        texts, index = self.distinct_texts
        return np.asarray([*map(unit_key, texts), None], dtype=object)[:-1][index]

    def with_near_copies(self, similarity: float) -> Annotations:
        """The same with a column that marks texts that are near copies of each other; see `texts.near_copies`."""
        texts, index = self.distinct_texts
        keys = near_copies(texts, similarity)
        return self.with_column(GROUP, [keys[position] for position in index])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the task and all rows in order: equal fingerprints mean equal data."""
        digest = hashlib.sha256(repr((self.task.labels, self.task.kind, *self.task.scales)).encode())
        for column in (self.text_ids, self.texts, self.user_ids):
            for value in column:
                digest.update(value.encode())
                digest.update(b"\0")
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    @cached_property
    def rows_of_tasks(self) -> dict[str, NDArray[np.int64]]:
        """The rows in which a label of each task was asked: int64 [some]. Empty where there is one task only."""
        asked = ~np.isnan(self.labels)
        return {
            task: np.flatnonzero(asked[:, columns].any(axis=1)) for task, columns in tasks_of(self.task.labels).items()
        }

    def select(self, rows: NDArray[np.integer] | Sequence[int]) -> Annotations:
        """The given rows, in the given order."""
        return Annotations(self._table.take(pa.array(np.asarray(rows, dtype=np.int64))), self.task)

    def with_column(self, name: str, values: Sequence[Any]) -> Annotations:
        """The same rows with one column more, or with other values in it."""
        column = pa.array(values)
        if name in self._table.column_names:
            place = self._table.column_names.index(name)
            return Annotations(self._table.set_column(place, name, column), self.task)
        return Annotations(self._table.append_column(name, column), self.task)

    def relabelled(self, task: Task, labels: NDArray[np.float32]) -> Annotations:
        """The same rows as answers of another task, which are not checked again. labels: float32 [rows, labels]."""
        flat = pa.array(np.ascontiguousarray(labels, dtype=np.float32).reshape(-1), type=pa.float32())
        column = pa.FixedSizeListArray.from_arrays(flat, len(task.labels))
        place = self._table.column_names.index("labels")
        return Annotations(self._table.set_column(place, "labels", column), task)

    def replace_users(self, user_ids: Sequence[str]) -> Annotations:
        """The same judgements under other names: the `shuffled-users` control is made of this."""
        return self.with_column("user_id", list(user_ids))

    def write_parquet(self, file: Path) -> None:
        """Write table and task, strings as strings; the file appears whole or not at all."""
        schema = pa.schema(
            [pa.field(name, self.type_of(name)) for name in self._table.column_names],
            metadata={b"beholder_task": json.dumps(self.task.to_json()).encode()},
        )
        with atomic_write(file) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for start in range(0, max(1, len(self)), WRITTEN_ROWS):
                rows = self._table.slice(start, WRITTEN_ROWS)
                plain = [rows[name].cast(schema.field(name).type) for name in schema.names]
                writer.write_table(pa.table(plain, schema=schema))

    @classmethod
    def read_parquet(cls, file: Path) -> Annotations:
        """Read what `write_parquet` wrote; the rows were checked before they were written."""
        try:
            schema = pq.read_schema(file)
            task = json.loads((schema.metadata or {})[b"beholder_task"])
            strings = [field.name for field in schema if pa.types.is_string(field.type)]
            table = pq.read_table(file, read_dictionary=strings)
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"{file}: damaged, or not written by beholder ({error}). Remove it and run again."
            ) from error
        return cls(table.replace_schema_metadata(None), Task.from_json(task))

    def _strings(self, column: str) -> NDArray[np.object_]:
        """Rows that say the same share one string: millions of rows cost a pointer each."""
        values, index = self._encoded(column)
        return np.asarray([*values, None], dtype=object)[:-1][index]

    def _encoded(self, column: str) -> tuple[list[Any], NDArray[np.int64]]:
        """Distinct values in order of first appearance, and each row's position among them. None is one of them."""
        encoded = _one(self._table[column])
        values = [*encoded.dictionary.to_pylist(), None]
        codes = encoded.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)
        first = np.full(len(values), len(codes), dtype=np.int64)
        np.minimum.at(first, codes, np.arange(len(codes)))
        order = np.argsort(first, kind="stable")[: int((first < len(codes)).sum())]
        place = np.zeros(len(values), dtype=np.int64)
        place[order] = np.arange(len(order))
        return [values[each] for each in order], place[codes]


def _dictionary(values: Sequence[str]) -> pa.Array:
    """Strings as numbers of the distinct ones, in order of first appearance."""
    position: dict[str, int] = {}
    codes = np.fromiter((position.setdefault(value, len(position)) for value in values), np.int32, len(values))
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(position), type=pa.string()))


def _one(column: pa.ChunkedArray) -> Any:
    """A column of one piece, or of none."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def find_problems(
    task: Task,
    *,
    text: Sequence[Any],
    user_id: Sequence[Any],
    labels: NDArray[Any],
    text_id: Sequence[Any] | None = None,
) -> list[RowError]:
    """Every row that fails validation, first problem of each row only, in row order.

    Refused: a missing or empty text or id, a label outside 0..1, a multiclass row whose labels do not add up to one,
    the same user judging the same text twice, a row without any label asked.
    """
    rows = len(text)
    if len(user_id) != rows or labels.shape != (rows, len(task.labels)):
        raise DataError(f"columns differ in length: {rows} texts, {len(user_id)} users, labels {labels.shape}.")
    found: dict[int, RowError] = {}

    def refuse(row: int, column: str, message: str) -> None:
        found.setdefault(row, RowError(row + 1, column, message))

    for column, values in (("text", text), ("user_id", user_id), ("text_id", text_id)):
        for row, value in enumerate(values if values is not None else ()):
            if _missing(value):
                refuse(row, column, "missing value. Fill it in, or pass --on-bad-rows skip.")
            elif not str(value).strip():
                refuse(row, column, "empty. Fill it in, or pass --on-bad-rows skip.")
    values = labels.astype(np.float64)
    for row, column in np.argwhere((values < 0) | (values > 1) | np.isinf(values)):
        refuse(
            int(row),
            task.labels[column],
            f"{values[row, column]:g} is not a label. Expected 0 or 1; a scale has source.labels.*.kind: ordinal or "
            "continuous; or pass --on-bad-rows skip.",
        )
    for row in np.flatnonzero(np.isnan(values).all(axis=1)):
        refuse(int(row), task.labels[0], "no label at all was given. Remove the row, or pass --on-bad-rows skip.")
    if task.kind == "multiclass":
        for row in np.flatnonzero(np.abs(np.nansum(values, axis=1) - 1) > 1e-4):
            total = np.nansum(values[row])
            refuse(
                int(row),
                task.labels[0],
                f"its classes add up to {total:g}, not to one. Fix it, or pass --on-bad-rows skip.",
            )
    good = np.asarray([row for row in range(rows) if row not in found], dtype=np.int64)
    for row, first in _repeats(text if text_id is None else text_id, text_id is None, user_id, good):
        refuse(
            row,
            "text_id" if text_id is not None else "text",
            f"the same user judged the same text already in row {first + 1}. Remove one, "
            "or pass --on-bad-rows skip to keep the first.",
        )
    return [found[row] for row in sorted(found)]


def _repeats(
    text: Sequence[Any], normalised: bool, user_id: Sequence[Any], rows: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """(row, the first row by the same user of the same text) among some rows."""
    position: dict[str, int] = {}
    of_key: dict[str, int] = {}

    def number(value: str) -> int:
        if value not in position:  # each distinct text is normalised once
            position[value] = of_key.setdefault(text_key(value) if normalised else value, len(of_key))
        return position[value]

    users: dict[str, int] = {}
    texts = np.fromiter((number(str(text[row])) for row in rows), np.int64, len(rows))
    user = np.fromiter((users.setdefault(str(user_id[row]), len(users)) for row in rows), np.int64, len(rows))
    _, first, member = np.unique(texts * max(1, len(users)) + user, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[member] != np.arange(len(rows)))
    return [(int(rows[each]), int(rows[first[member[each]]])) for each in again]


def _missing(value: Any) -> bool:
    return (
        value is None or (isinstance(value, float) and np.isnan(value)) or type(value).__name__ in {"NAType", "NaTType"}
    )

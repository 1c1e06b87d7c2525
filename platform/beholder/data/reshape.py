"""Tables that do not have one judgement a row, turned to that whenever they are read: settings under `reshape`.

The file stays as it is. Every row of the result knows the row of the file it comes from, which messages name.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from beholder.data.label_rules import present, written
from beholder.util.errors import DataError, unknown
from beholder.util.strict_model import Section

Problems = dict[int, tuple[str, str]]
FORMS = ("users", "slots", "lists", "label_column")
SKIP = "or pass --on-bad-rows skip."


class Multiselect(Section):
    """A column whose cells hold several labels, as in `anger|joy` or a JSON list: turned to a column for each label.

    Args:
        column: its name.
        labels: the labels there are, each a column of 0 and 1 afterwards. Any other entry is refused.
        separator: between the labels of a cell; None where cells are lists.
        none: entries that stand for no label at all. An empty list is that, too; an empty cell was not answered, unless
            `""` is named.
        not_asked: cells that were not answered either, as in `[N/A]`.
    """

    column: str
    labels: tuple[str, ...] = Field(min_length=1)
    separator: str | None = Field(default=None, min_length=1)
    none: tuple[str, ...] = ()
    not_asked: tuple[str, ...] = ()


class Reshape(Section):
    """How a table becomes one with a judgement in each row; one of the four forms, `multiselect`, or both.

    Args:
        users: columns that are one for each person, with that person's judgements. An empty cell is no judgement.
        slots: new column -> the columns it is made of, as in `{annotator: [annotator_1, annotator_2], rude: [rude_1,
            rude_2]}`: the first of each belong together, then the second of each, and so on. Where all cells of a slot
            are empty there is no judgement.
        slot_as: with `slots`, a further new column that holds the slot's number from 1: who judged, where slots are
            people.
        lists: columns whose cells hold lists that run in parallel, as in `w1,w2` beside `1,0`: one row for each place.
        separator: between the entries of `lists`; JSON lists need none.
        label_column, value_column: rows of a label's name and its value, as in `rude` and `1`: turned to one row for
            each text and user, with a column for each label.
        user, judgement: with `users`, the names of the two new columns.
        multiselect: see `Multiselect`; applied last.
    """

    users: tuple[str, ...] | None = Field(default=None, min_length=2)
    slots: dict[str, tuple[str, ...]] | None = Field(default=None, min_length=1)
    slot_as: str | None = None
    lists: tuple[str, ...] | None = Field(default=None, min_length=2)
    separator: str = Field(default=",", min_length=1)
    label_column: str | None = None
    value_column: str | None = None
    user: str = "user"
    judgement: str = "judgement"
    multiselect: Multiselect | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Reshape:
        given = [name for name in FORMS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: a table has one of these forms; give one")
        if not given and self.multiselect is None:
            raise ValueError(f"give one of {', '.join(FORMS)}, multiselect")
        if (self.label_column is None) != (self.value_column is None):
            raise ValueError("label_column and value_column belong together; give both")
        if self.slots and len({len(columns) for columns in self.slots.values()}) > 1:
            raise ValueError("slots: each new column needs the same number of columns")
        if self.slot_as is not None and not self.slots:
            raise ValueError("slot_as is for slots")
        return self

    @property
    def named(self) -> tuple[str, ...]:
        """The columns of the file that these settings name."""
        of_slots = [column for columns in (self.slots or {}).values() for column in columns]
        pair = [each for each in (self.label_column, self.value_column) if each is not None]
        return tuple(dict.fromkeys([*(self.users or ()), *of_slots, *(self.lists or ()), *pair]))


@dataclass(frozen=True)
class Reshaped:
    """A table with one judgement in each row.

    Attributes:
        table: its rows, in the order of the file's.
        rows: the row of the file each comes from, from 0: int64 [rows].
        problems: row of `table` -> column and message, for rows that could not be turned.
    """

    table: pa.Table
    rows: NDArray[np.int64]
    problems: Problems = field(default_factory=dict)


def reshaped(table: pa.Table, config: Reshape, where: Path, by: Sequence[str] = ()) -> Reshaped:
    """Turn a table to one judgement in each row.

    Args:
        table: as in the file.
        config: which form it has.
        where: the file, for messages.
        by: with `label_column`, the columns that identify a judgement: of the text and of the user.

    Raises:
        DataError: a column is missing, or a new one has the name of one that stays.
    """
    for name in config.named:
        if name not in table.column_names:
            raise DataError(f"{where}: {unknown('column', name, table.column_names)} Fix source.reshape.")
    if config.users is not None:
        made = _of_users(table, config, config.users, where)
    elif config.slots is not None:
        made = _of_slots(table, config.slots, config.slot_as, where)
    elif config.lists is not None:
        made = _of_lists(table, config.lists, config.separator)
    elif config.label_column is not None and config.value_column is not None:
        made = _of_pairs(table, config.label_column, config.value_column, by, where)
    else:
        made = Reshaped(table, np.arange(table.num_rows))
    return made if config.multiselect is None else _with_labels(made, config.multiselect, where)


def entries(cell: Any, separator: str | None) -> list[str] | None:
    """The entries of a cell that holds a list: a list, JSON, Python's notation, or text cut at `separator`.

    None where the cell is empty, or no list and there is no separator.
    """
    if present(cell) is None:
        return None
    if isinstance(cell, list | tuple):
        return [written(each) for each in cell]
    text = str(cell).strip()
    if text.startswith("[") and text.endswith("]"):
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(found, list):
                return [written(each) for each in found]
    return None if separator is None else [each.strip() for each in text.split(separator)]


def _cells(table: pa.Table, column: str) -> NDArray[np.object_]:
    """A column as text, None where empty: object [rows]."""
    cells = [None if present(value) is None else written(value) for value in table[column].to_pylist()]
    return np.asarray([*cells, None], dtype=object)[:-1]


def _free(names: Sequence[str], kept: Sequence[str], where: Path, setting: str) -> None:
    taken = [name for name in names if name in kept]
    if taken:
        raise DataError(
            f'{where}: source.reshape makes a column "{taken[0]}", and there is one of that name. Give another name '
            f"under {setting}."
        )


def _of_users(table: pa.Table, config: Reshape, users: Sequence[str], where: Path) -> Reshaped:
    kept = [name for name in table.column_names if name not in users]
    _free((config.user, config.judgement), kept, where, "source.reshape.user or source.reshape.judgement")
    cells = np.stack([_cells(table, user) for user in users], axis=1)  # [rows, users]
    row, place = np.nonzero(cells != None)  # noqa: E711 - elementwise
    names = np.asarray(users, dtype=object)
    made = {config.user: names[place], config.judgement: cells[row, place]}
    return Reshaped(_rows_with(table, kept, row, made), row.astype(np.int64))


def _of_slots(table: pa.Table, slots: dict[str, tuple[str, ...]], slot_as: str | None, where: Path) -> Reshaped:
    used = {column for columns in slots.values() for column in columns}
    kept = [name for name in table.column_names if name not in used]
    _free([*slots, *([slot_as] if slot_as else [])], kept, where, "source.reshape.slots")
    cells = {name: np.stack([_cells(table, each) for each in columns], axis=1) for name, columns in slots.items()}
    given = np.any([each != None for each in cells.values()], axis=0)  # noqa: E711 - elementwise; [rows, slots]
    row, slot = np.nonzero(given)
    made = {name: each[row, slot] for name, each in cells.items()}
    if slot_as is not None:
        made[slot_as] = np.asarray([str(number + 1) for number in slot], dtype=object)
    return Reshaped(_rows_with(table, kept, row, made), row.astype(np.int64))


def _of_lists(table: pa.Table, lists: Sequence[str], separator: str) -> Reshaped:
    kept = [name for name in table.column_names if name not in lists]
    rows: list[int] = []
    values: dict[str, list[str | None]] = {name: [] for name in lists}
    problems: Problems = {}
    columns = [table[name].to_pylist() for name in lists]
    for row, cells in enumerate(zip(*columns, strict=True)):
        found = [entries(cell, separator) or [] for cell in cells]
        counts = [len(each) for each in found]
        if len(set(counts)) > 1 or not counts[0]:
            what = ", ".join(f'{count} in "{name}"' for name, count in zip(lists, counts, strict=True))
            problems[len(rows)] = (lists[0], f"these lists differ in length or are empty ({what}). Fix them, {SKIP}")
            found = [[""] for _ in lists]
        for name, each in zip(lists, found, strict=True):
            values[name] += [entry or None for entry in each]
        rows += [row] * len(found[0])
    made = {name: np.asarray([*each, None], dtype=object)[:-1] for name, each in values.items()}
    index = np.asarray(rows, dtype=np.int64)
    return Reshaped(_rows_with(table, kept, index, made), index, problems)


def _of_pairs(table: pa.Table, label: str, value: str, by: Sequence[str], where: Path) -> Reshaped:
    kept = [name for name in table.column_names if name not in (label, value)]
    missing = [name for name in by if name not in kept]
    if missing or not by:
        raise DataError(f"{where}: no column {missing[0] if missing else 'of the text'!r}. Name it under source.")
    keys = list(zip(*(_cells(table, name) for name in by), strict=True))
    labels, values = _cells(table, label), _cells(table, value)
    names = list(dict.fromkeys(name for name in labels if name is not None))
    _free(names, kept, where, "the file: rename that label or that column")
    place: dict[Any, int] = {}
    rows: list[int] = []
    given: dict[str, dict[int, str | None]] = {name: {} for name in names}
    problems: Problems = {}
    for row, key in enumerate(keys):
        number = place.setdefault(key, len(rows))
        if number == len(rows):
            rows.append(row)
        name = labels[row]
        if name is None:
            problems.setdefault(number, (label, f"missing value: which label row {row + 1} is of. Fill it in, {SKIP}"))
        elif given[name].setdefault(number, values[row]) != values[row]:
            problems.setdefault(
                number, (value, f'row {row + 1} gives "{name}" again, and otherwise. Remove one of the two, {SKIP}')
            )
    count = range(len(rows))
    made = {name: np.asarray([*(each.get(n) for n in count), None], dtype=object)[:-1] for name, each in given.items()}
    index = np.asarray(rows, dtype=np.int64)
    return Reshaped(_rows_with(table, kept, index, made), index, problems)


def _with_labels(made: Reshaped, config: Multiselect, where: Path) -> Reshaped:
    table = made.table
    if config.column not in table.column_names:
        raise DataError(
            f"{where}: {unknown('column', config.column, table.column_names)} Fix source.reshape.multiselect."
        )
    kept = [name for name in table.column_names if name != config.column]
    _free(config.labels, kept, where, "source.reshape.multiselect: rename that label or that column in the file")
    place = {label: number for number, label in enumerate(config.labels)}
    given = np.zeros((table.num_rows, len(place)), dtype=object)
    problems = dict(made.problems)
    for row, cell in enumerate(table[config.column].to_pylist()):
        found = None if written(cell) in config.not_asked else entries(cell, config.separator)
        if present(cell) is None and "" in config.none:
            found = []
        if found is None:  # not answered, or no list
            given[row] = None
            if present(cell) is not None and written(cell) not in config.not_asked:
                problems.setdefault(row, (config.column, f"no list of labels. Fix it, {SKIP}"))
            continue
        for entry in filter(None, found):
            if entry in place:
                given[row, place[entry]] = 1
            elif entry not in config.none:
                message = f"{unknown('label', entry, config.labels)} Add it under source.reshape.multiselect, {SKIP}"
                problems.setdefault(row, (config.column, message))
    columns = {name: table[name] for name in kept}
    columns |= {label: pa.array(given[:, number].tolist(), pa.int8()) for label, number in place.items()}
    return Reshaped(pa.table(columns), made.rows, problems)


def _rows_with(
    table: pa.Table, kept: Sequence[str], rows: NDArray[np.integer], made: dict[str, NDArray[np.object_]]
) -> pa.Table:
    """Some rows of the columns that stay, with new columns of text."""
    take: Callable[[str], pa.ChunkedArray] = lambda name: table[name].take(pa.array(rows.astype(np.int64)))  # noqa: E731
    columns: dict[str, Any] = {name: take(name) for name in kept}
    columns |= {name: pa.array(values.tolist(), pa.string()) for name, values in made.items()}
    return pa.table(columns)

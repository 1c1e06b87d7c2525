"""What the columns of somebody's table are likely to hold: text, user, labels. Guesses, to be looked at by a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from beholder.data.columns import text_columns
from beholder.data.reshape import Reshape, reshaped
from beholder.data.texts import text_key
from beholder.datasets.profile.column import Column, look_at, pairs_recur
from beholder.datasets.profile.guesses import GivenColumns, Guess, UnsureError
from beholder.datasets.profile.label_columns import in_rows, labels_of
from beholder.datasets.profile.likert import plain
from beholder.datasets.profile.names import SPLIT, is_derived
from beholder.datasets.profile.readings import NOT_ASKED
from beholder.datasets.profile.roles import require, text_of, user_of
from beholder.datasets.profile.shapes import (
    Shape,
    like_people,
    of_lists,
    of_pairs,
    of_people,
    of_slots,
    people,
    refuse_pairs,
)
from beholder.util.errors import DataError, counted

Columns = Mapping[str, Column]
NOBODY = {"none", "unknown", "anonymous", "anon", "[deleted]", "[removed]", "#ref!", "#value!"}
"""What is written where there is no text, or nobody is known."""
Parts = Literal["train, valid, test", "train, test"]


@dataclass(frozen=True)
class InferredColumns:
    """Which columns hold what, how sure that is, and what was left out.

    Attributes:
        settings: of the source `table`, without its path.
        guesses: role (`text`, `user`, `labels.NAME`, `split`, `shape`) -> the column, how sure, and why.
        left_out: column -> why it is not used.
        notes: what a person should know, a line each.
        parts: which parts a column marks rows for; None where there is no such column.
        shape: the form of a table that does not have one judgement a row, in words.
    """

    settings: dict[str, Any]
    guesses: dict[str, Guess]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    parts: Parts | None = None
    shape: str | None = None


@dataclass(frozen=True)
class _Turned:
    """A table with one judgement a row, where each row is in the file, and the form it had."""

    table: pa.Table
    rows: Sequence[int]
    shape: Shape | None = None

    def by(self, shape: Shape, where: Path, by: Sequence[str] = ()) -> _Turned:
        made = reshaped(self.table, Reshape(**shape.reshape), where, by)
        return _Turned(made.table, [self.rows[row] for row in made.rows], shape)


def infer(table: pa.Table, given: GivenColumns, where: Path, rows: Sequence[int] | None = None) -> InferredColumns:
    """Find out which column is what.

    Args:
        table: as in the file, without empty rows and exact duplicates.
        given: what is known already. Named columns are used or refused.
        where: the file, for messages.
        rows: the row of the file (from 0) that each row of `table` is, where some were left out.

    Raises:
        DataError: no column can be the text, the user or a label; lists the columns and how to name one.
        UnsureError: a guess is not sure enough.
    """
    columns = look_at(table)
    for option, names in (("--labels", given.labels), ("--users", given.users)):
        if option == "--users":
            for name in names or ():
                require(columns, name, option, where)
    if given.labels is None:
        refuse_pairs(columns, where)
    turned = _Turned(table, rows if rows is not None else range(table.num_rows))
    shape = _shape(columns, given, where)
    if shape is not None:
        turned = turned.by(shape, where)
        columns = look_at(turned.table)
    if given.text is not None and "{" in given.text:
        columns = _with_template(columns, given.text, where)
    text = text_of(columns, given.text or (shape.text if shape else None), where)
    user = user_of(columns, text.column, given.user or (shape.user if shape else None), where)
    if user is None:
        raise _nobody(columns, text.column, given, where)
    templated = text.column not in turned.table.column_names
    if shape is None and not templated and (given.labels is None or not set(given.labels) <= set(columns)):
        shape = of_pairs(columns, text.column, user.column)
        if shape is not None:
            turned = turned.by(shape, where, (text.column, user.column))
            columns = look_at(turned.table)
    return _settled(columns, turned, text, user, given, where)


def _with_template(columns: Columns, template: str, where: Path) -> dict[str, Column]:
    """The columns with one made of those that a template of the text names, in their place."""
    parts = [require(columns, name, "--text", where) for name in text_columns(template)]
    cells = [
        None if None in row else "\n".join(map(str, row)) for row in zip(*(each.cells for each in parts), strict=True)
    ]
    made = Column(template, np.asarray([*cells, None], dtype=object)[:-1])
    return {template: made, **{name: column for name, column in columns.items() if column not in parts}}


def _shape(columns: Columns, given: GivenColumns, where: Path) -> Shape | None:
    """The form of a table that does not have one judgement a row, as far as its columns alone show."""
    if given.users is not None:
        label = given.labels[0] if given.labels is not None and len(given.labels) == 1 else ""
        chosen = [columns[name] for name in given.users]
        if len(chosen) < 2:
            raise DataError(f"{where}: --users {given.users[0]}: name the columns of two people or more.")
        if given.labels is not None and (not label or label in columns):
            raise DataError(
                f"{where}: --users names the columns with judgements. Leave out --labels, or name one label."
            )
        return people(chosen, columns, label, 1.0, "named")
    for find in (of_lists, lambda all_: of_slots(all_, where), of_people):
        shape = find(columns)
        if shape is None:
            continue
        used = set(Reshape(**shape.reshape).named)
        fits_user = given.user is None or given.user == shape.user or (shape.user is None and given.user not in used)
        fits_text = given.text is None or given.text not in used or given.text == shape.text
        if fits_user and fits_text and not used & set(given.labels or ()) - set(shape.labels or ()):
            return shape
    return None


def _nobody(columns: Columns, text: str, given: GivenColumns, where: Path) -> DataError:
    """What to do where no column names who judged."""
    alike = [each for each in like_people(columns, given.not_asked) if each.name != text]
    alike = [each for each in alike if not is_derived(each.name) and each.name not in (given.labels or ())]
    names = ",".join(each.name for each in alike)
    if len(alike) > 1:
        problem = f"no column identifies the user, and {names.replace(',', ', ')} hold judgements of one kind."
        return UnsureError(
            where,
            problem,
            "--users",
            names,
            [],
            f"If each of them is one person: --users {names}. If not, name who judged: --user COLUMN; "
            f"it has: {', '.join(columns)}. Without people there is nothing to personalise.",
        )
    return DataError(
        f"{where}: no column identifies the user. Name it: --user COLUMN. It has: {', '.join(columns)}. "
        "Without one there is nothing to personalise."
    )


def _settled(
    columns: Columns, turned: _Turned, text: Guess, user: Guess, given: GivenColumns, where: Path
) -> InferredColumns:
    """Labels, parts, repeats: the settings of a table whose text and user are known."""
    shape = turned.shape
    split, parts = _split(columns, text.column, user.column, given)
    rest = {name: column for name, column in columns.items() if name != split}
    derived = shape is not None and "label_column" not in shape.reshape
    if shape is not None and shape.labels and (given.labels is None or given.users is not None):
        given = replace(given, labels=shape.labels)
    labels = labels_of(rest, text.column, user.column, given, where, turned.rows, derived)
    settings: dict[str, Any] = {}
    reshape = dict(shape.reshape) if shape is not None else {}
    if labels.multiselect is not None:
        reshape["multiselect"] = labels.multiselect
    if reshape:
        settings["reshape"] = reshape
    settings |= {"text": text.column, "user": user.column, **labels.settings}
    if labels.context:
        settings["context"] = labels.context
    if split is not None:
        settings["split_column"] = split
    notes = [*_without(columns, text, user, turned.rows), *labels.notes]
    again = _judged_again(columns[text.column], columns[user.column])
    if again:
        settings["repeats"] = "keep"
        notes.append(
            f"{counted(again, 'judgement')} of a text by a person who judged it before, and otherwise: each counts "
            "(repeats: keep). Equal ones count once, unless a further column, as a time, separates them"
        )
    if given.join_ids:
        settings["user_ids"] = "fold"
    guesses = {"text": text, "user": user, **{f"labels.{name}": guess for name, guess in labels.guesses.items()}}
    guesses |= {"split": Guess(split, 0.9, f"marks rows for {parts}")} if split else {}
    guesses |= {"shape": shape.guess} if shape else {}
    what = shape.what if shape else None
    return InferredColumns(settings, guesses, labels.left_out, tuple(notes), parts, what)


def _split(columns: Columns, text: str, user: str, given: GivenColumns) -> tuple[str | None, Parts | None]:
    """The column that marks rows for training and test, and whether it marks some for validation."""
    for name, column in columns.items():
        parts = {value.strip().casefold() for value in column.values}
        if name in (text, user, *(given.labels or ())) or column.nested or column.missing or not parts <= SPLIT:
            continue
        trains, tests = parts & {"train", "training"}, parts & {"test"}
        if trains and tests:
            return name, "train, valid, test" if parts - trains - tests else "train, test"
    return None, None


def _without(columns: Columns, text: Guess, user: Guess, rows: Sequence[int]) -> list[str]:
    """Rows that have no text or no user: they are refused."""
    empty = {role: np.flatnonzero(columns[guess.column].codes < 0) for role, guess in (("text", text), ("user", user))}
    notes = [
        f"without a {role}: {in_rows(places, rows)}. Fill it in, or run with --on-bad-rows skip"
        for role, places in empty.items()
        if len(places)
    ]
    for role, guess in (("text", text), ("user", user)):
        column = columns[guess.column]
        nothing = {value for value in column.distinct if plain(value) in (NOT_ASKED | NOBODY) - {"?", "??"}}
        if nothing:
            written = ", ".join(f'"{value}"' for value in sorted(nothing))
            places = column.rows_of(nothing)
            what = "one person" if role == "user" else "a text"
            notes.append(f"{written} counts as {what}: {in_rows(places, rows)}. If it means nothing, empty the cells")
    return notes


def _judged_again(text: Column, user: Column) -> int:
    """How many rows judge a text that the same person judged in an earlier one."""
    keys = {value: text_key(value) for value in text.distinct}
    same = Column(text.name, np.asarray([*(keys.get(cell) for cell in text.cells), None], dtype=object)[:-1])
    return pairs_recur(same, user)

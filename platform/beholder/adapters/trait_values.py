"""People's traits, read from context columns: one value for each person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from beholder.adapters.traits import Traits
from beholder.data.annotations import Annotations
from beholder.datasets.traits import UNKNOWN
from beholder.util.errors import MethodError, unknown

SETTING = "bank.prior.traits"


def traits_of(tables: Sequence[Annotations], columns: Sequence[str]) -> dict[str, Traits]:
    """The traits of everybody in these tables, user -> column -> value.

    Empty values, and the group `unknown` that sources give people of whom nothing was stated, are missing: they are
    left out, as are columns that a table does not have.

    Raises:
        MethodError: a column has several values for one person; names it, and counts the people.
    """
    found: dict[str, dict[str, str]] = {user: {} for rows in tables for user in rows.users}
    for column in columns:
        several: set[str] = set()
        for rows in tables:
            if column not in rows.context_columns:
                continue
            for user, value in dict.fromkeys(zip(rows.user_ids, map(_written, rows.column(column)), strict=True)):
                if value and found[user].setdefault(column, value) != value:
                    several.add(user)
        if several:
            raise MethodError(
                f'{SETTING}: column "{column}" has more than one value for {len(several):,} of {len(found):,} people. '
                "A trait has one value for each person: correct the column, or remove it from the traits."
            )
    return {user: traits for user, traits in found.items()}


def require_columns(rows: Annotations, columns: Sequence[str]) -> Annotations:
    """The same rows; refuse traits that are no context columns.

    Raises:
        MethodError: names the first such column, and those there are.
    """
    there = rows.context_columns
    for column in columns:
        if column not in there:
            if not there:
                raise MethodError(f"{SETTING}: no column {column!r}: this data has no context columns. Remove it.")
            raise MethodError(f"{SETTING}: {unknown('context column', column, there)}")
    return rows


def merged(*several: Mapping[str, Traits]) -> dict[str, Traits]:
    """Traits from several places, value by value; the later place wins."""
    users = dict.fromkeys(user for each in several for user in each)
    return {user: {column: value for each in several for column, value in each.get(user, {}).items()} for user in users}


def _written(value: Any) -> str:
    """A value as text; empty where it is missing."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    text = str(value).strip()
    return "" if text == UNKNOWN else text

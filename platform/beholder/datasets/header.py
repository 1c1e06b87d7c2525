"""Whether the first row of a table names its columns, or is data already."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

LOOKED_AT = 2_000
"""Rows below the first that are looked at."""
FEWEST_WORDS = 3
"""Of a cell that is taken for a sentence."""


def numbered(count: int) -> list[str]:
    """Names for columns without any: `column1`, `column2`, and so on."""
    return [f"column{number}" for number in range(1, count + 1)]


def looks_like_data(table: pa.Table) -> bool:
    """Whether the names of the columns look like a row of the table: each like what stands below it.

    A name looks like data where it occurs among the values of its column, is a number above numbers, is a sentence
    above sentences, or is built like most of them (`w1` above `w4`). All names have to, one of them has to occur below,
    and not all may be bare numbers, which annotators' columns are often called (`1`, `2`, `3`).
    """
    if table.num_columns < 2 or not table.num_rows:
        return False
    rows = table.slice(0, LOOKED_AT)
    columns = [[str(value) for value in column.to_pylist() if value not in (None, "")] for column in rows.columns]
    pairs = [(name, values) for name, values in zip(table.column_names, columns, strict=True) if name and values]
    if len(pairs) < 2 or all(_number(name) for name, _ in pairs):
        return False
    return any(name in values for name, values in pairs) and all(_like(name, values) for name, values in pairs)


def _like(name: str, values: Sequence[str]) -> bool:
    if name in values:
        return True
    if _number(name):
        return all(map(_number, values))
    words = len(name.split())
    if words >= FEWEST_WORDS and float(np.median([len(value.split()) for value in values])) >= FEWEST_WORDS:
        return True
    built = _shape(name)
    return "9" in built and sum(_shape(value) == built for value in values) > 0.5 * len(values)


def _number(value: str) -> bool:
    return re.fullmatch(r"\s*[-+]?\d+(?:[.,]\d+)?\s*", value) is not None


def _shape(value: str) -> str:
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", value))

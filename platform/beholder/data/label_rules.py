"""How a value in a file becomes a label: a number, or an error that names what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ASK_AGAIN = "fetch the file again, or pass --on-bad-rows skip."
NOT_ASKED = math.nan

Rule = Callable[[Any], float]


class RefusedValueError(ValueError):
    """A value that is no label; the message states what was expected and what to do."""


def parse_column(column: pa.ChunkedArray, rule: Rule) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Apply a rule to every value of a column, once per distinct value.

    Args:
        column: any Arrow type; missing is null, NaN or empty text, and reaches the rule as None.
        rule: the number for a value; raises `RefusedValueError`.

    Returns:
        float64 [rows], NaN where not asked or refused; and for each refused row (from 0) the message.
    """
    try:
        encoded = pa.chunked_array([column.combine_chunks()]).dictionary_encode().combine_chunks()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        message = f"{_shown(column[0].as_py())} is not a label but a value of type {column.type}. Name another column."
        return np.full(len(column), NOT_ASKED), dict.fromkeys(range(len(column)), message)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    distinct = [*encoded.dictionary.to_pylist(), None]  # the last stands for null
    index = encoded.indices.fill_null(len(distinct) - 1).to_numpy(zero_copy_only=False)
    numbers = np.full(len(distinct), NOT_ASKED)
    refusals: dict[int, str] = {}
    for position in np.unique(index):
        try:
            numbers[position] = rule(present(distinct[position]))
        except RefusedValueError as refusal:
            refusals[int(position)] = str(refusal)
    refused = np.flatnonzero(np.isin(index, list(refusals)))
    return numbers[index], {int(row): refusals[int(index[row])] for row in refused}


def present(value: Any) -> Any:
    """The value, or None where nothing was written: null, NaN, empty text."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return None if isinstance(value, str) and not value.strip() else value


def number(value: Any, remedy: str) -> float:
    """The value as a number; truth values are 1 and 0.

    Raises:
        RefusedValueError: it is none.
    """
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    try:
        parsed = float(value)
    except (TypeError, ValueError):
        raise RefusedValueError(f"{_shown(value)} is not a label. {remedy}") from None
    if not math.isfinite(parsed):
        raise RefusedValueError(f"{_shown(value)} is not a label. {remedy}")
    return parsed


def one_of(allowed: range, remedy: str = ASK_AGAIN, missing: bool = False) -> Rule:
    """The rule for whole numbers in `allowed`; with `missing`, an empty value is "not asked"."""
    expected = f"{allowed[0]} or {allowed[-1]}" if len(allowed) == 2 else f"{allowed[0]} to {allowed[-1]}"

    def rule(value: Any) -> float:
        if value is None:
            if missing:
                return NOT_ASKED
            raise RefusedValueError(f"missing value. Expected {expected}; {remedy}")
        parsed = number(value, f"Expected {expected}; {remedy}")
        if parsed not in allowed:
            raise RefusedValueError(f"{_shown(value)} is not a label. Expected {expected}; {remedy}")
        return parsed

    return rule


def class_of(names: Sequence[str], remedy: str = ASK_AGAIN) -> Rule:
    """The rule for the name of a class: its position in `names`."""
    expected = f"{', '.join(names[:-1])} or {names[-1]}"

    def rule(value: Any) -> float:
        if value is None:
            raise RefusedValueError(f"missing class. Expected {expected}; {remedy}")
        if str(value).strip() not in names:
            raise RefusedValueError(f"{_shown(value)} is not a class. Expected {expected}; {remedy}")
        return names.index(str(value).strip())

    return rule


def _shown(value: Any) -> str:
    text = str(value)
    return f'"{text if len(text) <= 60 else text[:57] + "..."}"'

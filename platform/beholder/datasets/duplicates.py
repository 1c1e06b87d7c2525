"""Judgements given twice: the same user, the same text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from beholder.data.validation import Raw


def without_repeats(rows: NDArray[np.integer], raw: Raw, text: str, user: str) -> tuple[NDArray[np.integer], int]:
    """Keep the first judgement of each (text, user), in file order.

    Args:
        rows: rows of `raw` to look at.
        raw: the file's rows.
        text, user: the columns of their ids. A row without one stays, for validation to refuse.

    Returns:
        The rows kept, and how many were left out.
    """
    texts, users = raw.strings(text), raw.strings(user)
    seen: set[tuple[Any, Any]] = set()
    first = np.ones(len(rows), dtype=bool)
    for place, row in enumerate(rows):
        key = (texts[row], users[row])
        if all(key):
            first[place] = key not in seen
            seen.add(key)
    return rows[first], int((~first).sum())


def repeat_numbers(text_ids: NDArray[np.object_], users: NDArray[np.object_]) -> NDArray[np.int64]:
    """1 for the first judgement of a text by a user, 2 for the second, and so on: int64 [rows]."""
    seen: dict[tuple[str, str], int] = {}
    numbers = np.empty(len(text_ids), dtype=np.int64)
    for row, key in enumerate(zip(text_ids, users, strict=True)):
        numbers[row] = seen[key] = seen.get(key, 0) + 1
    return numbers


def with_repeat_number(text_ids: NDArray[np.object_], users: NDArray[np.object_]) -> NDArray[np.object_]:
    """Ids under which every repeat is a judgement of its own: `c7`, `c7#2`, ..."""
    numbers = repeat_numbers(text_ids, users)
    return np.asarray([f"{text}#{n}" if n > 1 else text for text, n in zip(text_ids, numbers, strict=True)], object)

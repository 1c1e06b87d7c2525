"""Judgements given twice: the same user, the same text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from beholder.sources.door import Raw


def without_repeats(rows: NDArray[np.integer], raw: Raw, text: str, user: str) -> tuple[NDArray[np.integer], int]:
    """Keep the first judgement of each (text, user), in file order.

    Args:
        rows: rows of `raw` to look at.
        raw: the file's rows.
        text, user: the columns of their ids. A row without one stays, for the door to refuse.

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

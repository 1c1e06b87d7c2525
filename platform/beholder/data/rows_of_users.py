"""Rows of annotations found by user, and users cut into blocks."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from beholder.data.annotations import Annotations


class RowsByUser:
    """Rows of annotations, found by user."""

    def __init__(self, names: Sequence[str], user: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Hold rows by user.

        Args:
            names: users.
            user: int64 [rows], the position of each one's user.
            rows: int64 [rows], positions among the annotations.
        """
        order = np.argsort(user, kind="stable")
        self._names, self._sorted, self._order = list(names), user[order], rows[order]
        self._place = {name: place for place, name in enumerate(names)}

    @classmethod
    def of(cls, annotations: Annotations, seed: int, most: int | None) -> RowsByUser:
        """All rows of each user, or at most `most` of them, sampled with the seed."""
        names, user = annotations.by_user
        rows = np.arange(len(user))
        if most is not None:
            drawn = np.random.default_rng(seed).permutation(len(user))
            drawn = drawn[np.argsort(user[drawn], kind="stable")]  # user by user, in a drawn order within each
            place = np.arange(len(drawn)) - np.searchsorted(user[drawn], user[drawn])
            rows = np.sort(drawn[place < most])
        return cls(names, user[rows], rows)

    def joined(self, others: RowsByUser, after: int) -> RowsByUser:
        """These and others, which are of annotations that stand after `after` of the first."""
        names = [*self._names, *(name for name in others._names if name not in self._place)]
        place = {name: position for position, name in enumerate(names)}
        moved = np.asarray([place[name] for name in others._names], dtype=np.int64)[others._sorted]
        return RowsByUser(
            names, np.concatenate([self._sorted, moved]), np.concatenate([self._order, others._order + after])
        )

    def count(self, users: Sequence[str]) -> NDArray[np.int64]:
        """How many rows each of these users has: int64 [users]."""
        first, last = self._ends(users)
        return last - first

    def find(self, users: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(position among `users` of each row, the rows), user by user."""
        first, last = self._ends(users)
        rows = [self._order[start:end] for start, end in zip(first, last, strict=True)]
        return np.repeat(np.arange(len(users)), last - first), np.concatenate([np.empty(0, dtype=np.int64), *rows])

    def _ends(self, users: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        places = [self._place.get(user, -1) for user in users]  # -1: without a row in this part
        first, last = (np.searchsorted(self._sorted, places, side=side) for side in ("left", "right"))
        return first, last


def blocks(users: list[str], tokens: NDArray[np.int64], size: int) -> list[list[str]]:
    """Users in blocks of at most `size`, balanced by tokens, each sorted: the same users give the same blocks.

    Args:
        users: names, each once.
        tokens: int64 [users], how much there is of each.
        size: users in a block.
    """
    count = -(-len(users) // size)
    made: list[list[str]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]  # (tokens, block), a heap of blocks with room
    for place in np.lexsort((np.asarray(users), -tokens)):
        load, number = heapq.heappop(loads)
        made[number].append(users[place])
        if len(made[number]) < size:
            heapq.heappush(loads, (load + int(tokens[place]), number))
    return [sorted(block) for block in made]

"""What was used last, kept up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A cache that drops what was not asked for longest. May be used by several threads.

    Attributes:
        hits, misses: of `get`, since it was made.
    """

    def __init__(self, size: int, weigh: Callable[[Value], int]) -> None:
        """`size`: bytes it holds at most, by `weigh` of its values."""
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._size, self._weigh, self._used = size, weigh, 0
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def used(self) -> int:
        """Bytes held."""
        return self._used

    def get(self, key: Key) -> Value | None:
        """The value, now the one used last; None where it is not there."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: Key, value: Value) -> None:
        """Keep a value; what weighs more than the cache holds is not kept."""
        weight = self._weigh(value)
        with self._lock:
            self._drop(key)
            if weight > self._size:
                return
            self._kept[key] = (value, weight)
            self._used += weight
            while self._used > self._size:
                self._drop(next(iter(self._kept)))

    def drop(self, key: Key) -> None:
        """Forget a value, if it is there."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()
            self._used = 0

    def _drop(self, key: Key) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._used -= found[1]

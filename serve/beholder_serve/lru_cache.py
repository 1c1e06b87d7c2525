"""A thread-safe cache of the most recently used values, limited by bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import cachetools

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """`cachetools.LRUCache` behind a lock. A value larger than the cache is not stored, instead of being an error."""

    def __init__(self, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        """`max_bytes`: the sum of `size_of` over all values is at most this."""
        self._values: cachetools.LRUCache[Key, Value] = cachetools.LRUCache(max_bytes, size_of)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def bytes_used(self) -> int:
        """Bytes of all values."""
        return int(self._values.currsize)

    def get(self, key: Key) -> Value | None:
        """The value, now the most recently used one; None if it is missing."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Store a value in place of the key's previous one."""
        with self._lock:
            self._values.pop(key, None)
            if self._values.getsizeof(value) <= self._values.maxsize:
                self._values[key] = value

    def drop(self, key: Key) -> None:
        """Remove a value, if it is stored."""
        with self._lock:
            self._values.pop(key, None)

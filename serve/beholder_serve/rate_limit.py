"""Rate limit per access token."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cachetools import LRUCache


class RateLimit:
    """A token bucket per access token: `rate` requests a second on average, `burst` at once. Thread-safe."""

    MAX_BUCKETS = 10_000
    """Buckets kept in memory. The least recently used is dropped; its access token starts with a full one again."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(self.MAX_BUCKETS)  # id -> (requests left, as of)
        self._lock = threading.Lock()

    def wait(self, token_id: str) -> float:
        """Count a request and return 0 if it is allowed; otherwise return the seconds until one would be."""
        with self._lock:
            now = self._clock()
            left, since = self._buckets.get(token_id, (self._burst, now))
            left = min(self._burst, left + (now - since) * self._rate)
            allowed = left >= 1
            self._buckets[token_id] = (left - allowed, now)
            return 0.0 if allowed else (1 - left) / self._rate

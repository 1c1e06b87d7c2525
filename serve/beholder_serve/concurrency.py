"""Concurrency limit of long work: a bounded number running, a bounded number waiting, one per user."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from beholder.util.errors import BeholderError


class BusyError(BeholderError):
    """The server has no capacity for this request now."""


class ConcurrencyLimit:
    """Admits work. Belongs to one event loop.

    The queue is bounded: a request that does not fit is refused at once and can be retried later (load shedding: Beyer
    et al. 2016, Site Reliability Engineering, ch. 21).
    """

    def __init__(self, running: int, waiting: int) -> None:
        """`running`: how much work runs at once. `waiting`: how much more may wait for it."""
        self._running = asyncio.Semaphore(running)
        self._capacity = running + waiting
        self._keys: set[str] = set()

    @contextlib.asynccontextmanager
    async def slot(self, key: str, work: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it for the duration of the block.

        Args:
            key: whose work it is; a key holds or waits for one slot at a time.
            work: its name, for messages.

        Raises:
            BusyError: the queue is full, or work of this key is already running or waiting.
        """
        if key in self._keys:
            raise BusyError(f"{work} of this user is already running. Wait for its response.")
        if len(self._keys) >= self._capacity:
            raise BusyError(f"too many users are waiting for {work}. Retry in a few seconds.")
        self._keys.add(key)
        try:
            async with self._running:
                yield
        finally:
            self._keys.discard(key)

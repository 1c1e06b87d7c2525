"""A gate before long work: so many at once, so many that wait, and one of each name at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from beholder.util.errors import BeholderError


class BusyError(BeholderError):
    """More is asked than can be answered now."""


class Gate:
    """Lets work through. For one event loop.

    Nothing waits without bounds: whoever finds no room is refused at once and asks again later (load shedding: Beyer et
    al. 2016, Site Reliability Engineering, ch. 21).
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        """So many at once, and so many that wait for them."""
        self._turn = asyncio.Semaphore(at_once)
        self._room = at_once + waiting
        self._names: set[str] = set()

    @contextlib.asynccontextmanager
    async def passed(self, name: str, what: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the time of the block.

        Args:
            name: of whom the work is; nobody has two at a time.
            what: the work, for messages.

        Raises:
            BusyError: there is no room, or the same work is under way for this name.
        """
        if name in self._names:
            raise BusyError(f"{what} of this user is under way. Wait for its answer.")
        if len(self._names) >= self._room:
            raise BusyError(f"more users wait for their {what} than can be served now. Ask again in some seconds.")
        self._names.add(name)
        try:
            async with self._turn:
                yield
        finally:
            self._names.discard(name)

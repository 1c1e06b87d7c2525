"""Batches of requests: what waits when the engine is free goes together, whoever asked.

Ray Serve's own `@serve.batch` closes a batch some milliseconds after its first request, also while the one before is
still computed; under load its batches hold the few that came in those milliseconds. Here a batch is closed when it can
be computed, so that it grows with the load.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Computes items in batches, one batch at a time, in a thread. Belongs to one event loop."""

    def __init__(
        self,
        compute: Callable[[list[Item]], list[Answer]],
        weigh: Callable[[Item], int],
        most: int,
        wait_s: float,
    ) -> None:
        """Make one.

        Args:
            compute: items -> their answers, in order.
            weigh: what an item takes of a batch.
            most: what a batch holds; an item that weighs more goes alone.
            wait_s: how long the first of a batch waits for others when nothing is computed.
        """
        self._compute, self._weigh, self._most, self._wait_s = compute, weigh, most, wait_s
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        """The item's answer, or what its batch raised."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        await asyncio.sleep(self._wait_s)
        while batch := self._next():
            items = [item for item, _ in batch]
            try:
                answers = await asyncio.to_thread(self._compute, items)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():  # whoever asked has gone
                    future.set_result(answer)

    def _next(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        """As many of those who wait as a batch holds, first come first; those who have gone are left out."""
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        weight = 0
        while self._waiting:
            item, future = self._waiting[0]
            if not future.done():
                weight += self._weigh(item)
                if batch and weight > self._most:
                    break
                batch.append((item, future))
            self._waiting.popleft()
        return batch

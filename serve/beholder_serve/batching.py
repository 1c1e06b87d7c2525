"""Batches of requests: what waits when the engine is free goes together, whoever asked.

Ray Serve's own `@serve.batch` closes a batch some milliseconds after its first request, also while the one before is
still computed; under load its batches hold the few that came in those milliseconds. Here a batch is closed when it can
be computed, so that it grows with the load.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Computes items in batches, a few at a time. Belongs to one event loop."""

    def __init__(
        self,
        compute: Callable[[list[Item]], Awaitable[list[Answer]]],
        weigh: Callable[[Item], int],
        most: int,
        *,
        wait_s: float = 0.0,
        at_once: int = 1,
    ) -> None:
        """Make one.

        Args:
            compute: items -> their answers, in order.
            weigh: what an item takes of a batch.
            most: what a batch holds; an item that weighs more goes alone.
            wait_s: how long the first of a batch waits for others when nothing is computed.
            at_once: batches under way at the same time.
        """
        self._compute, self._weigh, self._most = compute, weigh, most
        self._wait_s, self._at_once = wait_s, at_once
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._working: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item) -> Answer:
        """The item's answer, or what its batch raised."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._working) < self._at_once:
            # A batch has many callers. Ray Serve cancels calls by the context of a request, so it gets one of its own.
            self._working.add(asyncio.create_task(self._work(), context=contextvars.Context()))
        return await future

    async def _work(self) -> None:
        try:
            await asyncio.sleep(self._wait_s)
            while batch := self._next():
                await self._answer(batch)
        finally:  # in the same step in which the queue was empty, so that the next request starts another worker
            self._working.discard(asyncio.current_task())  # type: ignore[arg-type]

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._compute([item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        except BaseException:  # the worker is cancelled
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():  # the caller left
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

"""Batches of requests: all requests that wait when the engine becomes free are computed together.

Ray Serve's own `@serve.batch` closes a batch some milliseconds after its first request, even while the previous batch
is still being computed; under load its batches hold only the requests of those milliseconds. Here a batch is closed
when it can be computed, so that it grows with the load.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Computes items in batches, a limited number of batches at once. Belongs to one event loop."""

    def __init__(
        self,
        compute: Callable[[list[Item]], Awaitable[list[Result]]],
        weigh: Callable[[Item], int],
        max_weight: int,
        *,
        wait_s: float = 0.0,
        max_concurrent: int = 1,
    ) -> None:
        """Create a batcher.

        Args:
            compute: items -> their results, in order.
            weigh: the weight of an item.
            max_weight: of a batch; a heavier item gets a batch of its own.
            wait_s: how long the first item of a batch waits for others while no batch is computed.
            max_concurrent: batches computed at the same time.
        """
        self._compute, self._weigh, self._max_weight = compute, weigh, max_weight
        self._wait_s, self._max_concurrent = wait_s, max_concurrent
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item) -> Result:
        """The item's result; raises what computing its batch raised."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._workers) < self._max_concurrent:
            # Ray Serve cancels calls by the context of a request. A batch has many callers, so it gets its own context.
            self._workers.add(asyncio.create_task(self._work(), context=contextvars.Context()))
        return await future

    async def _work(self) -> None:
        try:
            await asyncio.sleep(self._wait_s)
            while batch := self._next_batch():
                await self._compute_batch(batch)
        finally:  # without an await after the queue was found empty, so that the next request starts another worker
            self._workers.discard(asyncio.current_task())  # type: ignore[arg-type]

    async def _compute_batch(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._compute([item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        except BaseException:  # the worker is cancelled
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():  # otherwise the caller was cancelled
                future.set_result(result)

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """The waiting items that fit into a batch, in order of arrival, without those whose callers were cancelled."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        weight = 0
        while self._waiting:
            item, future = self._waiting[0]
            if not future.done():
                weight += self._weigh(item)
                if batch and weight > self._max_weight:
                    break
                batch.append((item, future))
            self._waiting.popleft()
        return batch

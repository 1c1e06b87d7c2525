"""The model side of serving on Ray: batches that mix users freely, and metrics of them."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter as Counted
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve
from ray.serve.metrics import Counter, Gauge, Histogram

from beholder.cluster.runtime import apply_settings
from beholder_serve.batching import Batcher

Item = tuple[str, tuple[str, ...]]
"""A user and their texts."""
BATCH, WAIT_S = 8_192, 0.002
"""A batch holds about so many characters; the first of it waits so long for others when nothing is computed."""


def characters(item: Item) -> int:
    """What an item takes of a batch: its characters, and something for each text."""
    return sum(32 + len(text) for text in item[1])


@serve.deployment(name="Engine", max_ongoing_requests=512, health_check_period_s=1, graceful_shutdown_timeout_s=20)
class EngineDeployment:
    """One copy of the base, and of everybody's adapters. See `core.Core`."""

    def __init__(self) -> None:
        apply_settings()
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self._core: Any = None
        self._batches: Batcher[Item, dict[str, Any]] = Batcher(self._compute, characters, BATCH, wait_s=WAIT_S)
        self._looking: asyncio.Task[None] | None = None
        # Versions are loaded in one thread: each thread that did so would keep the memory of a load (malloc's arenas).
        self._loading = ThreadPoolExecutor(1)
        sizes, seconds = [2.0**power for power in range(10)], [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2]
        self._batch_texts = Histogram("beholder_batch_texts", "texts in a batch", sizes)
        self._batch_users = Histogram("beholder_batch_users", "distinct users in a batch", sizes)
        self._seconds = Histogram("beholder_batch_seconds", "to answer a batch", seconds)
        self._answers = Counter("beholder_answers_total", "answers by route", ("route", "version"))  # type: ignore[arg-type]
        self._fallbacks = Counter(
            "beholder_fallbacks_total", "answers of the global model where a user's own was unreadable"
        )
        self._trunk = Counter("beholder_trunk_texts_total", "texts the trunk read")
        self._refused = Gauge("beholder_refused_versions", "versions that could not be loaded")
        self._enrolled = Gauge("beholder_enrolled_users", "users trained since the version was published")

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Follow what `core.Followed` says; called at the start, and whenever `user_config` changes."""
        from beholder_serve.core import Core, Followed

        followed = Followed.model_validate(config)
        if self._core is None:
            self._core = await self._load(Core, followed)
            self._looking = asyncio.create_task(self._look_again())
        elif followed != self._core.followed:
            await self._load(self._core.follow, followed)

    async def _load(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._loading, function, *arguments)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self._core.followed.poll_s)
            await self.look()  # raises nothing: what goes wrong is in the log, and the old version goes on

    async def predict(self, items: list[Item]) -> list[dict[str, Any]]:
        """What each user says of their texts, computed together with whatever others ask."""
        return await asyncio.gather(*(self._batches(item) for item in items))

    async def _compute(self, items: list[Item]) -> list[dict[str, Any]]:
        started, read = time.perf_counter(), self._core.trunk_texts
        found = await asyncio.to_thread(self._core.predict, items)
        self._seconds.observe(time.perf_counter() - started)
        self._batch_texts.observe(sum(len(texts) for _, texts in items))
        self._batch_users.observe(len({user for user, _ in items}))
        if (more := self._core.trunk_texts - read) > 0:
            self._trunk.inc(more)
        self._count(found)
        return found

    def _count(self, found: list[dict[str, Any]]) -> None:
        rows = [(said["version"], row) for said in found for row in said["predictions"]]
        for (route, version), answers in Counted((row["route"], version) for version, row in rows).items():
            self._answers.inc(answers, {"route": route, "version": version})
        if fallbacks := sum(row["fallback"] for _, row in rows):
            self._fallbacks.inc(fallbacks)

    async def perspectives(self, text: str, users: Sequence[str] | None, at_most: int) -> dict[str, Any]:
        """See `core.Core.perspectives`."""
        return await asyncio.to_thread(self._core.perspectives, text, users, at_most)

    async def user(self, user: str) -> dict[str, Any]:
        """See `core.Core.user`."""
        return await asyncio.to_thread(self._core.user, user)

    async def describe(self) -> dict[str, Any]:
        """See `core.Core.describe`."""
        return self._core.describe()

    async def texts(self, count: int) -> dict[str, Any]:
        """See `core.Core.texts`."""
        return await asyncio.to_thread(self._core.texts, count)

    async def where(self) -> tuple[str, str, str, str]:
        """See `core.Core.where`."""
        return self._core.where()

    async def look(self) -> bool:
        """See `core.Core.look`."""
        changed = await self._load(self._core.look)
        self._refused.set(len(self._core.refused))
        self._enrolled.set(self._core.describe()["enrolled"])
        return changed

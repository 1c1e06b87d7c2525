"""A replica of a model server on Ray Serve: batches that mix any users, and their metrics."""

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
BATCH_WEIGHT, WAIT_S = 8_192, 0.002
"""Maximum weight of a batch (see `weight`), and how long its first item waits for others while no batch is computed."""


def weight(item: Item) -> int:
    """Weight of an item in a batch: its characters, and a constant for each text."""
    return sum(32 + len(text) for text in item[1])


@serve.deployment(name="Engine", max_ongoing_requests=512, health_check_period_s=1, graceful_shutdown_timeout_s=20)
class EngineDeployment:
    """One copy of the base and of all adapters. See `model_server.ModelServer`."""

    def __init__(self) -> None:
        apply_settings()
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self._server: Any = None  # a ModelServer, whose module is imported by the first `reconfigure`
        self._batcher: Batcher[Item, dict[str, Any]] = Batcher(self._compute, weight, BATCH_WEIGHT, wait_s=WAIT_S)
        self._polling: asyncio.Task[None] | None = None
        # Versions are loaded in one thread: malloc would keep an arena with the memory of a load for each thread.
        self._loader = ThreadPoolExecutor(1)
        sizes, seconds = [2.0**power for power in range(10)], [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2]
        self._batch_texts = Histogram("beholder_batch_texts", "texts in a batch", sizes)
        self._batch_users = Histogram("beholder_batch_users", "distinct users in a batch", sizes)
        self._seconds = Histogram("beholder_batch_seconds", "seconds to compute a batch", seconds)
        self._answers = Counter("beholder_answers_total", "answers by route", ("route", "version"))  # type: ignore[arg-type]
        self._fallbacks = Counter(
            "beholder_fallbacks_total", "answers of the global model because the user's adapter was unreadable"
        )
        self._trunk = Counter("beholder_trunk_texts_total", "texts the trunk encoded")
        self._refused = Gauge("beholder_refused_versions", "versions that could not be loaded")
        self._enrolled = Gauge("beholder_enrolled_users", "users trained since the version was published")

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve a `model_server.ServedModel`; called at the start and whenever `user_config` changes."""
        from beholder_serve.model_server import ModelServer, ServedModel

        served = ServedModel.model_validate(config)
        if self._server is None:
            self._server = await self._load(ModelServer, served)
            self._polling = asyncio.create_task(self._poll_forever())
        elif served != self._server.served:
            await self._load(self._server.reconfigure, served)

    async def _load(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._loader, function, *arguments)

    async def _poll_forever(self) -> None:
        while True:
            await asyncio.sleep(self._server.served.poll_s)
            await self.poll()  # logs errors instead of raising them

    async def predict(self, items: list[Item]) -> list[dict[str, Any]]:
        """See `model_server.ModelServer.predict`; batched with concurrent calls."""
        return await asyncio.gather(*(self._batcher(item) for item in items))

    async def _compute(self, items: list[Item]) -> list[dict[str, Any]]:
        started, before = time.perf_counter(), self._server.trunk_texts
        results = await asyncio.to_thread(self._server.predict, items)
        self._seconds.observe(time.perf_counter() - started)
        self._batch_texts.observe(sum(len(texts) for _, texts in items))
        self._batch_users.observe(len({user for user, _ in items}))
        if (encoded := self._server.trunk_texts - before) > 0:  # a version switch starts from 0
            self._trunk.inc(encoded)
        self._count(results)
        return results

    def _count(self, results: list[dict[str, Any]]) -> None:
        rows = [(result["version"], row) for result in results for row in result["predictions"]]
        for (route, version), answers in Counted((row["route"], version) for version, row in rows).items():
            self._answers.inc(answers, {"route": route, "version": version})
        if fallbacks := sum(row["fallback"] for _, row in rows):
            self._fallbacks.inc(fallbacks)

    async def perspectives(self, text: str, users: Sequence[str] | None, at_most: int) -> dict[str, Any]:
        """See `model_server.ModelServer.perspectives`."""
        return await asyncio.to_thread(self._server.perspectives, text, users, at_most)

    async def user(self, user: str) -> dict[str, Any]:
        """See `model_server.ModelServer.user`."""
        return await asyncio.to_thread(self._server.user, user)

    async def describe(self) -> dict[str, Any]:
        """See `model_server.ModelServer.describe`."""
        return self._server.describe()

    async def texts(self, count: int) -> dict[str, Any]:
        """See `model_server.ModelServer.texts`."""
        return await asyncio.to_thread(self._server.texts, count)

    async def location(self) -> tuple[str, str, str, str]:
        """See `model_server.ModelServer.location`."""
        return self._server.location()

    async def poll(self) -> bool:
        """See `model_server.ModelServer.poll`."""
        changed = await self._load(self._server.poll)
        self._refused.set(len(self._server.refused))
        self._enrolled.set(self._server.describe()["enrolled"])
        return changed

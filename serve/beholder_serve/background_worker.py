"""Enrolments and erasures of a server, in a process beside its engines that has the libraries they need loaded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve

from beholder.cluster.runtime import apply_settings
from beholder.util.errors import BeholderError


@serve.deployment(
    name="BackgroundWorker", max_ongoing_requests=64, health_check_period_s=1, graceful_shutdown_timeout_s=20
)
class BackgroundWorkerDeployment:
    """Calls functions in threads, so that health checks are answered. A process per call would start for seconds.

    Each function has one thread: one erasure at a time, and one user is trained at a time. A call that has started is
    finished even if the client disconnects.
    """

    def __init__(self) -> None:
        apply_settings()
        import torch

        from beholder.lifecycle import enroll  # noqa: F401
        from beholder.tracking.client import client

        torch.set_num_threads(1)  # the engines need the other cores
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        with contextlib.suppress(BeholderError):  # the tracking server may be down at the moment
            client()  # importing MLflow takes longest
        self._threads: dict[str, ThreadPoolExecutor] = defaultdict(lambda: ThreadPoolExecutor(1))

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `user_service.RunInBackground`."""
        thread = self._threads[function.__qualname__]
        return await asyncio.get_running_loop().run_in_executor(thread, function, *arguments)

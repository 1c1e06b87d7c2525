"""Long work of a server, enrolments and erasures, beside its engines: in a process that has its libraries at hand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ray import serve

from beholder.cluster.local import apply_settings


@serve.deployment(name="Clerk", max_ongoing_requests=8, health_check_period_s=1, graceful_shutdown_timeout_s=20)
class ClerkDeployment:
    """Calls functions in threads, so that it answers Serve meanwhile. Starting a process for each took seconds."""

    def __init__(self) -> None:
        apply_settings()
        import torch

        from beholder import enrolment, erasure  # noqa: F401
        from beholder.tracking import client

        torch.set_num_threads(1)  # what is answered meanwhile needs the other cores
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        client()  # MLflow takes longest

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See `desk.Run`."""
        return await asyncio.to_thread(function, *arguments)

"""The HTTP side of a server on Ray Serve: an ingress that calls engines and a background worker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import httpx
import ray
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Counter, Histogram

from beholder.registry.feedback import Feedback
from beholder.util.errors import BeholderError, ClusterError, ServeError
from beholder_serve.api import ApiSettings, build_app
from beholder_serve.batching import Batcher
from beholder_serve.concurrency import BusyError
from beholder_serve.engine import BATCH_WEIGHT, Item, weight
from beholder_serve.user_service import UserService

MAX_TRIES = 3
"""How often a call is tried if replicas die."""
POLL_TIMEOUT_S = 30.0
"""How long a response waits for all replicas to poll."""


class RayEngine:
    """`user_service.Engine` by the replicas of the engine deployment.

    Concurrent predictions are sent in one call; if `sticky`, each goes to the replica that has cached its user's
    adapter. A call whose replica dies is repeated on another one.
    """

    def __init__(self, handle: DeploymentHandle, sticky: bool = False) -> None:
        self._handle, self._sticky = handle, sticky
        self._batcher: Batcher[Item, dict[str, Any]] = Batcher(self._predict, weight, BATCH_WEIGHT, max_concurrent=2)

    async def predict(self, user: str, texts: Sequence[str]) -> dict[str, Any]:
        item = (user, tuple(texts))
        if not self._sticky:
            return await self._batcher(item)
        return (await _call(self._handle.options(session_id=user).predict, [item]))[0]

    async def _predict(self, items: list[Item]) -> list[dict[str, Any]]:
        return await _call(self._handle.predict, items)

    async def perspectives(self, text: str, users: Sequence[str] | None, at_most: int) -> dict[str, Any]:
        return await _call(self._handle.perspectives, text, users, at_most)

    async def user(self, user: str) -> dict[str, Any]:
        return await _call(self._handle.user, user)

    async def describe(self) -> dict[str, Any]:
        return await _call(self._handle.describe)

    async def texts(self, count: int) -> dict[str, Any]:
        return await _call(self._handle.texts, count)

    async def location(self) -> tuple[str, str, str, str]:
        return await _call(self._handle.location)

    async def poll(self) -> bool:
        """Let every running replica poll; returns after all have, or after `POLL_TIMEOUT_S`.

        A replica that is starting loads the newest state anyway, and one that does not respond in time polls by itself.
        """
        try:
            results = self._handle.broadcast("poll").results_async(timeout_s=POLL_TIMEOUT_S, return_exceptions=True)
            return any(changed is True for changed in await results)
        except (TimeoutError, RayServeException, RayActorError):  # or no replica is running
            return False


async def _call(method: Any, *arguments: Any) -> Any:
    """Call a method of a deployment; a call whose replica dies is repeated on another one."""
    for left in reversed(range(MAX_TRIES)):
        try:
            return await method.remote(*arguments)
        except BackPressureError as error:
            raise BusyError("the server has more requests than it can answer. Retry later.") from error
        except RayTaskError as error:
            raise _cause(error) from error
        except RayActorError as error:
            if not left:
                raise ClusterError("the replica died and is being restarted. Retry the request.") from error


def _cause(error: RayTaskError) -> Exception:
    """The exception raised in the replica, whose message does not contain Ray's traceback."""
    return error.cause if isinstance(error.cause, BeholderError) else error


@serve.deployment(name="Ingress", max_ongoing_requests=1_024, health_check_period_s=1, graceful_shutdown_timeout_s=20)
@serve.ingress()
class IngressDeployment:
    """Validates and authorizes requests, and answers them by the engines and the user service."""

    def __init__(self, engine: DeploymentHandle, worker: DeploymentHandle, model: str, settings: ApiSettings) -> None:
        logging.getLogger("beholder.requests").setLevel(logging.INFO)
        self._settings, self._engine = settings, RayEngine(engine, settings.sticky)
        self._users = UserService(model, self._engine, Feedback(), partial(_call, worker.run))
        self._requests = Counter(
            "beholder_requests_total",
            "requests answered",
            ("route", "method", "status"),  # type: ignore[arg-type]
        )
        bounds = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 30]
        self._seconds = Histogram("beholder_request_seconds", "seconds to answer a request", bounds, ("route",))

    def __serve_build_asgi_app__(self) -> Any:
        """See `serve.ingress`."""
        return build_app(self._engine, self._users, self._settings, node_metrics, self._observe, add_request_id=False)

    def _observe(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.inc(1, {"route": route, "method": method, "status": str(status)})
        self._seconds.observe(seconds, {"route": route})


async def node_metrics() -> str:
    """Beholder's and Ray Serve's metrics of this node, from Ray's exporter, which updates them every ten seconds.

    Raises:
        ServeError: the exporter does not respond.
    """
    node_id = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == node_id)
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    try:
        async with httpx.AsyncClient(timeout=10) as client:
            text = (await client.get(url)).raise_for_status().text
    except httpx.HTTPError as error:
        raise ServeError(f"Ray's exporter does not respond ({type(error).__name__}).") from error
    wanted = ("ray_beholder_", "ray_serve_")
    lines = [
        line for line in text.splitlines() if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(wanted)
    ]
    return "\n".join(lines) + "\n"

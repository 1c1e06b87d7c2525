"""Serving on Ray Serve: the ingress, what it hands on, and starting them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import httpx
import ray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Counter, Histogram
from ray.serve.schema import LoggingConfig

from beholder.cluster.runtime import on_ray
from beholder.registry.feedback import Feedback
from beholder.tracking.client import tracking_uri
from beholder.util.errors import BeholderError, ClusterError, ServeError
from beholder_serve.access import require_tokens
from beholder_serve.api import ApiSettings, build_app
from beholder_serve.batching import Batcher
from beholder_serve.clerk import ClerkDeployment
from beholder_serve.desk import Desk
from beholder_serve.engine import BATCH, EngineDeployment, Item, characters
from beholder_serve.gate import BusyError

APPLICATION = "beholder"
TRIES = 3
"""How often a call is tried whose replica dies."""
LOOK_S = 30.0
"""How long an answer waits for all replicas to look, at most."""
STICKY = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)
"""Ray's own access log names paths, and they name users."""


class RayEngine:
    """See `desk.Engine`: calls the engine's replicas.

    Predictions that wait at the same time go in one call, or each to the replica that has its user's row at hand
    (`sticky`). What a replica held when it died is asked again, of another.
    """

    def __init__(self, handle: DeploymentHandle, sticky: bool = False) -> None:
        self._handle, self._sticky = handle, sticky
        self._together: Batcher[Item, dict[str, Any]] = Batcher(self._predict, characters, BATCH, at_once=2)

    async def predict(self, user: str, texts: Sequence[str]) -> dict[str, Any]:
        item = (user, tuple(texts))
        if not self._sticky:
            return await self._together(item)
        return (await self._ask("predict", [item], handle=self._handle.options(session_id=user)))[0]

    async def _predict(self, items: list[Item]) -> list[dict[str, Any]]:
        return await self._ask("predict", items)

    async def perspectives(self, text: str, users: Sequence[str] | None, at_most: int) -> dict[str, Any]:
        return await self._ask("perspectives", text, users, at_most)

    async def user(self, user: str) -> dict[str, Any]:
        return await self._ask("user", user)

    async def describe(self) -> dict[str, Any]:
        return await self._ask("describe")

    async def texts(self, count: int) -> dict[str, Any]:
        return await self._ask("texts", count)

    async def where(self) -> tuple[str, str, str, str]:
        return await self._ask("where")

    async def look(self) -> bool:
        """Let every running replica look; returns after all have, or after `LOOK_S`.

        A replica that is starting reads the newest state anyway, and one that does not answer in time polls by itself.
        """
        try:
            seen = self._handle.broadcast("look").results_async(timeout_s=LOOK_S, return_exceptions=True)
            return any(changed is True for changed in await seen)
        except (TimeoutError, RayServeException, RayActorError):  # or no replica is running
            return False

    async def _ask(self, method: str, *arguments: Any, handle: DeploymentHandle | None = None) -> Any:
        return await _asked(getattr(handle or self._handle, method), *arguments)


async def _asked(method: Any, *arguments: Any) -> Any:
    """Call a method of a deployment; what died meanwhile is asked again, of another replica."""
    for left in reversed(range(TRIES)):
        try:
            return await method.remote(*arguments)
        except BackPressureError as error:
            raise BusyError("more is asked than can be answered now.") from error
        except RayTaskError as error:
            raise _cause(error) from error
        except RayActorError as error:
            if not left:
                raise ClusterError("what was asked died meanwhile, and is being started again. Ask again.") from error


def _cause(error: RayTaskError) -> Exception:
    """What was raised there, without Ray's traceback in its words."""
    return error.cause if isinstance(error.cause, BeholderError) else error


@serve.deployment(name="Ingress", max_ongoing_requests=1_024, health_check_period_s=1, graceful_shutdown_timeout_s=20)
@serve.ingress()
class Ingress:
    """Checks requests and hands them to the engine, or to the desk."""

    def __init__(self, engine: DeploymentHandle, clerk: DeploymentHandle, model: str, settings: ApiSettings) -> None:
        logging.getLogger("beholder.requests").setLevel(logging.INFO)
        self._settings, self._engine = settings, RayEngine(engine, settings.sticky)
        self._desk = Desk(model, self._engine, Feedback(), partial(_asked, clerk.run))
        self._requests = Counter(
            "beholder_requests_total",
            "requests answered",
            ("route", "method", "status"),  # type: ignore[arg-type]
        )
        bounds = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 30]
        self._seconds = Histogram("beholder_request_seconds", "to answer a request", bounds, ("route",))

    def __serve_build_asgi_app__(self) -> Any:
        """See `serve.ingress`."""
        return build_app(self._engine, self._desk, self._settings, exported, self._observe, says_id=False)

    def _observe(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.inc(1, {"route": route, "method": method, "status": str(status)})
        self._seconds.observe(seconds, {"route": route})


async def exported() -> str:
    """Beholder's and Ray Serve's metrics of this node, from Ray's own exporter, which renews them every ten seconds.

    Raises:
        ServeError: it does not answer.
    """
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    try:
        async with httpx.AsyncClient(timeout=10) as client:
            text = (await client.get(url)).raise_for_status().text
    except httpx.HTTPError as error:
        raise ServeError(f"Ray's exporter does not answer ({type(error).__name__}).") from error
    wanted = ("ray_beholder_", "ray_serve_")
    lines = [
        line for line in text.splitlines() if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(wanted)
    ]
    return "\n".join(lines) + "\n"


def application(followed: dict[str, Any], settings: ApiSettings, replicas: int | dict[str, int] = 1) -> Any:
    """The Serve application.

    Args:
        followed: see `core.Followed`.
        settings: see `api.ApiSettings`.
        replicas: engines; or `{min_replicas: , max_replicas: }`, and Serve adds and removes them with the load.
    """
    refuse_one_machines_databases(sum(node["Alive"] for node in ray.nodes()) if ray.is_initialized() else 1)
    here: dict[str, Any] = {}
    if _lacks_databases() and ray.is_initialized():  # nodes that join later do not reach its files
        here = {"label_selector": {"ray.io/node-id": ray.get_runtime_context().get_node_id()}}
    scale: dict[str, Any] = {"num_replicas": replicas}
    if isinstance(replicas, dict):
        scale = {"autoscaling_config": {"target_ongoing_requests": 64, **replicas}}
    if settings.sticky:
        scale["request_router_config"] = RequestRouterConfig(request_router_class=STICKY)  # type: ignore[arg-type]
    engine = EngineDeployment.options(
        user_config=followed, ray_actor_options={"num_cpus": 1, **here}, max_queued_requests=2_048, **scale
    )
    ingress = Ingress.options(ray_actor_options={"num_cpus": 0, **here})
    clerk = ClerkDeployment.options(ray_actor_options={"num_cpus": 0, **here})
    return ingress.bind(engine.bind(), clerk.bind(), followed["model"], settings)


def refuse_one_machines_databases(nodes: int) -> None:
    """Replicas on several nodes must see the same judgements, enrolments, revocations and versions.

    Args:
        nodes: of the cluster.

    Raises:
        ServeError: there are several, and MLflow or the feedback database is SQLite, which is a file of one machine.
    """
    if nodes > 1 and (lacks := _lacks_databases()):
        raise ServeError(
            f"the cluster has {nodes} nodes, and SQLite is for one machine. Serving on it needs {' and '.join(lacks)}."
        )


def _lacks_databases() -> list[str]:
    """What several machines would need, of what is SQLite here."""
    lacks = []
    if tracking_uri().startswith("sqlite:"):
        lacks.append("an MLflow server (MLFLOW_TRACKING_URI=http://HOST:5000)")
    if (os.environ.get("BEHOLDER_FEEDBACK") or "sqlite:").startswith("sqlite"):
        lacks.append("a database server for what users say (BEHOLDER_FEEDBACK=postgresql+psycopg://...)")
    return lacks


class Deployed(BaseModel):
    """What a Serve config file gives `deployed` as `args`; see `application`, `api.ApiSettings` and `core.Followed`.

    Tokens are wanted unless it says otherwise: such a file has an address of its own, which is seldom loopback.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    version: str = "champion"
    tokens: bool = True
    rate: float = 50.0
    burst: int = 200
    origins: tuple[str, ...] = ()
    sticky: bool = False
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int | None = None


def deployed(args: Deployed) -> Any:
    """The application of a Serve config file: `import_path: beholder_serve.app:deployed` (see infra/kuberay)."""
    settings = ApiSettings(
        tokens=args.tokens, rate=args.rate, burst=args.burst, origins=args.origins, sticky=args.sticky
    )
    many = args.max_replicas is not None and args.max_replicas > args.min_replicas
    scale = {"min_replicas": args.min_replicas, "max_replicas": args.max_replicas} if many else args.min_replicas
    return application({"model": args.model, "version": args.version}, settings, scale)


@contextlib.contextmanager
def serving(
    followed: dict[str, Any],
    host: str,
    port: int,
    settings: ApiSettings | None = None,
    replicas: int | dict[str, int] = 1,
) -> Iterator[None]:
    """Serve for the time of a `with` block, on a Ray of its own unless one runs in this process.

    Args:
        followed: see `core.Followed`.
        host: beyond loopback only with tokens.
        port: must be free.
        settings: see `api.ApiSettings`.
        replicas: see `application`.

    Raises:
        ServeError: the address is refused or taken, or the engine did not come up.
    """
    settings = settings or ApiSettings()
    if require_tokens(host) and not settings.tokens:
        raise ServeError(
            f"--host {host}: refused, without access tokens only loopback (127.0.0.1) may be served. Add --tokens."
        )
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(f"--port {port}: {error.strerror} on {host}. Choose another port.") from error
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    joined = ray.is_initialized()
    with on_ray():
        serve.start(http_options={"host": host, "port": port, "request_timeout_s": 60}, logging_config=LOGGING)
        try:
            deploy(application(followed, settings, replicas))
            yield
        finally:
            # Replicas are let go in good order. The rest ends with our own Ray; on somebody else's we clear it away.
            serve.delete(APPLICATION)
            if joined:
                serve.shutdown()


def deploy(application: Any) -> None:
    """Put an application into the place of what is served; replicas whose code is the same are only told what is new.

    Raises:
        ServeError: it did not come up.
    """
    try:
        serve.run(application, name=APPLICATION, route_prefix="/", logging_config=LOGGING)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ServeError(f"the engine did not come up: {reason}") from error


def serve_forever(
    followed: dict[str, Any],
    host: str,
    port: int,
    settings: ApiSettings,
    replicas: int | dict[str, int],
    ready: Callable[[], None],
) -> None:
    """Serve until SIGINT or SIGTERM; calls `ready` once requests are answered."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with serving(followed, host, port, settings, replicas):
        ready()
        stop.wait()

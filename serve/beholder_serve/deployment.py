"""The application on Ray Serve, and starting and stopping it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import LoggingConfig

from beholder.cluster.runtime import on_ray
from beholder.tracking.client import tracking_uri
from beholder.util.errors import ServeError
from beholder_serve.api import ApiSettings
from beholder_serve.auth import needs_tokens
from beholder_serve.background_worker import BackgroundWorkerDeployment
from beholder_serve.engine import EngineDeployment
from beholder_serve.ingress import IngressDeployment

APPLICATION = "beholder"
STICKY_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)
"""Ray's own access log contains paths, and paths contain user ids."""


def application(served: dict[str, Any], settings: ApiSettings, replicas: int | dict[str, int] = 1) -> Any:
    """The Serve application.

    Args:
        served: the fields of `model_server.ServedModel`.
        settings: of the API.
        replicas: of the engine; `{min_replicas: , max_replicas: }` scales them with the load.
    """
    require_shared_databases(sum(node["Alive"] for node in ray.nodes()) if ray.is_initialized() else 1)
    here: dict[str, Any] = {}
    if _missing_databases() and ray.is_initialized():  # nodes that join later cannot read this node's SQLite files
        here = {"label_selector": {"ray.io/node-id": ray.get_runtime_context().get_node_id()}}
    scale: dict[str, Any] = {"num_replicas": replicas}
    if isinstance(replicas, dict):
        scale = {"autoscaling_config": {"target_ongoing_requests": 64, **replicas}}
    if settings.sticky:
        scale["request_router_config"] = RequestRouterConfig(request_router_class=STICKY_ROUTER)  # type: ignore[arg-type]
    engine = EngineDeployment.options(
        user_config=served, ray_actor_options={"num_cpus": 1, **here}, max_queued_requests=2_048, **scale
    )
    ingress = IngressDeployment.options(ray_actor_options={"num_cpus": 0, **here})
    worker = BackgroundWorkerDeployment.options(ray_actor_options={"num_cpus": 0, **here})
    return ingress.bind(engine.bind(), worker.bind(), served["model"], settings)


def require_shared_databases(nodes: int) -> None:
    """Refuse SQLite on several nodes: replicas must share judgements, enrolments, revocations and versions.

    Args:
        nodes: number of nodes of the cluster.

    Raises:
        ServeError: there are several nodes, and MLflow or the feedback database is SQLite.
    """
    if nodes > 1 and (missing := _missing_databases()):
        raise ServeError(
            f"the cluster has {nodes} nodes, and SQLite works on one only. Serving on it needs {' and '.join(missing)}."
        )


def _missing_databases() -> list[str]:
    """The servers that several nodes need in place of SQLite."""
    missing: list[str] = []
    if tracking_uri().startswith("sqlite:"):
        missing.append("an MLflow server (MLFLOW_TRACKING_URI=http://HOST:5000)")
    if (os.environ.get("BEHOLDER_FEEDBACK") or "sqlite:").startswith("sqlite"):
        missing.append("a database server for users' judgements (BEHOLDER_FEEDBACK=postgresql+psycopg://...)")
    return missing


class Deployed(BaseModel):
    """The `args` of `deployed` in a Serve config file; see `api.ApiSettings` and `model_server.ServedModel`.

    Tokens are required by default: the address of such a file is seldom loopback.
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
    """The application of a Serve config file, `import_path: beholder_serve.app:deployed` (see infra/kuberay)."""
    settings = ApiSettings(
        tokens=args.tokens, rate=args.rate, burst=args.burst, origins=args.origins, sticky=args.sticky
    )
    scales = args.max_replicas is not None and args.max_replicas > args.min_replicas
    replicas = {"min_replicas": args.min_replicas, "max_replicas": args.max_replicas} if scales else args.min_replicas
    return application({"model": args.model, "version": args.version}, settings, replicas)


@contextlib.contextmanager
def serving(
    served: dict[str, Any],
    host: str,
    port: int,
    settings: ApiSettings | None = None,
    replicas: int | dict[str, int] = 1,
) -> Iterator[None]:
    """Serve for the duration of a `with` block, on the Ray of this process or else on a new one.

    Args:
        served: the fields of `model_server.ServedModel`.
        host: beyond loopback only with tokens.
        port: must be free.
        settings: of the API.
        replicas: see `application`.

    Raises:
        ServeError: the address is refused or in use, or the engine does not start.
    """
    settings = settings or ApiSettings()
    if needs_tokens(host) and not settings.tokens:
        raise ServeError(
            f"--host {host}: without access tokens, only loopback (127.0.0.1) can be served. Add --tokens."
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
            deploy(application(served, settings, replicas))
            yield
        finally:
            # Deleting stops replicas gracefully. Serve itself ends with a Ray of our own, and is shut down on another.
            serve.delete(APPLICATION)
            if joined:
                serve.shutdown()


def deploy(application: Any) -> None:
    """Replace the application that is served. Replicas whose code is unchanged are reconfigured, not restarted.

    Raises:
        ServeError: it does not start.
    """
    try:
        serve.run(application, name=APPLICATION, route_prefix="/", logging_config=LOGGING)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ServeError(f"the engine did not start: {reason}") from error


def serve_forever(
    served: dict[str, Any],
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
    with serving(served, host, port, settings, replicas):
        ready()
        stop.wait()

"""The HTTP side of serving, and starting it."""

# No `from __future__ import annotations` here: Ray ships the ingress class to its replica, where FastAPI could not
# resolve annotations kept as text, and would look for the body in the query.

import contextlib
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from beholder.cluster.local import local_ray
from beholder.errors import ServeError
from beholder_serve.engine import Engine
from beholder_serve.schemas import Health, Prediction, PredictRequest, PredictResponse

api = FastAPI(title="beholder", description="What would this reader say of this text?", version="1")


@serve.deployment(max_ongoing_requests=256)
@serve.ingress(api)
class Ingress:
    """Checks requests and passes them to the engine."""

    def __init__(self, engine: DeploymentHandle, version: str) -> None:
        self._engine = engine
        self._version = version

    @api.post("/v1/predict")
    async def predict(self, request: PredictRequest) -> PredictResponse:
        """What one user would say of one or several texts."""
        rows = await self._engine.predict.remote((request.user_id, tuple(request.all_texts)))
        return PredictResponse(version=self._version, predictions=[Prediction(**row) for row in rows])

    @api.get("/healthz")
    async def health(self) -> Health:
        """Alive, and which version is served."""
        return Health(status="ok", version=self._version)


@contextlib.contextmanager
def serving(store: str, bundle: str, version: str, host: str, port: int) -> Iterator[None]:
    """Serve a bundle for the time of a `with` block, on a Ray of its own unless one runs in this process.

    Args:
        store, bundle: the store's URI and the bundle's id there.
        version: what answers say they come from.
        host: a loopback address; there are no access tokens yet, so that anything else is refused.
        port: must be free.

    Raises:
        ServeError: the address is refused or taken, or the engine did not come up.
    """
    if not _is_loopback(host):
        raise ServeError(f"--host {host}: refused, without access tokens only loopback (127.0.0.1) may be served.")
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(f"--port {port}: {error.strerror} on {host}. Choose another port.") from error
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    joined = ray.is_initialized()
    with local_ray():
        serve.start(http_options={"host": host, "port": port, "request_timeout_s": 60})
        try:
            _deploy(store, bundle, version)
            yield
        finally:
            # Replicas are let go in good order. The rest ends with our own Ray; on somebody else's we clear it away.
            serve.delete("beholder")
            if joined:
                serve.shutdown()


def _deploy(store: str, bundle: str, version: str) -> None:
    try:
        serve.run(Ingress.bind(Engine.bind(store, bundle), version), name="beholder", route_prefix="/")
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ServeError(f"the engine did not come up: {reason}") from error


def serve_forever(store: str, bundle: str, version: str, host: str, port: int, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; calls `ready` once requests are answered."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with serving(store, bundle, version, host, port):
        ready()
        stop.wait()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

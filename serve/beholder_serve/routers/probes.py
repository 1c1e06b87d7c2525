"""Health, readiness and metrics. They need no token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from beholder_serve.schemas import Health
from beholder_serve.user_service import Engine


def probes_router(engine: Engine, metrics: Callable[[], Awaitable[str]]) -> APIRouter:
    """Endpoints for Kubernetes and Prometheus."""
    router = APIRouter(tags=["probes"])

    @router.get("/healthz", response_model_exclude_none=True)
    async def health() -> Health:
        """The server is alive."""
        return Health(status="ok")

    @router.get("/readyz")
    async def ready() -> Health:
        """An engine answers, with this version."""
        return Health(status="ok", version=(await engine.describe())["version"])

    @router.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> str:
        """Requests, batches, routes, fallbacks and versions in the format of Prometheus."""
        return await metrics()

    return router

"""The HTTP API without Ray: the application of routers, middleware and error responses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from beholder import __version__
from beholder.util.errors import BeholderError, ErasedError, MethodError, ServeError
from beholder_serve.auth import AuthError, KeyRing
from beholder_serve.concurrency import BusyError
from beholder_serve.middleware import Observe, RequestMiddleware
from beholder_serve.rate_limit import RateLimit
from beholder_serve.routers.authorization import ForbiddenError
from beholder_serve.routers.probes import probes_router
from beholder_serve.routers.users import users_router
from beholder_serve.routers.views import views_router
from beholder_serve.schemas import Refusal
from beholder_serve.user_service import Engine, UserService

DESCRIPTION = """
Predictions of the labels each user would give to a text. Every response contains the version and the *route*: the
user's own model, or the global model, which predicts for users who are unknown, erased, or not better off with their
own.
"""

REFUSALS = {
    400: "Malformed request",
    401: "Missing or invalid token",
    403: "The token lacks the scope",
    408: "The body arrived too slowly",
    409: "Not possible in the present state",
    413: "The body is too large",
    422: "Invalid content",
    429: "Over a limit; retry after `Retry-After` seconds",
    503: "Temporarily unavailable",
}


@dataclass(frozen=True)
class ApiSettings:
    """Settings of the API.

    Attributes:
        tokens: whether requests need an access token; without, every client may do everything.
        rate, burst: requests a second of each token, on average and at once; per replica of the ingress.
        max_bytes, body_s: maximum size of a request's body, and the seconds in which it has to arrive.
        origins: origins of web pages, besides the server's own, that may call the API from a browser.
        sticky: whether a user's requests go to the same engine (consistent hashing) rather than to the least busy one.
    """

    tokens: bool = False
    rate: float = 50.0
    burst: int = 200
    max_bytes: int = 1_000_000
    body_s: float = 10.0
    origins: tuple[str, ...] = ()
    sticky: bool = False


def _ignore(route: str, method: str, status: int, seconds: float) -> None:
    """Observe nothing."""


def build_app(
    engine: Engine,
    users: UserService,
    settings: ApiSettings,
    metrics: Callable[[], Awaitable[str]],
    observe: Observe = _ignore,
    add_request_id: bool = True,
) -> FastAPI:
    """The ASGI application.

    Args:
        engine: predicts.
        users: stores judgements, enrols and erases users.
        settings: of the API.
        metrics: returns the content of `/metrics`.
        observe: called after each request.
        add_request_id: whether responses get the header `x-request-id`; Ray Serve adds it itself.
    """
    app = FastAPIOffline(
        redoc_url=None,
        title="beholder",
        description=DESCRIPTION,
        version=__version__,
        responses={code: {"model": Refusal, "description": reason} for code, reason in REFUSALS.items()},
    )
    app.add_middleware(
        RequestMiddleware,  # type: ignore[arg-type]
        max_bytes=settings.max_bytes,
        body_s=settings.body_s,
        observe=observe,
        add_request_id=add_request_id,
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id"],
        )
    app.state.settings = settings
    app.state.keys = KeyRing(feedback=users.feedback if settings.tokens else None)
    app.state.limit = RateLimit(settings.rate, settings.burst)

    app.include_router(views_router(engine))
    app.include_router(users_router(engine, users))
    app.include_router(probes_router(engine, metrics))
    _add_playground(app)
    app.add_exception_handler(BeholderError, _refusal)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    return app


def _add_playground(app: FastAPI) -> None:
    """The page at `/` and its files."""
    web = files("beholder_serve") / "web"
    app.mount("/web", StaticFiles(directory=str(web)), name="web")

    @app.get("/", include_in_schema=False)
    async def playground() -> Response:
        return Response((web / "index.html").read_bytes(), media_type="text/html; charset=utf-8")


STATUSES: dict[type[BeholderError], tuple[int, dict[str, str]]] = {
    AuthError: (401, {"WWW-Authenticate": "Bearer"}),
    ForbiddenError: (403, {}),
    MethodError: (409, {}),
    ErasedError: (409, {}),
    ServeError: (422, {}),
    BusyError: (429, {"Retry-After": "2"}),
}
"""Status and headers of the response to an error; all others are 503."""


def _invalid_request(request: Request, error: Any) -> JSONResponse:
    """The problems of a request and their places, without its content."""
    problems = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return JSONResponse({"detail": problems, "request_id": getattr(request.state, "request_id", None)}, 422)


def _refusal(request: Request, error: Any) -> JSONResponse:
    status, headers = next((found for kind, found in STATUSES.items() if isinstance(error, kind)), (503, {}))
    refusal = Refusal(detail=str(error), request_id=getattr(request.state, "request_id", None))
    return JSONResponse(refusal.model_dump(), status, headers)

"""The HTTP side of serving: endpoints, who may call them, and what is said when something is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

from beholder import __version__
from beholder.util.errors import BeholderError, ErasedError, MethodError, ServeError
from beholder_serve.access import OPEN, AccessError, Caller, KeyRing, RateLimit
from beholder_serve.desk import Desk, Engine
from beholder_serve.gate import BusyError
from beholder_serve.guard import Guard, Observe
from beholder_serve.schemas import (
    AnnotationsRequest,
    AnnotationsResponse,
    EnrolResponse,
    ErasedResponse,
    Health,
    ModelResponse,
    PerspectivesRequest,
    PerspectivesResponse,
    PredictRequest,
    PredictResponse,
    Refusal,
    TextsResponse,
    UserId,
    UserResponse,
)

DESCRIPTION = """
What would this reader say of this text? Every answer names the version that gave it and the *route*: the user's own
model, or the one for everybody, which serves whoever is not known, was erased, or is better off with it.
"""


REFUSALS = {
    400: "Cannot be read",
    401: "No valid token",
    403: "The token may not do this",
    408: "The body came too slowly",
    409: "Cannot be done with what is known so far",
    413: "Larger than what is read",
    422: "Says something that cannot be meant",
    429: "Over the limit; Retry-After says until when",
    503: "Cannot be answered just now",
}


@dataclass(frozen=True)
class ApiSettings:
    """How requests are treated.

    Attributes:
        tokens: whether one is wanted; without, everybody may do everything.
        rate, burst: requests a second of each token, on average and at once; per replica of the ingress.
        max_bytes, body_s: of a request's body.
        origins: whose pages may call this from a browser, besides its own.
        sticky: whether a user goes to the same engine again (consistent hashing) rather than to the one least busy.
    """

    tokens: bool = False
    rate: float = 50.0
    burst: int = 200
    max_bytes: int = 1_000_000
    body_s: float = 10.0
    origins: tuple[str, ...] = ()
    sticky: bool = False


_BEARER = HTTPBearer(auto_error=False, description="A token: `beholder token issue`. Not wanted on loopback.")


async def caller(request: Request, token: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> Caller:
    """Who asks.

    Raises:
        AccessError: a token is wanted, and there is none, or it is not valid.
        HTTPException: it asks too often.
    """
    access = request.app.state
    if not access.settings.tokens:
        return OPEN
    if token is None:
        raise AccessError("a token is wanted: Authorization: Bearer TOKEN. Issue one with: beholder token issue")
    found = access.keys.verify(token.credentials)
    wait = access.limit.wait(found.token_id)
    if wait > 0:
        raise HTTPException(429, "over this token's limit.", {"Retry-After": str(max(1, round(wait + 0.5)))})
    return found


Asking = Annotated[Caller, Depends(caller)]
Whom = Annotated[UserId, Path(description="A user's id, URL-encoded.", examples=["Annotator1"])]


def build_app(
    engine: Engine,
    desk: Desk,
    settings: ApiSettings,
    metrics: Callable[[], Awaitable[str]],
    observe: Observe = lambda route, method, status, seconds: None,
    says_id: bool = True,
) -> FastAPI:
    """Everything that is answered over HTTP.

    Args:
        engine: answers.
        desk: takes judgements, enrols, erases.
        settings: see there.
        metrics: what `/metrics` says, as Prometheus reads it.
        observe: told of each request.
        says_id: whether answers are given their request's id here; Ray Serve does so itself.
    """
    app = FastAPIOffline(
        redoc_url=None,
        title="beholder",
        description=DESCRIPTION,
        version=__version__,
        responses={code: {"model": Refusal, "description": what} for code, what in REFUSALS.items()},
    )
    app.add_middleware(
        Guard,  # type: ignore[arg-type]
        max_bytes=settings.max_bytes,
        body_s=settings.body_s,
        observe=observe,
        says_id=says_id,
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id"],
        )
    app.state.settings = settings
    app.state.keys = KeyRing(feedback=desk.feedback if settings.tokens else None)
    app.state.limit = RateLimit(settings.rate, settings.burst)

    _add_views(app, engine)
    _add_users(app, engine, desk)
    _add_probes(app, engine, metrics)
    app.add_exception_handler(BeholderError, _said)
    app.add_exception_handler(RequestValidationError, _unreadable)
    return app


def _add_views(app: FastAPI, engine: Engine) -> None:
    """Predictions, and what is served."""

    # What is asked most, and what is largest, is put into JSON as it comes: it was made here, and needs no second look.
    @app.post("/v1/predict", tags=["views"], response_model=PredictResponse)
    async def predict(request: PredictRequest, by: Asking) -> Response:
        """What one user would say of one or several texts."""
        _may(by.may_predict(request.user_id), "ask for this user", "predict:self or predict:any")
        return JSONResponse(await engine.predict(request.user_id, request.all_texts))

    @app.post("/v1/perspectives", tags=["views"], response_model=PerspectivesResponse)
    async def perspectives(request: PerspectivesRequest, by: Asking) -> Response:
        """How everybody, or some, would see a text: each reader's scores, and how they divide on each label."""
        _may(by.may_see_all(), "see other users", "predict:any")
        users = None if request.users == "all" else request.users
        return JSONResponse(await engine.perspectives(request.text, users, request.at_most))

    @app.get("/v1/model", tags=["model"])
    async def model(by: Asking) -> ModelResponse:
        """What is served, and how good it was on test."""
        return ModelResponse(**await engine.describe())

    @app.get("/v1/texts", tags=["model"])
    async def texts(by: Asking, n: int = 20) -> TextsResponse:
        """Texts a newcomer should judge first: readers differ most in them, and differ differently."""
        _may(by.may_see_all() or "annotate:self" in by.scopes, "see texts to judge", "annotate:self")
        return TextsResponse(**await engine.texts(min(max(n, 0), 50)))


def _add_users(app: FastAPI, engine: Engine, desk: Desk) -> None:
    """Judgements, enrolment, erasure."""

    @app.put("/v1/users/{user_id:path}/annotations", tags=["users"])
    async def annotate(user_id: Whom, request: AnnotationsRequest, by: Asking) -> AnnotationsResponse:
        """Keep what a user says of texts. It is on disk when this answers; nothing is trained yet."""
        _may(by.may_annotate(user_id), "judge for this user", "annotate:self")
        judgements = [(each.text, each.labels) for each in request.judgements]
        return AnnotationsResponse(stored=len(judgements), total=await desk.put(user_id, judgements))

    @app.post("/v1/users/{user_id:path}/enrol", tags=["users"])
    async def enrol(user_id: Whom, by: Asking) -> EnrolResponse:
        """Train this user's own model on their judgements, and serve it if it is expected to do better."""
        _may(by.may_annotate(user_id), "enrol this user", "annotate:self")
        return EnrolResponse(**await desk.enrol(user_id))

    @app.get("/v1/users/{user_id:path}", tags=["users"])
    async def user(user_id: Whom, by: Asking) -> UserResponse:
        """What is known of a user, and what serves them."""
        _may(by.may_predict(user_id), "ask for this user", "predict:self or predict:any")
        return UserResponse(**await engine.user(user_id), judgements=await desk.count(user_id))

    @app.delete("/v1/users/{user_id:path}", tags=["users"])
    async def erase(user_id: Whom, by: Asking) -> ErasedResponse:
        """Erase a user: judgements, their own model in every version, and what the runs kept here say of them."""
        _may(by.may_erase(user_id), "erase this user", "annotate:self of their own, or admin")
        return ErasedResponse(**await desk.erase(user_id))


def _add_probes(app: FastAPI, engine: Engine, metrics: Callable[[], Awaitable[str]]) -> None:
    """Health, metrics, and the page to try it with."""

    @app.get("/healthz", tags=["probes"], response_model_exclude_none=True)
    async def health() -> Health:
        """Alive."""
        return Health(status="ok")

    @app.get("/readyz", tags=["probes"])
    async def ready() -> Health:
        """Answering, and which version."""
        return Health(status="ok", version=(await engine.describe())["version"])

    @app.get("/metrics", tags=["probes"], response_class=PlainTextResponse)
    async def exported() -> str:
        """Requests, batches, routes, fallbacks, versions, as Prometheus reads them."""
        return await metrics()

    web = files("beholder_serve") / "web"
    app.mount("/web", StaticFiles(directory=str(web)), name="web")

    @app.get("/", include_in_schema=False)
    async def playground() -> Response:
        return Response((web / "index.html").read_bytes(), media_type="text/html; charset=utf-8")


class ForbiddenError(BeholderError):
    """A caller who is known may not do this."""


STATUSES: dict[type[BeholderError], tuple[int, dict[str, str]]] = {
    AccessError: (401, {"WWW-Authenticate": "Bearer"}),
    ForbiddenError: (403, {}),
    MethodError: (409, {}),
    ErasedError: (409, {}),
    ServeError: (422, {}),
    BusyError: (429, {"Retry-After": "2"}),
}
"""What HTTP says of a refusal, and with which headers; 503 of all others."""


def _may(allowed: bool, what: str, scope: str) -> None:
    if not allowed:
        raise ForbiddenError(f"this token may not {what}; it takes the scope {scope}.")


def _unreadable(request: Request, error: Any) -> JSONResponse:
    """What cannot be read, and where; what was sent is not said again."""
    problems = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return JSONResponse({"detail": problems, "request_id": getattr(request.state, "request_id", None)}, 422)


def _said(request: Request, error: Any) -> JSONResponse:
    """What beholder refuses, as HTTP says it."""
    status, headers = next((said for kind, said in STATUSES.items() if isinstance(error, kind)), (503, {}))
    said = Refusal(detail=str(error), request_id=getattr(request.state, "request_id", None))
    return JSONResponse(said.model_dump(), status, headers)

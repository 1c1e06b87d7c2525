"""Predictions, and the model that is served."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from beholder_serve.routers.authorization import Authenticated, require
from beholder_serve.schemas import (
    ModelResponse,
    PerspectivesRequest,
    PerspectivesResponse,
    PredictRequest,
    PredictResponse,
    TextsResponse,
)
from beholder_serve.user_service import Engine


def views_router(engine: Engine) -> APIRouter:
    """Endpoints that an engine answers."""
    router = APIRouter()

    # Predictions are frequent and perspectives are large. Both come from the engine, so they are not validated again.
    @router.post("/v1/predict", tags=["views"], response_model=PredictResponse)
    async def predict(request: PredictRequest, caller: Authenticated) -> Response:
        """Predict the labels one user would give to one or several texts."""
        require(caller.may_predict(request.user_id), "get predictions of this user", "predict:self or predict:any")
        return JSONResponse(await engine.predict(request.user_id, request.all_texts))

    @router.post("/v1/perspectives", tags=["views"], response_model=PerspectivesResponse)
    async def perspectives(request: PerspectivesRequest, caller: Authenticated) -> Response:
        """Predict the labels all users, or some, would give to a text, and their disagreement on each label."""
        require(caller.may_see_all(), "get predictions of other users", "predict:any")
        users = None if request.users == "all" else request.users
        return JSONResponse(await engine.perspectives(request.text, users, request.at_most))

    @router.get("/v1/model", tags=["model"])
    async def model(caller: Authenticated) -> ModelResponse:
        """The version that is served, and its evaluation on test rows."""
        return ModelResponse(**await engine.describe())

    @router.get("/v1/texts", tags=["model"])
    async def texts(caller: Authenticated, n: int = 20) -> TextsResponse:
        """Texts for a new user to judge first: users disagree most on them, and each adds information."""
        require(caller.may_see_all() or "annotate:self" in caller.scopes, "get texts to judge", "annotate:self")
        return TextsResponse(**await engine.texts(min(max(n, 0), 50)))

    return router

"""Judgements, enrolment and erasure of users."""

from __future__ import annotations

from fastapi import APIRouter

from beholder_serve.routers.authorization import Authenticated, UserIdPath, require
from beholder_serve.schemas import AnnotationsRequest, AnnotationsResponse, EnrolResponse, ErasedResponse, UserResponse
from beholder_serve.user_service import Engine, UserService


def users_router(engine: Engine, users: UserService) -> APIRouter:
    """Endpoints of one user each."""
    router = APIRouter(tags=["users"])

    @router.put("/v1/users/{user_id:path}/annotations")
    async def annotate(user_id: UserIdPath, request: AnnotationsRequest, caller: Authenticated) -> AnnotationsResponse:
        """Store judgements of a user. They are on disk when this responds; nothing is trained yet."""
        require(caller.may_annotate(user_id), "submit judgements of this user", "annotate:self")
        judgements = [(each.text, each.labels, each.scales) for each in request.judgements]
        return AnnotationsResponse(stored=len(judgements), total=await users.put(user_id, judgements))

    @router.post("/v1/users/{user_id:path}/enrol")
    async def enrol(user_id: UserIdPath, caller: Authenticated) -> EnrolResponse:
        """Train this user's own model on their judgements, and serve it if it is expected to be better."""
        require(caller.may_annotate(user_id), "enrol this user", "annotate:self")
        return EnrolResponse(**await users.enrol(user_id))

    @router.get("/v1/users/{user_id:path}")
    async def user(user_id: UserIdPath, caller: Authenticated) -> UserResponse:
        """State of a user: whether the model knows them, their route and their judgements."""
        require(caller.may_predict(user_id), "read the state of this user", "predict:self or predict:any")
        return UserResponse(**await engine.user(user_id), judgements=await users.count(user_id))

    @router.delete("/v1/users/{user_id:path}")
    async def erase(user_id: UserIdPath, caller: Authenticated) -> ErasedResponse:
        """Erase a user: judgements, their own model in every version, and their rows in stored runs."""
        require(caller.may_erase(user_id), "erase this user", "annotate:self of the user, or admin")
        return ErasedResponse(**await users.erase(user_id))

    return router

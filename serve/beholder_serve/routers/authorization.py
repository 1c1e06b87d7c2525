"""The caller of a request, as a FastAPI dependency, and what a caller may do."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from beholder.util.errors import BeholderError
from beholder_serve.auth import UNRESTRICTED, AuthError, Caller
from beholder_serve.schemas import UserId


class ForbiddenError(BeholderError):
    """An authenticated caller may not do this."""


_BEARER = HTTPBearer(auto_error=False, description="A token of `beholder token issue`. Not required on loopback.")


async def authenticate(
    request: Request, token: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
) -> Caller:
    """The caller of a request.

    Raises:
        AuthError: a token is required, and it is missing or invalid.
        HTTPException: the token is over its rate limit.
    """
    state = request.app.state
    if not state.settings.tokens:
        return UNRESTRICTED
    if token is None:
        raise AuthError(
            "an access token is required: Authorization: Bearer TOKEN. Issue one with: beholder token issue"
        )
    caller = state.keys.verify(token.credentials)
    wait = state.limit.wait(caller.token_id)
    if wait > 0:
        raise HTTPException(429, "over this token's rate limit.", {"Retry-After": str(max(1, round(wait + 0.5)))})
    return caller


Authenticated = Annotated[Caller, Depends(authenticate)]
UserIdPath = Annotated[UserId, Path(description="User id, URL-encoded.", examples=["Annotator1"])]


def require(allowed: bool, action: str, scope: str) -> None:
    """Raise `ForbiddenError` unless a caller is allowed to do something."""
    if not allowed:
        raise ForbiddenError(f"this token may not {action}: it needs the scope {scope}.")

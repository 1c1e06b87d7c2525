"""What stands before every request: limits on size and time, request ids, headers, one structured line of log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Observe = Callable[[str, str, int, float], None]
"""Told route, method, status and seconds of each request."""

log = logging.getLogger("beholder.requests")

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
DOCS = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'"
"""The content-security-policy of `/docs` alone: Swagger UI starts from a script in its page."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Guard:
    """ASGI middleware. A request that is too large or too slow is refused before anybody reads it.

    Log lines name the route as it is declared (`/v1/users/{user_id}`), never a text, an id or a token.
    """

    def __init__(self, app: App, max_bytes: int, body_s: float, observe: Observe, says_id: bool = True) -> None:
        """`max_bytes`, `body_s`: of a body. `observe`: told of each request. `says_id`: adds `x-request-id`."""
        self._app, self._max_bytes, self._body_s = app, max_bytes, body_s
        self._observe, self._says_id = observe, says_id

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        asked = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = dict(HEADERS)
                if scope["path"] == "/docs":
                    added["content-security-policy"] = DOCS
                if self._says_id:
                    added["x-request-id"] = request_id
                there = {name.lower() for name, _ in message["headers"]}
                extra = [(name.encode(), value.encode()) for name, value in added.items() if name.encode() not in there]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            body = await self._body(scope, headers, receive)
            if isinstance(body, bytes):
                await self._app(scope, _replay(body, receive), sent)
            else:
                await _refuse(sent, body[0], body[1], request_id)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unknown")
            self._observe(route, scope["method"], status, seconds)
            line = {
                "id": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(1000 * seconds, 1),
            }
            log.info(json.dumps(line))

    async def _body(
        self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes], receive: Receive
    ) -> bytes | tuple[int, str]:
        """The whole body, or why it is refused."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return b""
        too_large = (413, f"the body is larger than {self._max_bytes:,} bytes. Send less at once.")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return 400, "Content-Length is no number."
        if int(length) > self._max_bytes:
            return too_large
        pieces: list[bytes] = []
        came = 0
        try:
            async with asyncio.timeout(self._body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return 400, "the connection was closed before the body was whole."
                    pieces.append(message.get("body", b""))
                    came += len(pieces[-1])
                    if came > self._max_bytes:
                        return too_large
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError:
            return 408, f"the body did not arrive within {self._body_s:g} s. Send it again."


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands out a body that was read, and then whatever comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


async def _refuse(send: Send, status: int, detail: str, request_id: str) -> None:
    body = json.dumps({"detail": detail, "request_id": request_id}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})

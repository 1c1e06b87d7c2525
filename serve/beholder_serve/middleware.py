"""ASGI middleware of every request: limits on size and time, request ids, security headers, one structured log line."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Observe = Callable[[str, str, int, float], None]
"""Called with route, method, status and seconds of each request."""

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
DOCS_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'"
)
"""The content-security-policy of `/docs` alone: Swagger UI starts from a script in its page."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestMiddleware:
    """Refuses requests that are too large or too slow before the application sees them, adds headers, and logs.

    Log lines contain the route as declared (`/v1/users/{user_id}`), never a text, an id or a token.
    """

    def __init__(self, app: App, max_bytes: int, body_s: float, observe: Observe, add_request_id: bool = True) -> None:
        """Wrap an application.

        Args:
            app: the application.
            max_bytes: of a body.
            body_s: seconds in which a body has to arrive.
            observe: called after each request.
            add_request_id: whether responses get the header `x-request-id`.
        """
        self._app, self._max_bytes, self._body_s = app, max_bytes, body_s
        self._observe, self._add_request_id = observe, add_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        given_id = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given_id if _REQUEST_ID.fullmatch(given_id) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = dict(HEADERS)
                if scope["path"] == "/docs":
                    added["content-security-policy"] = DOCS_POLICY
                if self._add_request_id:
                    added["x-request-id"] = request_id
                present = {name.lower() for name, _ in message["headers"]}
                extra = [
                    (name.encode(), value.encode()) for name, value in added.items() if name.encode() not in present
                ]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            body = await self._body(scope, headers, receive)
            if isinstance(body, bytes):
                await self._app(scope, _replay(body, receive), send_with_headers)
            else:
                await _refuse(send_with_headers, body[0], body[1], request_id)
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

    async def _body(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> bytes | tuple[int, str]:
        """The whole body, or the status and message of its refusal."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return b""
        too_large = (413, f"the body is larger than {self._max_bytes:,} bytes. Send less at once.")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return 400, "Content-Length is not a number."
        if int(length) > self._max_bytes:
            return too_large
        chunks: list[bytes] = []
        received = 0
        try:
            async with asyncio.timeout(self._body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return 400, "the connection was closed before the body was complete."
                    chunks.append(message.get("body", b""))
                    received += len(chunks[-1])
                    if received > self._max_bytes:
                        return too_large
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            return 408, f"the body did not arrive within {self._body_s:g} s. Send it again."


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body that was read, then passes on all later messages."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if not replayed:
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


async def _refuse(send: Send, status: int, detail: str, request_id: str) -> None:
    body = json.dumps({"detail": detail, "request_id": request_id}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})

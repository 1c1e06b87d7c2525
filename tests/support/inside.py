"""The server without Ray: the same endpoints, engine and desk, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI

from beholder.registry.feedback import Feedback
from beholder_serve.api import ApiSettings, build_app
from beholder_serve.core import Core, Followed
from beholder_serve.desk import Desk


class LocalEngine:
    """See `desk.Engine`: calls a core."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def predict(self, user: str, texts: Sequence[str]) -> dict[str, Any]:
        return (await asyncio.to_thread(self.core.predict, [(user, texts)]))[0]

    async def perspectives(self, text: str, users: Sequence[str] | None, at_most: int) -> dict[str, Any]:
        return await asyncio.to_thread(self.core.perspectives, text, users, at_most)

    async def user(self, user: str) -> dict[str, Any]:
        return self.core.user(user)

    async def describe(self) -> dict[str, Any]:
        return self.core.describe()

    async def texts(self, count: int) -> dict[str, Any]:
        return await asyncio.to_thread(self.core.texts, count)

    async def where(self) -> tuple[str, str, str, str]:
        return self.core.where()

    async def look(self) -> bool:
        return await asyncio.to_thread(self.core.look)


async def here(function: Callable[..., Any], *arguments: Any) -> Any:
    """See `desk.Run`."""
    return await asyncio.to_thread(function, *arguments)


async def no_metrics() -> str:
    return ""


def server(model: str, settings: ApiSettings | None = None) -> tuple[FastAPI, Core]:
    """The app of a registered model, and its core."""
    feedback = Feedback()
    core = Core(Followed(model=model), feedback)
    engine = LocalEngine(core)
    return build_app(engine, Desk(model, engine, feedback, here), settings or ApiSettings(), no_metrics), core


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The app behind a real socket; its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join(20)

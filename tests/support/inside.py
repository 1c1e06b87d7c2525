"""The server without Ray: the same endpoints, model server and user service, in this process."""

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
from beholder_serve.model_server import ModelServer, ServedModel
from beholder_serve.user_service import UserService


class LocalEngine:
    """`user_service.Engine` on a model server of this process."""

    def __init__(self, model_server: ModelServer) -> None:
        self.model_server = model_server

    async def predict(self, user: str, texts: Sequence[str]) -> dict[str, Any]:
        return (await asyncio.to_thread(self.model_server.predict, [(user, texts)]))[0]

    async def perspectives(self, text: str, users: Sequence[str] | None, at_most: int) -> dict[str, Any]:
        return await asyncio.to_thread(self.model_server.perspectives, text, users, at_most)

    async def user(self, user: str) -> dict[str, Any]:
        return self.model_server.user(user)

    async def describe(self) -> dict[str, Any]:
        return self.model_server.describe()

    async def texts(self, count: int) -> dict[str, Any]:
        return await asyncio.to_thread(self.model_server.texts, count)

    async def location(self) -> tuple[str, str, str, str]:
        return self.model_server.location()

    async def poll(self) -> bool:
        return await asyncio.to_thread(self.model_server.poll)


async def here(function: Callable[..., Any], *arguments: Any) -> Any:
    """See `user_service.RunInBackground`."""
    return await asyncio.to_thread(function, *arguments)


async def no_metrics() -> str:
    return ""


def server(model: str, settings: ApiSettings | None = None) -> tuple[FastAPI, ModelServer]:
    """The app of a registered model, and its model server."""
    feedback = Feedback()
    model_server = ModelServer(ServedModel(model=model), feedback)
    engine = LocalEngine(model_server)
    users = UserService(model, engine, feedback, here)
    return build_app(engine, users, settings or ApiSettings(), no_metrics), model_server


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

"""A client of a served model.

from beholder_serve.client import Client

with Client("http://127.0.0.1:8000") as client:
print(client.predict("Annotator5", "you are a stupid robot").predictions[0].scores)
for label in client.perspectives("you are a stupid robot").spread:
print(label.label, label.given)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from beholder.util.errors import BeholderError
from beholder_serve.schemas import (
    AnnotationsResponse,
    EnrolResponse,
    ErasedResponse,
    ModelResponse,
    PerspectivesResponse,
    PredictResponse,
    TextsResponse,
    UserResponse,
)

Answer = TypeVar("Answer", bound=BaseModel)


class RefusedError(BeholderError):
    """The server refused, or cannot be reached.

    Attributes:
        status: of HTTP; 0 where nobody answered.
        retry_after: seconds after which it may be asked again; 0 where it does not say.
    """

    def __init__(self, status: int, words: str, retry_after: float = 0.0) -> None:
        super().__init__(words)
        self.status, self.retry_after = status, retry_after


class Client:
    """Asks a server. May be used by several threads."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        token: str | None = None,
        *,
        timeout: float = 60.0,
        patience: float = 0.0,
    ) -> None:
        """Make one.

        Args:
            url: of the server.
            token: where it wants one: `beholder token issue`.
            timeout: seconds an answer may take.
            patience: seconds it goes on asking, as often as it is told to, where the server is over a limit.
        """
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._patience = patience

    def predict(self, user: str, text: str | Sequence[str]) -> PredictResponse:
        """What one user would say of a text, or of each of several.

        Raises:
            RefusedError: so it is with all methods here.
        """
        given: dict[str, Any] = {"text": text} if isinstance(text, str) else {"texts": list(text)}
        return self._ask(PredictResponse, "POST", "/v1/predict", {"user_id": user, **given})

    def perspectives(
        self, text: str, users: Sequence[str] | None = None, at_most: int | None = None
    ) -> PerspectivesResponse:
        """How some users, or all readers the model knows, would see a text."""
        body: dict[str, Any] = {"text": text, "users": "all" if users is None else list(users)}
        if at_most is not None:
            body["at_most"] = at_most
        return self._ask(PerspectivesResponse, "POST", "/v1/perspectives", body)

    def annotate(self, user: str, judgements: Sequence[tuple[str, Mapping[str, bool]]]) -> AnnotationsResponse:
        """Keep what a user says of texts: (text, label -> given)."""
        told = [{"text": text, "labels": dict(labels)} for text, labels in judgements]
        return self._ask(AnnotationsResponse, "PUT", f"{_path(user)}/annotations", {"judgements": told})

    def enrol(self, user: str) -> EnrolResponse:
        """Train this user's own model, and serve it if it is expected to do better."""
        return self._ask(EnrolResponse, "POST", f"{_path(user)}/enrol")

    def user(self, user: str) -> UserResponse:
        """What is known of a user, and what serves them."""
        return self._ask(UserResponse, "GET", _path(user))

    def erase(self, user: str) -> ErasedResponse:
        """Erase a user, everywhere."""
        return self._ask(ErasedResponse, "DELETE", _path(user))

    def model(self) -> ModelResponse:
        """What is served, and how good it was."""
        return self._ask(ModelResponse, "GET", "/v1/model")

    def texts(self, count: int = 20) -> TextsResponse:
        """Texts a newcomer should judge first."""
        return self._ask(TextsResponse, "GET", f"/v1/texts?n={count}")

    def close(self) -> None:
        """Let go of its connections."""
        self._client.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `close`."""
        self.close()

    def _ask(self, kind: type[Answer], method: str, path: str, body: Any = None) -> Answer:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                answer = self._client.request(method, path, json=body)
            except httpx.HTTPError as error:
                raise RefusedError(
                    0, f"{self._client.base_url}: does not answer ({type(error).__name__}). Is it being served?"
                ) from error
            if answer.is_success:
                return kind.model_validate_json(answer.content)
            wait = float(answer.headers.get("retry-after", 0))
            if answer.status_code != 429 or time.monotonic() + wait > deadline:
                raise RefusedError(answer.status_code, _words(answer), wait)
            time.sleep(max(wait, 0.1))


def _path(user: str) -> str:
    return f"/v1/users/{quote(user, safe='')}"


def _words(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return f"the server says {answer.status_code}."
    if isinstance(detail, list):
        return "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in detail)
    return str(detail)

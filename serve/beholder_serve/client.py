"""A client of a served model.

from beholder_serve.client import Client

with Client("http://127.0.0.1:8000") as client:
print(client.predict("Annotator5", "you are a stupid robot").predictions[0].scores)
seen = client.perspectives("you are a stupid robot")
for label in seen.spread:
print(label.label, label.given)
for scale in seen.scales:
print(scale.name, scale.mean)
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

Response = TypeVar("Response", bound=BaseModel)
Judged = tuple[str, Mapping[str, bool]] | tuple[str, Mapping[str, bool], Mapping[str, float]]
"""A text, label -> whether it is given, and scale -> the answer, if the task has scales."""


class RefusedError(BeholderError):
    """The server refused a request, or cannot be reached.

    Attributes:
        status: of HTTP; 0 if the server did not respond.
        retry_after: seconds after which the request may be retried; 0 if unspecified.
    """

    def __init__(self, status: int, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class Client:
    """A connection to a server. Thread-safe."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        token: str | None = None,
        *,
        timeout: float = 60.0,
        patience: float = 0.0,
    ) -> None:
        """Create a client.

        Args:
            url: of the server.
            token: access token of `beholder token issue`, if the server requires one.
            timeout: seconds a response may take.
            patience: seconds in which requests over a limit (429) are retried.
        """
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._patience = patience

    def predict(self, user: str, text: str | Sequence[str]) -> PredictResponse:
        """Predict one user's labels of one or several texts.

        Raises:
            RefusedError: the server refused, or did not respond; the same for all methods.
        """
        given: dict[str, Any] = {"text": text} if isinstance(text, str) else {"texts": list(text)}
        return self._request(PredictResponse, "POST", "/v1/predict", {"user_id": user, **given})

    def perspectives(
        self, text: str, users: Sequence[str] | None = None, at_most: int | None = None
    ) -> PerspectivesResponse:
        """Predict the labels of a text for some users, or for all the model knows."""
        body: dict[str, Any] = {"text": text, "users": "all" if users is None else list(users)}
        if at_most is not None:
            body["at_most"] = at_most
        return self._request(PerspectivesResponse, "POST", "/v1/perspectives", body)

    def annotate(self, user: str, judgements: Sequence[Judged]) -> AnnotationsResponse:
        """Store a user's judgements: (text, label -> given), or (text, label -> given, scale -> answer)."""
        content = [
            {"text": text, "labels": dict(labels), "scales": dict(*answers)} for text, labels, *answers in judgements
        ]
        return self._request(AnnotationsResponse, "PUT", f"{_path(user)}/annotations", {"judgements": content})

    def enrol(self, user: str) -> EnrolResponse:
        """Train this user's own model, and serve it if it is expected to be better."""
        return self._request(EnrolResponse, "POST", f"{_path(user)}/enrol")

    def user(self, user: str) -> UserResponse:
        """State of a user."""
        return self._request(UserResponse, "GET", _path(user))

    def erase(self, user: str) -> ErasedResponse:
        """Erase a user everywhere."""
        return self._request(ErasedResponse, "DELETE", _path(user))

    def model(self) -> ModelResponse:
        """The version that is served, and its evaluation."""
        return self._request(ModelResponse, "GET", "/v1/model")

    def texts(self, count: int = 20) -> TextsResponse:
        """Texts for a new user to judge first."""
        return self._request(TextsResponse, "GET", f"/v1/texts?n={count}")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `close`."""
        self.close()

    def _request(self, kind: type[Response], method: str, path: str, body: Any = None) -> Response:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                response = self._client.request(method, path, json=body)
            except httpx.HTTPError as error:
                raise RefusedError(
                    0, f"{self._client.base_url}: does not respond ({type(error).__name__}). Is the server running?"
                ) from error
            if response.is_success:
                return kind.model_validate_json(response.content)
            wait = float(response.headers.get("retry-after", 0))
            if response.status_code != 429 or time.monotonic() + wait > deadline:
                raise RefusedError(response.status_code, _message(response), wait)
            time.sleep(max(wait, 0.1))


def _path(user: str) -> str:
    return f"/v1/users/{quote(user, safe='')}"


def _message(response: httpx.Response) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return f"the server responded with status {response.status_code}."
    if isinstance(detail, list):
        return "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in detail)
    return str(detail)

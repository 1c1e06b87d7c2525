"""Comparison of a server's responses with the bundles, under load and while versions switch.

A response contains the version and the digest of the adapter that predicted. Both digest and scores are recomputed from
the bundle of that version, so that a prediction by another user's adapter, by another version's, or by a mixture is
detected.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from beholder.util.errors import ServeError
from beholder_serve.model_server import ModelServer, ServedModel

TOLERANCE = 2e-5
"""Allowed difference of scores: rounding depends on the composition of a batch."""
MAX_TEXTS = 4
"""Maximum number of texts in a request."""


@dataclass
class ServedCheck:
    """Result of a check.

    Attributes:
        answers: number of predictions compared with bundles.
        users: number of users.
        versions: versions that predicted.
        own: predictions by an adapter.
        wrong: predictions whose adapter is not the user's, or whose scores are not those of their adapter.
        fallbacks: predictions of the global model because an adapter could not be read.
        refused: requests that were refused: too many at once, or an engine died.
        seconds: duration; `expected_seconds` of it went into recomputing, in another thread.
        first_wrong: descriptions of the first wrong predictions; users are numbered, not named.
    """

    answers: int = 0
    users: int = 0
    versions: list[str] = field(default_factory=list)
    own: int = 0
    wrong: int = 0
    fallbacks: int = 0
    refused: int = 0
    seconds: float = 0.0
    expected_seconds: float = 0.0
    first_wrong: list[str] = field(default_factory=list)


class Expected:
    """Expected predictions of some texts for some users by each version, computed from the bundles."""

    def __init__(self, model: str, users: Sequence[str], texts: Sequence[str]) -> None:
        self._model, self._users, self._texts = model, users, texts
        self._servers: dict[str, ModelServer] = {}
        self._computed: dict[str, list[dict[str, Any]]] = {}
        self._lock = asyncio.Lock()
        self.seconds = 0.0

    async def of(self, version: str, user: str, known: int = 0) -> list[list[dict[str, Any]]]:
        """Lists of one prediction per text: the present ones, and those before users were enrolled or erased.

        known: number of lists that did not match; if there are no more, predictions are computed again.
        """
        async with self._lock:
            computed = self._computed.setdefault(version, [])
            if len(computed) <= known:
                started = time.perf_counter()
                computed.append(await asyncio.to_thread(self._compute, version))
                self.seconds += time.perf_counter() - started
            return [each[user] for each in computed]

    def _compute(self, version: str) -> dict[str, Any]:
        if version not in self._servers:
            number = version.rpartition(" v")[2]
            self._servers[version] = ModelServer(ServedModel(model=self._model, version=number))
        server = self._servers[version]
        server.poll()
        return {user: server.predict([(user, self._texts)])[0]["predictions"] for user in self._users}


async def check(
    url: str,
    model: str,
    users: list[str],
    texts: list[str],
    *,
    seconds: float,
    connections: int,
    token: str | None = None,
) -> ServedCheck:
    """Request predictions of all users repeatedly, over several connections, and compare each with its bundle.

    Args:
        url: of the server.
        model: that it serves.
        users: to request; unknown ids are checked as well, the global model predicts for them.
        texts: to request.
        seconds: duration; each user is requested at least once.
        connections: concurrent requests.
        token: with the scope predict:any, if the server requires one.

    Raises:
        ServeError: the server does not respond, or refuses.
    """
    found, expected = ServedCheck(users=len(users)), Expected(model, users, texts)
    started = time.perf_counter()
    random = np.random.default_rng(0)
    queue = [users[each] for each in random.permutation(len(users))]
    headers = {"authorization": f"Bearer {token}"} if token else {}
    limits = httpx.Limits(max_connections=connections)
    number_of = {user: place for place, user in enumerate(users)}

    async def work(client: httpx.AsyncClient) -> None:
        while queue or time.perf_counter() - started < seconds:
            user = queue.pop() if queue else users[int(random.integers(len(users)))]
            first = int(random.integers(len(texts)))
            chosen = [(first + each) % len(texts) for each in range(int(random.integers(1, MAX_TEXTS + 1)))]
            body = {"user_id": user, "texts": [texts[each] for each in chosen]}
            try:
                response = await client.post("/v1/predict", json=body)
            except httpx.HTTPError as error:
                raise ServeError(f"{url}: does not respond ({type(error).__name__}). Is the server running?") from error
            if response.status_code in (429, 503):
                found.refused += 1
                queue.append(user)
                await asyncio.sleep(0.1)
                continue
            if response.status_code != 200:
                detail = response.json().get("detail", "")
                raise ServeError(f"{url}: responded with status {response.status_code}: {detail}")
            await _compare(response.json(), user, chosen, expected, found, number_of[user])

    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=60) as client:
        await asyncio.gather(*(work(client) for _ in range(connections)))
    found.seconds, found.expected_seconds = time.perf_counter() - started, expected.seconds
    found.versions = sorted(found.versions)
    return found


async def _compare(
    response: dict[str, Any], user: str, texts: Sequence[int], expected: Expected, found: ServedCheck, number: int
) -> None:
    """Compare one response with the bundle of its version."""
    version = response["version"]
    if version not in found.versions:
        found.versions.append(version)
    candidates = await expected.of(version, user)
    for place, text in enumerate(texts):
        prediction = response["predictions"][place]
        found.answers += 1
        found.own += prediction["adapter"] is not None
        if prediction["fallback"]:
            found.fallbacks += 1
            continue
        if not any(_same(prediction, each[text]) for each in candidates):
            candidates = await expected.of(version, user, known=len(candidates))
        if not any(_same(prediction, each[text]) for each in candidates):
            found.wrong += 1
            if len(found.first_wrong) < 5:
                other = prediction["adapter"] not in {each[text]["adapter"] for each in candidates}
                problem = "the adapter is not the user's" if other else "the scores are not those of the adapter"
                found.first_wrong.append(f"user {number}, text {text}, {version}: {problem}")


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (one["adapter"], one["route"]) == (other["adapter"], other["route"]) and all(
        abs(score - other["scores"][label]) <= TOLERANCE for label, score in one["scores"].items()
    )

"""Holding what is served against the bundles, under load and while versions switch.

Each answer names the version and, by a digest of its numbers, the adapter that gave it. Here both are computed again
from the bundle of that version: the digest has to be the user's own, and the scores those of that adapter. So an answer
of somebody else's adapter, of another version's, or of a mixture is found.
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
from beholder_serve.core import Core, Followed

TOLERANCE = 2e-5
"""How far apart two readings of one adapter may be: batches are put together differently, and so is rounding."""
AT_ONCE = 4
"""Texts in a request, at most."""


@dataclass
class ServedCheck:
    """What a check found.

    Attributes:
        answers: that were held against bundles.
        users: who were asked for.
        versions: that answered.
        own: answers by an adapter.
        wrong: answers of another adapter than they name, or that name another than the user's.
        fallbacks: answers of the global model as a user's row could not be read.
        refused: requests that were not answered: too many at once, or an engine that died.
        seconds: it took; `expected_seconds` of them to compute what is right, by another thread.
        first_wrong: the first wrong answers in words; users are numbered, not named.
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
    """Scores of some texts for some users by each version, computed from the bundles."""

    def __init__(self, model: str, users: Sequence[str], texts: Sequence[str]) -> None:
        self._model, self._users, self._texts = model, users, texts
        self._cores: dict[str, Core] = {}
        self._said: dict[str, list[dict[str, Any]]] = {}
        self._lock = asyncio.Lock()
        self.seconds = 0.0

    async def of(self, version: str, user: str, known: int = 0) -> list[list[dict[str, Any]]]:
        """One prediction a text, now and as they were before users were enrolled or erased.

        known: how many of these lists were no help; where there are no more, another look is taken.
        """
        async with self._lock:
            said = self._said.setdefault(version, [])
            if len(said) <= known:
                started = time.perf_counter()
                said.append(await asyncio.to_thread(self._compute, version))
                self.seconds += time.perf_counter() - started
            return [each[user] for each in said]

    def _compute(self, version: str) -> dict[str, Any]:
        if version not in self._cores:
            number = version.rpartition(" v")[2]
            self._cores[version] = Core(Followed(model=self._model, version=number))
        core = self._cores[version]
        core.look()
        return {user: core.predict([(user, self._texts)])[0]["predictions"] for user in self._users}


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
    """Ask for all users again and again, over several connections, and hold every answer against its bundle.

    Args:
        url: of the server.
        model: that it serves.
        users: to ask for; ids that nobody knows are served by the global model, and checked, too.
        texts: to ask about.
        seconds: how long; every user is asked for once at least.
        connections: requests at once.
        token: with the scope predict:any, where the server wants one.

    Raises:
        ServeError: the server does not answer, or refuses.
    """
    found, expected = ServedCheck(users=len(users)), Expected(model, users, texts)
    started = time.perf_counter()
    random = np.random.default_rng(0)
    queue = [users[each] for each in random.permutation(len(users))]
    headers = {"authorization": f"Bearer {token}"} if token else {}
    limits = httpx.Limits(max_connections=connections)
    number = {user: place for place, user in enumerate(users)}

    async def work(client: httpx.AsyncClient) -> None:
        while queue or time.perf_counter() - started < seconds:
            user = queue.pop() if queue else users[int(random.integers(len(users)))]
            first = int(random.integers(len(texts)))
            some = [(first + each) % len(texts) for each in range(int(random.integers(1, AT_ONCE + 1)))]
            try:
                answer = await client.post(
                    "/v1/predict", json={"user_id": user, "texts": [texts[each] for each in some]}
                )
            except httpx.HTTPError as error:
                raise ServeError(f"{url}: does not answer ({type(error).__name__}). Is it served there?") from error
            if answer.status_code in (429, 503):
                found.refused += 1
                queue.append(user)
                await asyncio.sleep(0.1)
                continue
            if answer.status_code != 200:
                raise ServeError(f"{url}: answers {answer.status_code}: {answer.json().get('detail', '')}")
            await _hold(answer.json(), user, some, expected, found, number[user])

    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=60) as client:
        await asyncio.gather(*(work(client) for _ in range(connections)))
    found.seconds, found.expected_seconds = time.perf_counter() - started, expected.seconds
    found.versions = sorted(found.versions)
    return found


async def _hold(
    said: dict[str, Any], user: str, some: Sequence[int], expected: Expected, found: ServedCheck, number: int
) -> None:
    """Hold one answer against the bundle of the version it names."""
    version = said["version"]
    if version not in found.versions:
        found.versions.append(version)
    right = await expected.of(version, user)
    for place, text in enumerate(some):
        answer = said["predictions"][place]
        found.answers += 1
        found.own += answer["adapter"] is not None
        if answer["fallback"]:
            found.fallbacks += 1
            continue
        if not any(_same(answer, each[text]) for each in right):
            right = await expected.of(version, user, known=len(right))
        if not any(_same(answer, each[text]) for each in right):
            found.wrong += 1
            if len(found.first_wrong) < 5:
                other = answer["adapter"] not in {each[text]["adapter"] for each in right}
                what = "names another adapter than theirs" if other else "has not the scores of the adapter it names"
                found.first_wrong.append(f"user {number}, text {text}, {version}: the answer {what}")


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (one["adapter"], one["route"]) == (other["adapter"], other["route"]) and all(
        abs(score - other["scores"][label]) <= TOLERANCE for label, score in one["scores"].items()
    )

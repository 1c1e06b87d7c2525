"""A closed loop of requests: so many connections, each asks again as soon as it is answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

Ask = Callable[[int], tuple[str, dict[str, Any]]]
"""The number of a request -> its path and body. Numbers are never repeated."""


@dataclass
class Load:
    """What came of it.

    Attributes:
        seconds: how long it took.
        latencies: seconds of each request that was answered with 200.
        statuses: how many answers of each status; `error` counts connections that broke.
        answers: what `keep` made of each 200, where it is given.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    answers: list[Any] = field(default_factory=list)

    @property
    def rps(self) -> float:
        """Requests answered with 200, a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Milliseconds within which so many percent were answered."""
        return 1000 * float(np.percentile(self.latencies, share)) if self.latencies else float("nan")


def run(
    url: str,
    ask: Ask,
    connections: int,
    seconds: float,
    *,
    rate: float | None = None,
    keep: Callable[[int, dict[str, Any]], Any] | None = None,
    first: int = 0,
) -> Load:
    """Ask for some time.

    Args:
        url: of the server.
        ask: see `Ask`.
        connections: at once.
        seconds: how long new requests are sent; those under way are waited for.
        rate: requests a second at most, over all connections; as many as go where left out.
        keep: (number, answer) -> something to keep of each 200.
        first: the first request's number.
    """
    return asyncio.run(_run(url, ask, connections, seconds, rate, keep, first))


async def _run(
    url: str,
    ask: Ask,
    connections: int,
    seconds: float,
    rate: float | None,
    keep: Callable[[int, dict[str, Any]], Any] | None,
    first: int,
) -> Load:
    load, number = Load(), first
    started = time.perf_counter()
    end = started + seconds

    async def loop(session: aiohttp.ClientSession) -> None:
        nonlocal number
        while (now := time.perf_counter()) < end:
            mine, number = number, number + 1
            if rate is not None:
                due = started + (mine - first) / rate
                if due >= end:
                    return
                if due > now:
                    await asyncio.sleep(due - now)
            path, body = ask(mine)
            sent = time.perf_counter()
            try:
                async with session.post(url + path, json=body) as answer:
                    found = await answer.json()
                    load.statuses[str(answer.status)] += 1
                    if answer.status == 200:
                        load.latencies.append(time.perf_counter() - sent)
                        if keep is not None:
                            load.answers.append(keep(mine, found))
            except (aiohttp.ClientError, TimeoutError):
                load.statuses["error"] += 1

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        await asyncio.gather(*(loop(session) for _ in range(connections)))
    load.seconds = time.perf_counter() - started
    return load

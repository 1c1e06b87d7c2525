"""Long work of a server runs a few at a time and the rest is refused; none of it keeps an erased person."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest
import torch
from house import MODEL
from inside import LocalEngine, here, no_metrics, server

from beholder.registry.feedback import Enrolment
from beholder.util.errors import RegistryError
from beholder_serve import user_service
from beholder_serve.api import ApiSettings, build_app
from beholder_serve.background_worker import BackgroundWorkerDeployment
from beholder_serve.user_service import ENROLMENTS, ERASURES, UserService

FACTS = {"route": "global", "train_rows": 20, "valid_rows": 20, "gain": 0.0, "expected": 0.0}
TRAINED = Enrolment(b"", {**FACTS, "right": {"personal": 0.5, "global": 0.5}})
ERASED = {"judgements": 1, "bundles": 0, "runs": 0, "record": "0" * 16, "priors": []}


@pytest.fixture
def model_server(outcome):
    return server(MODEL)[1]


def told(model_server, outcome, users) -> None:
    labels = outcome.test.task.labels
    given = [
        (f"{text} number {place}", {label: bool(value) for label, value in zip(labels, row, strict=True)})
        for place, (text, row) in enumerate(zip(outcome.test.texts[:20], outcome.test.labels[:20], strict=True))
    ]
    for user in users:
        model_server.feedback.put(MODEL, user, given)


@pytest.mark.parametrize("what", ["enrol", "erase"])
def test_of_many_users_at_once_a_few_are_at_work_some_wait_and_the_rest_get_429(model_server, outcome, what):
    at_once, waiting = ENROLMENTS if what == "enrol" else ERASURES
    users = [f"crowd {number}" for number in range(at_once + waiting + 5)]
    told(model_server, outcome, users)
    running, most = [0], [0]

    async def run(function, *arguments):
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(0.05)
        running[0] -= 1
        return TRAINED if what == "enrol" else ERASED

    engine = LocalEngine(model_server)
    app = build_app(
        engine, UserService(MODEL, engine, model_server.feedback, run), ApiSettings(burst=1_000), no_metrics
    )

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            method, path = ("POST", "/enrol") if what == "enrol" else ("DELETE", "")
            asked = [client.request(method, f"/v1/users/{user}{path}") for user in users]
            return sorted(answer.status_code for answer in await asyncio.gather(*asked))

    assert asyncio.run(ask()) == [200] * (at_once + waiting) + [429] * 5
    assert most[0] == at_once


def test_a_background_worker_runs_one_call_of_a_function_at_a_time():
    threads = torch.get_num_threads()
    worker, running, most = BackgroundWorkerDeployment.func_or_class(), [0], [0]
    torch.set_num_threads(threads)  # which it lowers for its own process
    lock = threading.Lock()

    def work() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1

    async def at_once() -> None:
        await asyncio.gather(*(worker.run(work) for _ in range(8)))

    asyncio.run(at_once())
    assert most == [1]


@pytest.mark.parametrize("fails", [False, True])
def test_the_bundle_that_is_open_for_enrolments_is_closed_by_an_erasure(model_server, outcome, monkeypatch, fails):
    """It has everybody's adapters, those of the person who is erased among them."""
    user = f"wanda-{fails}@example.org"
    told(model_server, outcome, [user])
    service = UserService(MODEL, LocalEngine(model_server), model_server.feedback, here)
    asyncio.run(service.enrol(user))
    assert user_service._open_bundle.cache_info().currsize == 1
    if fails:

        def refused(user: str):
            raise RegistryError("the store is away.")

        monkeypatch.setattr(user_service, "erase_everywhere", refused)
        with pytest.raises(RegistryError):
            asyncio.run(service.erase(user))
    else:
        answer = asyncio.run(service.erase(user))
        assert set(answer) == {"erased", "judgements", "bundles", "runs", "record", "priors", "within_s"}
        assert "wanda" not in str(answer) and len(answer["record"]) == 16  # drawn, not a hash: see the test of records
    assert user_service._open_bundle.cache_info().currsize == 0

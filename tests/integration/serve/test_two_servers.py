"""Two servers in two homes on one bucket and one PostgreSQL, one with two engines: writes to either reach both.

Both want tokens, which one machine issues and revokes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import psutil
import pytest
from house import MODEL, settings
from servers import answers, free_port, mlflow_server, object_storage, postgres

from beholder.experiment.config import make_experiment
from beholder.registry import versions as registry
from beholder.registry.feedback import Feedback
from beholder.workflows import run as pipeline
from beholder_serve.api import ApiSettings
from beholder_serve.auth import KeyRing
from beholder_serve.deployment import serving

pytestmark = [pytest.mark.serve, pytest.mark.slow]
HOUR = timedelta(hours=1)
ASKED = 64
"""How often a server is asked: both of two engines answer, surely enough."""
NEWCOMERS = ("newcomer-1", "newcomer-2", "newcomer-3")
SOON_S = 20.0
"""The other server looks every two seconds and may have to open a version."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Addresses of both servers, a token that may do everything, readers, and what servers are run with."""
    folder = tmp_path_factory.mktemp("two")
    with (
        pytest.MonkeyPatch.context() as patch,
        postgres(folder / "postgres.log") as database,
        mlflow_server(folder, database) as tracking,
        object_storage(folder, "bundles") as (store, _),
    ):
        surroundings = {
            "BEHOLDER_HOME": str(folder / "one"),
            "BEHOLDER_STORE": store,
            "BEHOLDER_FEEDBACK": database.replace("postgresql://", "postgresql+psycopg://"),
            "MLFLOW_TRACKING_URI": tracking,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        for name, value in surroundings.items():
            patch.setenv(name, value)
        outcome = pipeline.run(make_experiment(settings()))
        run_id = registry.find(MODEL).run_id
        registry.publish(MODEL, outcome.run_folder / "bundle", run_id, dict(registry.find(MODEL).tags), "again")
        token = KeyRing().issue("operator", ["admin"], HOUR)
        shutil.copytree(folder / "one" / "access", folder / "two" / "access")  # a secret that both machines mount
        first, second = free_port(), free_port()
        command = [sys.executable, "-m", "beholder.cli.main", "serve", "--port", str(second), "--tokens"]
        command += ["--rate", "100000", "--burst", "100000"]
        log = (folder / "second.log").open("wb")
        other = subprocess.Popen(
            command, env={**os.environ, "BEHOLDER_HOME": str(folder / "two")}, stdout=log, stderr=log
        )
        try:
            with serving({"model": MODEL}, "127.0.0.1", first, ApiSettings(tokens=True, rate=1e5, burst=100_000), 2):
                until(answers(f"http://127.0.0.1:{second}/healthz"), 120)
                urls = [f"http://127.0.0.1:{port}" for port in (first, second)]
                yield urls, token, sorted(set(outcome.test.user_ids.tolist())), surroundings
        finally:
            other.send_signal(signal.SIGTERM)
            try:
                other.wait(60)
            finally:
                other.kill()
                log.close()


def until(true, seconds: float = SOON_S) -> float:
    """Seconds until it was."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.fixture(autouse=True)
def at_home(world, monkeypatch):
    for name, value in world[3].items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def one(world):
    return client(world[0][0], world[1])


@pytest.fixture
def other(world):
    return client(world[0][1], world[1])


def client(url: str, token: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=60)


def said_of(server: httpx.Client, user: str, times: int = ASKED) -> set[tuple[str, str | None]]:
    """Version and adapter of many answers to one question, asked at once."""

    def ask(_):
        answer = server.post("/v1/predict", json={"user_id": user, "text": "who answers this?"})
        assert answer.status_code == 200, answer.text
        return answer.json()["version"], answer.json()["predictions"][0]["adapter"]

    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(ask, range(times)))


def adapters(server: httpx.Client, user: str) -> set[str | None]:
    return {adapter for _, adapter in said_of(server, user)}


def told(server: httpx.Client, user: str, labels: list[str]) -> httpx.Response:
    judgements = [{"text": f"text {number}", "labels": dict.fromkeys(labels, True)} for number in range(20)]
    return server.put(f"/v1/users/{user}/annotations", json={"judgements": judgements})


def enrolled(server: httpx.Client, user: str) -> None:
    """Somebody who says yes to all."""
    labels = server.get("/v1/model").json()["labels"]
    assert told(server, user, labels).status_code == 200
    answer = server.post(f"/v1/users/{user}/enrol")
    assert answer.status_code == 200, answer.text
    assert answer.json()["helped"], answer.json()


@pytest.mark.parametrize("user", NEWCOMERS)
def test_what_is_told_to_one_engine_is_known_to_all_when_it_is_answered_and_to_the_other_server_soon(one, other, user):
    assert len([each for each in psutil.process_iter(["cmdline"]) if is_engine(each)]) >= 3
    assert adapters(one, user) == adapters(other, user) == {None}
    enrolled(one, user)
    (adapter,) = adapters(one, user)  # of both engines, at once
    assert adapter is not None
    until(lambda: adapters(other, user) == {adapter})

    erased = one.delete(f"/v1/users/{user}")
    assert erased.status_code == 200 and erased.json()["judgements"] == 20
    assert adapters(one, user) == {None}
    assert until(lambda: adapters(other, user) == {None}) <= erased.json()["within_s"] + 1
    for server in (one, other):
        refused = told(server, user, server.get("/v1/model").json()["labels"])
        assert refused.status_code == 409 and user not in refused.text


def is_engine(process: psutil.Process) -> bool:
    return "beholder:Engine" in " ".join(process.info["cmdline"] or [])


def test_somebody_of_the_run_erased_at_the_other_server_is_gone_from_all_engines(world, one, other):
    user = next(each for each in world[2] if adapters(one, each) != {None})
    erased = other.delete(f"/v1/users/{user}")
    assert erased.status_code == 200 and erased.json()["bundles"] == 2, erased.text
    assert adapters(other, user) == {None}
    assert until(lambda: adapters(one, user) == {None}) <= erased.json()["within_s"] + 1
    rest = [each for each in world[2] if each != user]
    assert any(adapters(one, each) != {None} for each in rest)
    for each in rest:
        assert said_of(one, each, 8) == said_of(other, each, 8)


def test_another_version_is_followed_by_all(world, one, other):
    user = next(each for each in world[2] if adapters(one, each) != {None})

    def all_are(number: int) -> bool:
        return {version for version, _ in said_of(one, user) | said_of(other, user)} == {f"{MODEL} v{number}"}

    for number in (2, 1):
        registry.promote(MODEL, number, force=True)
        until(lambda: all_are(number))  # noqa: B023


def test_a_token_revoked_on_one_machine_is_refused_by_both_servers(world):
    ring = KeyRing(feedback=Feedback())
    token = ring.issue("reader", ["predict:any"], HOUR)
    for url in world[0]:
        assert client(url, token).post("/v1/predict", json={"user_id": "a", "text": "b"}).status_code == 200
    ring.revoke(token)
    for url in world[0]:
        asking = client(url, token)
        until(lambda: asking.post("/v1/predict", json={"user_id": "a", "text": "b"}).status_code == 401)  # noqa: B023

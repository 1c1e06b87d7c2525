"""Responses are compared with the bundle of their version: wrong adapters and wrong scores are detected."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import numpy as np
import pytest
from house import MODEL, table_of
from inside import listening, server
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.data.annotations import Annotations
from beholder.lifecycle.enroll import train_user
from beholder.lifecycle.refresh import refresh
from beholder.registry import versions as registry
from beholder.util.errors import ServeError
from beholder_serve.check import check
from beholder_serve.scoring import Scorer, UserTensors

TEXTS = ["you are kind", "you are a fool", "hello there"]


def checked(url: str, seconds: float = 1.0, connections: int = 8):
    users = [*registry.open_version(registry.find(MODEL)).users, "a stranger"]
    return asyncio.run(check(url, MODEL, users, TEXTS, seconds=seconds, connections=connections))


def test_answers_under_load_are_those_of_the_bundle_while_versions_switch(outcome, tmp_path):
    web, model_server = server(MODEL)
    rows = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
    table_of(rows, list(rows.users), tmp_path / "new.parquet")
    second = refresh(MODEL, tmp_path / "new.parquet")["version"]
    over = threading.Event()

    def switch() -> None:
        turn = 0
        while not over.wait(0.3):
            registry.promote(MODEL, (second, 1)[turn % 2], force=True)
            model_server.poll()
            turn += 1

    thread = threading.Thread(target=switch)
    with listening(web) as url:
        thread.start()
        try:
            found = checked(url, seconds=4)
        finally:
            over.set()
            thread.join()
            registry.promote(MODEL, 1, force=True)
    assert found.wrong == 0 and found.first_wrong == [] and found.fallbacks == 0
    assert found.versions == [f"{MODEL} v1", f"{MODEL} v{second}"]
    assert found.answers > 20 and 0 < found.own < found.answers and found.users == len(rows.users) + 1


def test_who_is_enrolled_meanwhile_is_right_before_and_after(outcome):
    web, model_server = server(MODEL)
    bundle = registry.open_version(registry.find(MODEL))
    user, labels = bundle.users[0], outcome.test.task.labels
    told = [
        (f"{text} {place}", {label: bool(value) for label, value in zip(labels, given, strict=True)})
        for place, (text, given) in enumerate(zip(outcome.test.texts[:20], 1 - outcome.test.labels[:20], strict=True))
    ]
    model_server.feedback.put(MODEL, user, told)
    rows = model_server.feedback.annotations(MODEL, bundle.task, user)

    def enrol() -> None:
        time.sleep(0.7)
        model_server.feedback.enrol(MODEL, bundle.backbone_digest, user, train_user(bundle, rows))
        model_server.poll()

    thread = threading.Thread(target=enrol)
    with listening(web) as url:
        thread.start()
        found = checked(url, seconds=3)
        thread.join()
    assert found.wrong == 0 and found.answers > 20


@pytest.mark.parametrize("mistake", ["rows of others", "other numbers"])
def test_an_answer_of_another_adapter_is_found(outcome, monkeypatch, mistake):
    """As where a cache mixes two users up, or where numbers change behind a name."""
    web, model_server = server(MODEL)
    adapters_of, say = Scorer._adapters_of, type(model_server._scorer.bundle.personal).say

    def mixed_up(self, bank, names):
        adapters, unread = adapters_of(self, bank, names)
        if self is model_server._scorer:
            other = next(iter(self.bundle.on_personal - set(names)), None)
            if other and adapters[0] is not None:
                adapters[0] = UserTensors(bank.bank.take([other]))
        return adapters, unread

    def altered(self, states, tensors, user):
        scores = say(self, states, tensors, user)
        return np.clip(scores + 1e-3, 0, 1) if self is model_server._scorer.bundle.personal else scores

    if mistake == "rows of others":
        monkeypatch.setattr(Scorer, "_adapters_of", mixed_up)
    else:
        monkeypatch.setattr(type(model_server._scorer.bundle.personal), "say", altered)
    with listening(web) as url:
        found = checked(url, seconds=0.5, connections=2)
        done = CliRunner().invoke(app, ["serve", "check", MODEL, "--url", url, "--seconds", "0.2"])
    words = {"rows of others": "the adapter is not the user's", "other numbers": "the scores are not those"}
    assert found.wrong > 0 and any(words[mistake] in line for line in found.first_wrong)
    assert not any(user in line for line in found.first_wrong for user in model_server._scorer.bundle.users)
    assert done.exit_code == 2 and "are not of the adapter they name" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_command_prints_what_it_found_and_refuses_what_is_not_served(outcome):
    with listening(server(MODEL)[0]) as url:
        done = CliRunner().invoke(app, ["serve", "check", MODEL, "--url", url, "--seconds", "0.3", "--json"])
        said = json.loads(done.stdout)
        assert done.exit_code == 0 and said["versions"] == [f"{MODEL} v1"]
        assert said["wrong"] == 0 and said["answers"] >= 7
    away = CliRunner().invoke(app, ["serve", "check", MODEL, "--url", "http://127.0.0.1:9", "--seconds", "0"])
    assert away.exit_code == 2 and "does not respond" in away.stderr
    with pytest.raises(ServeError, match="does not respond"):
        checked("http://127.0.0.1:9", seconds=0)

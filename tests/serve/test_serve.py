"""A real Ray Serve on loopback answers from a published bundle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest

from beholder import pipeline
from beholder.cluster.local import local_ray
from beholder.errors import ServeError
from beholder.experiment import make_experiment
from beholder.registry import registry
from beholder.registry.store import Store
from beholder.registry.stored import open_stored
from beholder_serve.app import serving

pytestmark = pytest.mark.serve


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def champion(tmp_path_factory):
    """A published champion, `cls`: its home folder, its bundle and its test rows. The Ray it was made on stays up."""
    experiment = make_experiment(
        {
            "name": "served",
            "source": {
                "name": "simulated",
                "texts": "templates",
                "users": 5,
                "rows_per_user": 50,
                "distinct_texts": 80,
            },
            "base": "tiny-bert",
            "methods": {"cls": {"epochs": 1, "max_tokens": 48}, "user-prior": {}},
            "evaluate": {"reference": "cls", "bootstrap": 20},
            "register": {"name": "served"},
        }
    )
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, local_ray():
        patch.setenv("BEHOLDER_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)  # where MLflow left the store of a test before
        outcome = pipeline.run(experiment)
        version = registry.find("served")
        yield home, (registry.store_of(version).uri, registry.bundle_of(version)), outcome.test


def test_predictions_over_http_are_the_bundles_own(champion):
    _, stored, test = champion
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serving(*stored, "served v1", "127.0.0.1", port), httpx.Client(base_url=url, timeout=30) as client:
        assert client.get("/healthz").json() == {"status": "ok", "version": "served v1"}
        texts, users = [*test.texts, "never seen"], [*test.user_ids, "a stranger"]

        def ask(pair):
            answer = client.post("/v1/predict", json={"user_id": pair[1], "text": pair[0]})
            assert answer.status_code == 200, answer.text
            return answer.json()

        # All at once, every request another user: they share batches, and each gets their own answer.
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, zip(texts, users, strict=True)))
        expected = open_stored(stored[1], Store(stored[0])).predict(texts, users)
        labels = test.task.labels
        for row, answer in enumerate(answers):
            (prediction,) = answer["predictions"]
            assert answer["version"] == "served v1"
            assert prediction["route"] == expected.routes[row]
            np.testing.assert_allclose(
                [prediction["scores"][label] for label in labels], expected.scores[row], atol=1e-5
            )
            assert [prediction["decisions"][label] for label in labels] == expected.decisions[row].tolist()
        many = client.post("/v1/predict", json={"user_id": "u", "texts": ["one", "two", "three"]}).json()
        assert len(many["predictions"]) == 3

        for body, field in [
            ({"user_id": "u"}, "text or texts"),
            ({"user_id": "u", "text": "a", "texts": ["a"]}, "text or texts"),
            ({"user_id": "", "text": "a"}, "user_id"),
            ({"user_id": "u", "text": "  "}, "text"),
            ({"user_id": "u", "text": "a" * 20_000}, "text"),
            ({"user_id": "u", "texts": ["a"] * 300}, "texts"),
            ({"user_id": "u", "text": "a", "surprise": 1}, "surprise"),
        ]:
            refused = client.post("/v1/predict", json=body)
            assert refused.status_code == 422 and field in refused.text
        bad = client.post("/v1/predict", content=b"\xff\xfe not json", headers={"content-type": "application/json"})
        assert 400 <= bad.status_code < 500
        assert "/v1/predict" in client.get("/openapi.json").json()["paths"]

        with pytest.raises(ServeError, match="already in use"), serving(*stored, "x", "127.0.0.1", port):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "example.org"])
def test_beyond_loopback_nothing_is_served_without_tokens(host, tmp_path):
    with pytest.raises(ServeError, match="only loopback"), serving(str(tmp_path), "x", "x", host, 8000):
        pass


def test_the_command_serves_the_champion_and_stops_when_told(champion):
    port = free_port()
    command = [sys.executable, "-m", "beholder.cli.main", "serve", "--port", str(port)]
    env = {**os.environ, "BEHOLDER_HOME": str(champion[0])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            try:
                health = httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2)
                if health.status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        assert health.json()["version"] == "served v1"
        listening = [
            each for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.laddr.port == port
        ]
        assert listening and {each.laddr.ip for each in listening} == {"127.0.0.1"}
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert process.returncode == 0


def test_with_nothing_registered_the_command_says_what_to_do(home):
    command = [sys.executable, "-m", "beholder.cli.main", "serve"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "beholder run EXPERIMENT" in done.stderr and len(done.stderr.splitlines()) == 1

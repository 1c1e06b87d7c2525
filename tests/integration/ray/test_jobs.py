"""A real cluster on this machine, started as a person would, with tokens: jobs submitted, followed, stopped, killed."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from project import ROOT
from servers import free_port, mlflow_server, running

from beholder.datasets import locate
from beholder.experiment.config import load_experiment
from beholder.workflows import run as pipeline

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
EXPERIMENTS = ROOT / "experiments"
KNOWN = locate("convabuse") is not None
FILE = EXPERIMENTS / ("convabuse.yaml" if KNOWN else "simulated.yaml")
SHORT = (
    "base=tiny-bert",
    "subsample.rows=600",
    "methods={prior: {}, cls: {epochs: 2}, cls-u: {init_from: cls, bank: {block_users: 2, epochs: 4}}}",
)
LONG = (*SHORT[:-1], "methods={prior: {}, cls: {epochs: 1}, long: {method: cls-p, epochs: 4000, patience: 4000}}")


def sets(settings) -> list[str]:
    return [part for each in settings for part in ("--set", each)]


class Place:
    """A head, a worker, an MLflow server and a folder that all of them reach."""

    def __init__(self, folder: Path, address: str, mlflow: str, token: Path) -> None:
        self.shared, self.address, self.mlflow, self.token = folder, address, mlflow, token

    def run(self, *command: str, token: str | None = None, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """`beholder`, on a machine that knows nothing of the cluster but its address and token."""
        ours = ("RAY_", "BEHOLDER_", "MLFLOW")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        env |= {"RAY_AUTH_MODE": "token", "BEHOLDER_HOME": str(self.shared.parent / "mine")}
        env |= {"RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_TOKEN_PATH": str(self.token)}
        line = [sys.executable, "-m", "beholder.cli.main", *map(str, command)]
        return subprocess.run(line, capture_output=True, text=True, env=env, timeout=timeout)

    def submit(self, settings, *more: str) -> subprocess.CompletedProcess[str]:
        to = ["--address", self.address, "--storage", self.shared, "--mlflow", self.mlflow]
        data = ["--data", locate("convabuse").resolve().parent] if KNOWN else []
        return self.run("submit", FILE, *to, *data, *sets(settings), *more)

    def results(self) -> list[dict]:
        return [json.loads(file.read_text()) for file in sorted(self.shared.glob("runs/*/results.json"))]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`ray start --head` and `ray start --address`, one core each."""
    folder = tmp_path_factory.mktemp("cluster")
    ray, token = str(Path(sys.executable).with_name("ray")), folder / "token"
    token.write_text(secrets.token_urlsafe(32))
    port, dashboard = free_port(), free_port()
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # a job's python is that of the head
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "BEHOLDER_HOME": "", "RAY_ADDRESS": ""}
    # One each, or two nodes of a machine would unpack a job into the same place. Ray's sockets need short paths.
    temporary = [tempfile.mkdtemp(prefix="ray-") for _ in range(2)]
    head = [ray, "start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    head += [f"--dashboard-port={dashboard}", "--num-cpus=1", f"--temp-dir={temporary[0]}", "--block"]
    worker = [ray, "start", f"--address=127.0.0.1:{port}", "--num-cpus=1", f"--temp-dir={temporary[1]}", "--block"]
    for node in (head, worker):  # another Ray of this machine may have the usual one, and then no job can be submitted
        node.append(f"--dashboard-agent-listen-port={free_port()}")

    def nodes(count: int):
        def ready() -> bool:
            bearer = {"Authorization": f"Bearer {token.read_text()}"}
            try:
                asked = httpx.get(f"http://127.0.0.1:{dashboard}/nodes?view=summary", headers=bearer, timeout=5)
            except httpx.TransportError:
                return False
            return asked.status_code == 200 and asked.text.count('"ALIVE"') >= count

        return ready

    with ExitStack() as stack:
        for each in temporary:
            stack.callback(shutil.rmtree, each, ignore_errors=True)
        mlflow = stack.enter_context(mlflow_server(folder, f"sqlite:///{folder / 'mlflow.db'}"))
        stack.enter_context(running(head, folder / "head.log", nodes(1), **env))
        stack.enter_context(running(worker, folder / "worker.log", nodes(2), **env))
        yield Place(folder / "shared", f"http://127.0.0.1:{dashboard}", mlflow, token)


def test_a_submitted_experiment_gains_what_it_gains_at_home(place, tmp_path, monkeypatch):
    done = place.submit((*SHORT, "cluster.workers=2"), "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 workers on 2 nodes" in done.stdout and "gain in points over" in done.stdout
    page = re.search(rf"MLflow: ({re.escape(place.mlflow)}/#/experiments/\d+/runs/\w+)", done.stdout)
    assert page
    (there,) = place.results()
    assert page[1].endswith(there["mlflow"]["run_id"])
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "local"))
    here = pipeline.run(load_experiment(FILE, (*SHORT, "cluster.workers=0"))).results.to_json()
    assert there["split"] == here["split"] and there["run"] == here["run"]
    for name, method in here["methods"].items():
        assert there["methods"][name]["macro_f1"] == pytest.approx(method["macro_f1"], abs=0.005)
    assert there["registered"]["model"] == here["registered"]["model"]
    jobs = json.loads(place.run("jobs", "ls", "--address", place.address, "--json").stdout)
    assert [(job["status"], job["name"]) for job in jobs] == [("SUCCEEDED", there["experiment"])]


def drivers() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if line[1:5] == ["-m", "beholder.cli.main", "run", FILE.name] and "_ray_pkg_" in process.cwd():
            found.append(process)
    return found


def test_a_driver_that_dies_fails_its_job_and_submitted_again_it_goes_on(place):
    made = json.loads(place.submit(LONG, "--json").stdout)["job"]
    deadline = time.monotonic() + 120
    settings = load_experiment(FILE, LONG)
    run = place.shared / "runs" / f"{settings.name}-{settings.digest[:8]}"
    while not (run / "methods" / "cls" / "done.json").exists() or not drivers():
        assert time.monotonic() < deadline, place.run("jobs", "logs", made, "--address", place.address).stdout
        time.sleep(0.3)
    for driver in drivers():
        driver.send_signal(signal.SIGKILL)
    followed = place.run("jobs", "logs", made, "--address", place.address, "--follow")
    assert followed.returncode not in (0, 130)
    again = json.loads(place.submit(LONG, "--json").stdout)["job"]
    logs, deadline = "", time.monotonic() + 120
    while "cls: finished before with the same inputs, kept" not in logs:
        assert time.monotonic() < deadline, logs
        logs = place.run("jobs", "logs", again, "--address", place.address).stdout
        time.sleep(0.5)
    stopped = place.run("jobs", "stop", again, "--address", place.address)
    assert "resume from what is finished" in stopped.stdout
    followed = place.run("jobs", "logs", again, "--address", place.address, "--follow")
    assert followed.returncode == 130


def test_refusals_are_one_line_and_come_at_once(place, tmp_path):
    at = ["--address", place.address]

    def refused(*command: str, **more) -> str:
        done = place.run(*command, **more)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    lacks = refused("submit", FILE, *at)
    assert "2 nodes" in lacks and "--storage" in lacks and "--mlflow" in lacks
    assert "--mlflow" not in refused("submit", FILE, *at, "--mlflow", place.mlflow)
    assert "token" in refused("jobs", "ls", *at, token="wrong")
    assert "http://HOST:8265" in refused("jobs", "ls", "--address", "head:8265")
    assert "nobody" in refused("jobs", "logs", "nobody", *at) and "nobody" in refused("jobs", "stop", "nobody", *at)
    assert "Failed to connect" in refused("jobs", "ls", "--address", f"http://127.0.0.1:{free_port()}")
    assert "no such experiment" in refused("submit", tmp_path / "none.yaml", *at)
    assert "unknown arm" in refused("submit", FILE, "--search", "clss", *at)
    assert "leave out" in refused("submit", "model", "--refresh", "--search", "cls", *at)

"""What clusters do to a job: workers die, nodes go and come. It ends with the right bank all the same."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from beholder import pipeline
from beholder.cluster import train
from beholder.experiment import make_experiment

pytestmark = pytest.mark.cluster


def experiment(workers, users: int = 16, epochs: int = 12):
    """So many blocks of two users each, of about a second."""
    bank = {"block_users": 2, "top_layers": 1, "epochs": epochs, "patience": epochs, "caution": 0.0}
    return make_experiment(
        {
            "name": "faults",
            "source": {"name": "simulated", "texts": "templates", "users": users, "rows_per_user": 60},
            "base": "tiny-bert",
            "methods": {"prior": {}, "cls": {"epochs": 1}, "cls-u": {"from": "cls", "bank": bank}},
            "evaluate": {"reference": "cls", "bootstrap": 20},
            "cluster": {"workers": workers, "cpus_per_worker": 1},
        }
    )


class Watched(threading.Thread):
    """A run in a thread of its own, and every block file it wrote, each time it did."""

    def __init__(self, settings, home) -> None:
        super().__init__(daemon=True)
        self.settings, self.home = settings, home
        self.lines: list[str] = []
        self.outcome = self.error = None
        self.written: dict[str, set[int]] = {}

    def say(self, line):
        self.lines.append(line)

    def step(self, arm, done, total, note, unit="steps"):
        pass

    def run(self):
        try:
            self.outcome = pipeline.run(self.settings, self)
        except Exception as error:
            self.error = error

    def look(self) -> int:
        """Blocks finished so far."""
        for file in self.home.glob("runs/*/unfinished/bank-*/block-*.parquet"):
            try:
                self.written.setdefault(file.name, set()).add(file.stat().st_mtime_ns)
            except FileNotFoundError:
                pass  # the run is over, and has cleared up
        return len(self.written)

    def until(self, ready: Callable[[], bool], seconds: float = 180) -> None:
        """Look again and again until something is so."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.error is None, self.error
            assert time.monotonic() < deadline, self.lines
            self.look()
            time.sleep(0.02)

    def end(self):
        self.until(lambda: not self.is_alive())
        assert self.error is None, self.error
        return self.outcome


def workers() -> list[psutil.Process]:
    """The processes that compute, of Rays that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in "".join(process.cmdline()[:1]):
                found.append(process)
        except psutil.Error:
            pass  # it died meanwhile
    return found


def shards(outcome) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes()
        for file in (outcome.run_folder / "methods" / "cls-u" / "bank").glob("*")
        if file.name.startswith("shard-")
    }


@pytest.fixture(scope="module")
def cluster():
    """A head that computes nothing, and nodes as tests want them."""
    if ray.is_initialized():
        ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What comes out when nothing happens: one process, no cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_HOME", str(tmp_path_factory.mktemp("undisturbed")))
        outcome = pipeline.run(experiment(0))
    return outcome.results, shards(outcome)


def same(outcome, undisturbed) -> None:
    results, expected = undisturbed
    assert shards(outcome) == expected
    assert outcome.results["split"]["hash"] == results["split"]["hash"]
    for name, method in outcome.results["methods"].items():
        assert method["macro_f1"] == pytest.approx(results["methods"][name]["macro_f1"], abs=1e-6)


def test_nodes_come_and_go_and_a_worker_is_killed(cluster, undisturbed, home, monkeypatch):
    monkeypatch.setattr(train, "RESIZE_S", 1.0)
    first = cluster.add_node(num_cpus=1)
    run = Watched(experiment((1, 2)), home)
    run.start()
    run.until(lambda: run.look() >= 1)
    before = set(workers())
    assert len(before) == 1

    second = cluster.add_node(num_cpus=1)  # it gets blocks: a worker is started there
    run.until(lambda: any("2 workers on 2 nodes" in line for line in run.lines))
    done = run.look()
    run.until(lambda: run.look() > done)

    os.kill(workers()[0].pid, signal.SIGKILL)
    run.until(lambda: sum("started again" in line for line in run.lines) >= 2)

    cluster.remove_node(first, allow_graceful=False)
    outcome = run.end()
    cluster.remove_node(second)
    same(outcome, undisturbed)
    assert len(run.written) == 8 and all(len(times) == 1 for times in run.written.values())  # none trained twice


def test_workers_that_keep_dying_are_one_clear_error(cluster, home, monkeypatch):
    node = cluster.add_node(num_cpus=1)
    run = Watched(experiment(1, users=2, epochs=4_000), home)
    run.start()
    deadline = time.monotonic() + 240
    while run.is_alive() and time.monotonic() < deadline:
        if any(home.glob("runs/*/methods/cls/done.json")):
            for process in workers():
                process.kill()
        time.sleep(0.3)
    cluster.remove_node(node)
    assert "workers died" in str(run.error) and "cls-u" in str(run.error) and "\n" not in str(run.error)
    assert any(home.glob("runs/*/methods/cls/done.json"))  # what was finished is kept

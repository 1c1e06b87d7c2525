"""What clusters do to a job: workers die, nodes go and come. It ends with the right bank all the same."""

from __future__ import annotations

import os
import signal

import pytest
import ray
from clusters import Undisturbed, Watched, experiment, workers
from ray.cluster_utils import Cluster
from ray.serve._private.build_app import build_app

from beholder.cluster import trainer as train
from beholder.util.errors import ClusterError, ServeError
from beholder_serve.api import ApiSettings
from beholder_serve.deployment import application

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


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


def test_nodes_come_and_go_and_a_worker_is_killed(cluster, home, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "RESIZE_S", 1.0)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")  # it first waits for the node that is gone
    first = cluster.add_node(num_cpus=1)
    size = {"users": 16, "epochs": 60}  # nodes that come are noticed after up to 20 s
    expected = Undisturbed(tmp_path / "undisturbed", **size)
    run = Watched(experiment((1, 2), **size), home)
    run.start()
    run.until(lambda: len(workers()) == 1)
    second = cluster.add_node(num_cpus=1)  # it gets blocks: a worker is started there
    run.until(lambda: any("2 workers on 2 nodes" in line for line in run.lines))
    done = run.look()
    run.until(lambda: run.look() > done)

    os.kill(workers()[0].pid, signal.SIGKILL)
    run.until(lambda: sum("started again" in line for line in run.lines) >= 2)

    cluster.remove_node(first, allow_graceful=False)
    outcome = run.end()
    cluster.remove_node(second)
    expected.is_what_came_of(outcome)
    assert len(run.written) == 8 and all(len(times) == 1 for times in run.written.values())  # none trained twice


def test_workers_that_keep_dying_are_one_clear_error(cluster, home, monkeypatch):
    node = cluster.add_node(num_cpus=1)
    run = Watched(experiment(1, users=2, epochs=40_000), home)
    run.start()
    while run.is_alive():
        seen = run.steps
        run.until(lambda: run.steps > seen or not run.is_alive())  # noqa: B023
        for process in workers():
            process.kill()
    cluster.remove_node(node)
    assert isinstance(run.error, ClusterError)
    assert "workers died" in str(run.error) and "cls-u" in str(run.error) and "\n" not in str(run.error)
    assert any(home.glob("runs/*/methods/cls/done.json"))  # what was finished is kept


def test_several_nodes_are_not_served_from_files_of_one_machine(cluster, home, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "BEHOLDER_FEEDBACK"):
        monkeypatch.delenv(name, raising=False)
    served = {"model": "a model", "version": "champion"}
    node = cluster.add_node(num_cpus=1)
    with pytest.raises(ServeError, match=r"^the cluster has 2 nodes, and SQLite works on one only") as refused:
        application(served, ApiSettings())
    assert "MLFLOW_TRACKING_URI" in str(refused.value) and "BEHOLDER_FEEDBACK" in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("BEHOLDER_FEEDBACK", "")  # as a compose file leaves it
    with pytest.raises(ServeError, match=r"needs a database server for users' judgements"):
        application(served, ApiSettings())
    monkeypatch.setenv("BEHOLDER_FEEDBACK", "postgresql+psycopg://user@host/beholder")
    assert application(served, ApiSettings())
    cluster.remove_node(node)
    monkeypatch.delenv("BEHOLDER_FEEDBACK")
    alone = application(served, ApiSettings())  # one machine may, and all of it stays there when another joins
    cluster.add_node(num_cpus=4)
    cluster.wait_for_nodes()
    here = ray.get_runtime_context().get_node_id()

    @ray.remote
    class Where:
        def node(self) -> str:
            return ray.get_runtime_context().get_node_id()

    for deployment in build_app(alone, name="one-machine").deployments:
        options = {**deployment.ray_actor_options, "num_cpus": 0}  # the head of these tests computes nothing
        actor = Where.options(**options).remote()
        assert ray.get(actor.node.remote(), timeout=60) == here, deployment.name

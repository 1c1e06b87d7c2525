"""Starting Ray, or joining the cluster this process belongs to, with the settings a user should not have to know of."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from beholder.cluster.config import Cluster
from beholder.util.errors import ClusterError, first_line

# Set before Ray starts, so that its workers inherit them. No hub is used. Ray Train looks every half second, not every
# two, whether its workers are done: a job ends that much sooner. What serves never blocks its event loop, so one loop a
# replica does: a sixth more requests a second.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Where several processes of several threads compute side by side, OpenMP's idle threads must sleep, or they slow each
other down severalfold; a process alone is a third faster when they wait awake."""
ADDRESS = "RAY_ADDRESS"
"""Where a cluster is that this process belongs to; Ray sets it for the jobs it runs."""


def apply_settings() -> None:
    """Put `SETTINGS` into the environment, keeping what the user has set already.

    An embedded Ray that nobody else can reach needs no token, and Ray is set so, unless one is given; whether a
    cluster needs one is in its own environment.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if not on_cluster():
        given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
        os.environ.setdefault("RAY_AUTH_MODE", "token" if given else "disabled")


def on_cluster() -> bool:
    """Whether this process belongs to a cluster."""
    return bool(os.environ.get(ADDRESS))


@contextlib.contextmanager
def on_ray(workers: int = 1) -> Iterator[None]:
    """A Ray for the time of a `with` block: the one this process has, its cluster's, or an embedded one on loopback.

    Args:
        workers: see `start_ray`.

    Raises:
        ClusterError: see `start_ray`.
    """
    if not start_ray(workers):
        yield
        return
    import ray

    try:
        yield
    finally:
        ray.shutdown()


def start_ray(workers: int = 1) -> bool:
    """Join the cluster of this process, or start an embedded Ray; False where this process has one already.

    Args:
        workers: processes that will compute at the same time, each with several threads: idle ones must sleep then,
            see `SLEEPING`.

    Raises:
        ClusterError: Ray did not start, or the cluster does not answer.
    """
    apply_settings()
    import ray

    if ray.is_initialized():
        return False
    if workers > 1:
        for name, value in SLEEPING.items():
            os.environ.setdefault(name, value)
    quiet: Any = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    here: Any = {
        "address": "local",
        "num_cpus": os.cpu_count(),
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**quiet, **({} if on_cluster() else here))
    except Exception as error:  # where its processes are not up in time, Ray raises a bare Exception
        why = first_line(error).rstrip(".")[:300]
        if on_cluster():
            raise ClusterError(f"the cluster at {os.environ[ADDRESS]} does not answer: {why}.") from error
        raise ClusterError(
            f"Ray did not start: {why}. On a busy machine run the command again; "
            "`beholder doctor` shows memory and disk."
        ) from error
    # Ray handles SIGTERM by dumping its stack; an earlier handler is put in force again.
    if on_sigterm is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    return True


def takes_gpu(use_gpu: bool | str) -> bool:
    """Whether workers get a GPU: as set, or with `"auto"` where the running Ray has one."""
    import ray

    return ray.cluster_resources().get("GPU", 0) > 0 if use_gpu == "auto" else bool(use_gpu)


def side_by_side(fits: int, cluster: Cluster, memory: float) -> int:
    """How many workers `auto` stands for in the running Ray: one for each fit, as long as there is room for them.

    Args:
        fits: how many could be fitted at the same time.
        cluster: what each worker has.
        memory: bytes of each, about.
    """
    if fits == 1:
        return 1
    share, cpus = cluster.gpus_per_worker, cluster.cpus_per_worker or 1
    on_gpus = takes_gpu(cluster.use_gpu)

    def room(node: dict[str, float]) -> int:
        places = [node.get("CPU", 0) // cpus, node.get("memory", 0) // memory]
        if on_gpus:  # no worker has parts of two
            gpus = node.get("GPU", 0)
            places.append(gpus // share if share > 1 else int(gpus) * int(1 / share))
        return int(min(places))

    return max(1, min(fits, sum(room(node) for node in _nodes())))


def cpus_each(most: int, asked: int | None = None) -> int:
    """CPUs of each of `workers`: as set, or as many as let the nodes of the running Ray hold them all."""
    if asked:
        return asked
    of_nodes = [int(node.get("CPU", 0)) for node in _nodes()]
    for cpus in range(max(of_nodes, default=1), 1, -1):
        if sum(count // cpus for count in of_nodes) >= most:
            return cpus
    return 1


def _nodes() -> list[dict[str, float]]:
    """What each node of the running Ray has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]

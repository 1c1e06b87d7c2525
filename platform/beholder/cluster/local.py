"""Starting Ray, with the settings a user should not have to know of."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from beholder.errors import ClusterError

# Set before Ray starts, so that its workers inherit them. Token auth is off for a cluster nobody else can reach; no hub
# is asked. Ray Train looks every half second, not every two, whether its workers are done: a job ends that much sooner.
# What serves never blocks its event loop, so one loop a replica does: a sixth more requests a second.
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def apply_settings() -> None:
    """Put `SETTINGS` into the environment, keeping what the user has set already."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def local_ray(workers: int = 1) -> Iterator[None]:
    """An embedded Ray on loopback for the time of a `with` block; joins one that runs in this process already.

    Args:
        workers: processes that will compute at the same time. With several, idle OpenMP threads must sleep, or they
            slow each other down severalfold; one alone is a third faster when they wait awake.

    Raises:
        ClusterError: Ray did not start.
    """
    apply_settings()
    import ray

    if ray.is_initialized():
        yield
        return
    if workers > 1:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        ray.init(
            address="local",
            num_cpus=os.cpu_count(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
            _node_ip_address="127.0.0.1",
        )
    except (RuntimeError, OSError, TimeoutError, ConnectionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(f"Ray did not start: {reason}. `beholder doctor` shows memory and disk.") from error
    try:
        yield
    finally:
        ray.shutdown()


def takes_gpu(use_gpu: bool | str) -> bool:
    """Whether workers get a GPU each: as said, or with `"auto"` where the running Ray has one."""
    import ray

    return ray.cluster_resources().get("GPU", 0) > 0 if use_gpu == "auto" else bool(use_gpu)

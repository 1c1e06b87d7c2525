"""Jobs on a cluster that runs elsewhere: packing what they need, submitting, following and stopping them.

A job is a `beholder` command that Ray starts on the cluster. What travels is the code, the experiment file and the
settings; data, weights and results are where the cluster finds them. Ray's dashboard shows a job's settings to all who
may look: secrets (a bucket's keys, passwords) belong into the cluster's own environment, never here.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

from beholder.cluster.run_storage import STORAGE, below, folder_of, missing
from beholder.cluster.runtime import SETTINGS
from beholder.models.packaged import EMBEDDED
from beholder.util.atomic import scratch
from beholder.util.errors import ClusterError, first_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PACKAGES = ("beholder", "beholder_serve")
OURS = {"submitted-by": "beholder"}
"""Marks our jobs."""


@dataclass(frozen=True)
class Job:
    """A command for a cluster.

    Attributes:
        command: of `beholder`, as it would be typed.
        name: what it is called in lists.
        files: local files -> the names they have in the job's working folder.
        storage: a URI, or a folder that all nodes reach.
        mlflow: the address of an MLflow server, as the cluster reaches it.
        bare: nodes have Ray alone; Ray installs what this environment has, the same versions, before the job starts.
        variables: more of the job's environment.
    """

    command: Sequence[str]
    name: str
    files: dict[Path, str] = field(default_factory=dict)
    storage: str | None = None
    mlflow: str | None = None
    bare: bool = False
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the job and of all its workers."""
        found = {name: os.environ.get(name, value) for name, value in SETTINGS.items()}
        found["OMP_WAIT_POLICY"] = "PASSIVE"  # several workers on a node: see `runtime.start_ray`
        if self.mlflow:
            found["MLFLOW_TRACKING_URI"] = self.mlflow
        if self.storage:
            folder = folder_of(self.storage)
            if folder is not None:
                found["BEHOLDER_HOME"] = str(folder)
            else:
                found[STORAGE] = self.storage
                found["BEHOLDER_STORE"] = below(self.storage, "store")
        return {**found, **self.variables}


def submit(job: Job, address: str) -> str:
    """Hand a job to a cluster; returns its id.

    Args:
        job: see there.
        address: of the cluster's dashboard, `http://HOST:8265`.

    Raises:
        ClusterError: the cluster does not answer, wants another token, or lacks what several nodes must share.
    """
    client = _client(address)
    lacks = missing(_nodes(address), job.mlflow or "sqlite:", job.storage is not None)
    if lacks:
        raise ClusterError(f"{address}: {lacks}")
    with scratch() as folder:
        pack(folder, job.files)
        runtime: dict[str, Any] = {"working_dir": str(folder), "env_vars": job.environment}
        if job.bare:
            runtime["pip"] = {"packages": requirements(), "pip_install_options": ["--no-deps"]}
        # A driver computes nothing: it may run on a head that has no CPUs to give.
        entrypoint = f"python -m beholder.cli.main {shlex.join(job.command)}"
        with _told(address):
            for left in reversed(range(30)):
                try:
                    return client.submit_job(
                        entrypoint=entrypoint, runtime_env=runtime, metadata={**OURS, "name": job.name}
                    )
                except RuntimeError as error:
                    # A head that has just been started takes some seconds until it can run jobs.
                    if not left or "No available agent" not in str(error):
                        raise
                    time.sleep(2)
    raise AssertionError("the last try returns or raises")


def pack(folder: Path, files: dict[Path, str]) -> None:
    """Put what a job needs into a folder: the packages as they are installed here, and files.

    Raises:
        ClusterError: a file is not there.
    """
    for file in files:
        if not file.is_file():
            raise ClusterError(f"{file}: no such file. It was to travel with the job.")
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None and spec.submodule_search_locations
        source = spec.submodule_search_locations[0]
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for file, name in files.items():
        shutil.copyfile(file, folder / name)


def requirements() -> list[str]:
    """Everything beholder needs, as it is installed here, `name==version`; Ray is the cluster's own."""
    found: dict[str, str] = {}
    models = [Requirement(each.package) for each in EMBEDDED.values()]
    alone = {_plain(each.name) for each in models}  # without what they say they need
    wanted = [Requirement("beholder"), *models]
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        asked = wanted.pop()
        name, extras = _plain(asked.name), frozenset(asked.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform, or not wanted (the embedded models' own)
        found[name] = distribution.version
        for line in () if name in alone else distribution.requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                wanted.append(needed)
    # A local build (`2.13.0+cpu`) is not what a registry calls it.
    return [
        f"{name}=={version.partition('+')[0]}"
        for name, version in sorted(found.items())
        if name not in ("beholder", "ray")
    ]


def follow(job: str, address: str, write: Callable[[str], None]) -> int:
    """Pass on what a job prints until it ends; returns its exit code (that of a stopped job is 130).

    A connection that breaks is made again, and nothing is passed on twice.

    Raises:
        ClusterError: there is no such job, or the cluster is gone.
    """
    client = _client(address)
    passed, failures = 0, 0
    while True:
        try:
            info = client.get_job_info(job)
            text = client.get_job_logs(job)
            failures = 0
        except (RuntimeError, OSError) as error:
            failures += 1
            if failures > 30 or "does not exist" in str(error):
                raise ClusterError(f"job {job}: {first_line(error)}") from error
            time.sleep(1)
            continue
        if len(text) > passed:
            write(text[passed:])
            passed = len(text)
        if info.status.is_terminal():
            if info.status == "SUCCEEDED":
                return 0
            if info.status == "STOPPED":
                return 130
            if not text.strip():
                write(f"{info.message}\n")
            return info.driver_exit_code or 1
        time.sleep(1)


def listed(address: str) -> list[dict[str, str]]:
    """Jobs of this cluster that beholder submitted, the newest first."""
    with _told(address):
        jobs = [job for job in _client(address).list_jobs() if OURS.items() <= (job.metadata or {}).items()]
    jobs.sort(key=lambda job: -(job.start_time or 0))
    return [
        {
            "job": str(job.submission_id),
            "name": str((job.metadata or {}).get("name", "")),
            "status": str(job.status.value),
            "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime((job.start_time or 0) / 1000)),
            "seconds": f"{((job.end_time or time.time() * 1000) - (job.start_time or 0)) / 1000:.0f}",
        }
        for job in jobs
    ]


def logs(job: str, address: str) -> str:
    """What a job printed so far."""
    with _told(address):
        return _client(address).get_job_logs(job)


def stop(job: str, address: str) -> bool:
    """Stop a job; what it finished stays. False where it had ended before."""
    with _told(address):
        return _client(address).stop_job(job)


def _client(address: str) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://")):
        raise ClusterError(f"--address {address}: expected that of the dashboard, http://HOST:8265.")
    with _told(address):
        return JobSubmissionClient(address)


def _nodes(address: str) -> int:
    """How many nodes are alive."""
    from ray.util.state import list_nodes

    with _told(address):
        return len(list_nodes(address=address, filters=[("state", "=", "ALIVE")], limit=10_000))


@contextlib.contextmanager
def _told(address: str) -> Iterator[None]:
    """Errors of the cluster as one line."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(
            f"{address}: the cluster wants another token, or one. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to "
            "the file it is in."
        ) from error
    except (RuntimeError, OSError) as error:
        raise ClusterError(f"{address}: {first_line(error)}") from error


def _plain(name: str) -> str:
    """A package's name as registries compare it."""
    return name.lower().replace("_", "-").replace(".", "-")

"""Fitting the arms of an experiment as one Ray Train job.

Starting a trainer costs many seconds, a task within it milliseconds: one job fits all arms, and all users of those that
train a bank, dealt out over its workers (`scheduler`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from beholder.cluster.config import Cluster
from beholder.cluster.run_storage import SharedRun, below
from beholder.cluster.runtime import SLEEPING, cpus_each, on_ray, side_by_side, takes_gpu
from beholder.data.annotations import Annotations
from beholder.data.folds import parts_of
from beholder.execution.arm import ArmJob
from beholder.execution.forgetting import MeasureJob
from beholder.models.loading import weights_bytes
from beholder.models.model_ref import ModelRef
from beholder.training.context import Context
from beholder.training.feature_cache import FeatureCache
from beholder.util import errors
from beholder.util.atomic import scratch
from beholder.util.errors import BeholderError, ClusterError, first_line
from beholder.util.paths import home
from beholder.util.run_folder import ANNOTATIONS, FORGETTING, METHODS, RAY, SCORES, RunFolder

RESIZE_S = 30.0
"""How often it is looked whether nodes have come that workers could be started on."""
STARTS = 60
"""How often workers may fail to start, or wait a minute for nodes to start on."""
REFUSED_S = 20.0
"""How long workers have to end by themselves when the job is over."""
KEPT = "What is finished is kept; run again to resume."
ArmProgress = Callable[[str, int, int, str, str], None]
"""Called with (arm, units done, units in all, a few words, the unit)."""


@dataclass(frozen=True)
class FitJob:
    """Everything the workers need; plain values, so that it travels.

    Attributes:
        run_folder: holds `annotations.parquet` with a `part` column; arms are written below it. All workers must
            reach it, or its copy.
        arms: those to fit.
        base: see `ModelRef.to_json`.
        seed: see `training.context.Context`.
        cluster: how many processes share the arms, and what each has.
        measures: what to measure of forgetting, once its arm is fitted.
        together: arms that all workers fit at once, each a share of every batch.
        fits: how many of these could be fitted at the same time: folds, and trainings under other seeds.
        copy: where a copy of the run folder is that all workers reach; None where they reach the folder itself.
    """

    run_folder: str
    arms: tuple[ArmJob, ...]
    base: str | dict[str, Any]
    seed: int
    cluster: Cluster
    measures: tuple[MeasureJob, ...] = ()
    together: tuple[str, ...] = ()
    copy: str | None = None
    fits: int = 1

    @property
    def memory(self) -> float:
        """What a worker takes, about, in bytes: the base's weights with gradients and moments, what is kept of a batch
        for the way back, pooled texts, and libraries.
        """
        base = ModelRef.of(self.base)
        return 1.5e9 + 8 * (0 if base.endpoint else weights_bytes(base.local))

    @property
    def side_by_side(self) -> int:
        """How many fits may run at the same time: one alone of an endpoint, which is called as often as it allows."""
        return 1 if ModelRef.of(self.base).endpoint else self.fits


def fit_arms(job: FitJob, on_progress: ArmProgress, say: Callable[[str], None]) -> None:
    """Fit, save and score every arm of `job`. Finished arms stay when a later one fails.

    Workers that die, and nodes that go, cost what they were at; nodes that come are taken up to the most workers.

    Raises:
        BeholderError: the error a worker raised.
        ClusterError: the job failed otherwise.
    """
    if not job.arms and not job.measures:
        return
    shared = SharedRun(Path(job.run_folder), job.copy)
    shared.keep(ANNOTATIONS, FORGETTING)
    with on_ray():
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from beholder.cluster.scheduler import WorkQueue

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        queue: Any = (
            ray.remote(num_cpus=0)(WorkQueue)
            .options(scheduling_strategy=here)  # it must not go with another node
            .remote(list(job.arms), job.measures, job.together)
        )
        # Ray's own notes of a job, of use for as long as it runs; on a cluster all nodes must reach them.
        logs = below(job.copy, RAY) if job.copy else str(RunFolder(Path(job.run_folder)).ray)
        failure = _watched(_trainer(job, queue, logs), queue, on_progress, say)
        shared.fetch(METHODS, SCORES, FORGETTING)
        refused = ray.get(queue.refusal.remote())
        if refused:
            raise getattr(errors, refused[0])(refused[1])
        if failure:
            reason = str(failure).strip().splitlines()
            raise ClusterError(
                f"the training job failed: {reason[-1] if reason else type(failure).__name__} "
                f"Finished methods are kept; run again to resume. Ray's logs: {logs.partition('?')[0]}"
            ) from failure
        shared.drop(RAY)
        shutil.rmtree(RunFolder(Path(job.run_folder)).ray, ignore_errors=True)


def _trainer(job: FitJob, queue: Any, logs: str) -> Any:
    """The Ray Train job, with as many workers as there are to be."""
    import ray
    from ray.train import FailureConfig, RunConfig, UserCallback
    from ray.train.torch import TorchConfig, TorchTrainer

    fewest, most = job.cluster.range
    if job.cluster.workers == "auto":
        fewest = most = side_by_side(job.side_by_side, job.cluster, job.memory)
    if not job.together and not any(arm.settings.in_blocks for arm in job.arms):
        most = min(most, len(job.arms) + len(job.measures))
        fewest = min(fewest, most)
    gpus = job.cluster.gpus_per_worker if takes_gpu(job.cluster.use_gpu) else 0.0
    cpus = cpus_each(most, job.cluster.cpus_per_worker)

    class WorkerFailureCallback(UserCallback):
        """Counts failures in the queue, which ends a job whose workers keep dying (`scheduler.DEATHS`)."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            ray.get(queue.died.remote())

    return TorchTrainer(
        _work,
        train_loop_config={
            "job": asdict(job),
            "queue": queue,
            "threads": cpus,
            "gpu": gpus > 0,
            "home": str(home()),
        },
        scaling_config=_scaling(fewest, most, cpus, gpus),
        run_config=RunConfig(
            name=f"fit-{time.time_ns()}",
            storage_path=logs,
            failure_config=FailureConfig(max_failures=-1, controller_failure_limit=STARTS),
            callbacks=[WorkerFailureCallback()],
            worker_runtime_env={"env_vars": SLEEPING} if most > 1 and cpus > 1 else None,
        ),
        # Two workers on one GPU cannot talk by NCCL. A worker that waits for a long evaluation must not time out.
        torch_config=TorchConfig(backend="nccl" if gpus >= 1 else "gloo", timeout_s=86_400),
    )


def _watched(trainer: Any, queue: Any, on_progress: ArmProgress, say: Callable[[str], None]) -> BaseException | None:
    """Run the job to its end and show how far it is; what it raised."""
    import ray

    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # carried to the calling thread below
            failure.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    patience = REFUSED_S  # workers that cannot even start never see that they should end
    while thread.is_alive() and patience > 0:
        thread.join(0.5)
        _show(queue, on_progress, say)
        patience -= 0.5 * bool(ray.get(queue.refusal.remote()))
    _show(queue, on_progress, say)
    return failure[0] if failure else None


def _scaling(fewest: int, most: int, cpus: int, gpus: float) -> Any:
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=most if fewest == most else (fewest, most),
        use_gpu=gpus > 0,
        resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})},
        elastic_resize_monitor_interval_s=RESIZE_S,
    )


def _show(queue: Any, on_progress: ArmProgress, say: Callable[[str], None]) -> None:
    import ray

    progress, said = ray.get(queue.take_news.remote())
    for line in said:
        say(line)
    for arm, news in progress.items():
        on_progress(arm, *news)


def _work(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs.

    What another try cannot fix is reported to the queue, and the worker ends as if all were done: only a worker that
    fails is restarted.
    """
    import ray
    import torch
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero

    # A worker runs in a folder of Ray's own: a home given relative to the driver's folder, or none, would be elsewhere.
    os.environ["BEHOLDER_HOME"] = config["home"]
    torch.set_num_threads(config["threads"])
    job, queue = config["job"], config["queue"]
    group = broadcast_from_rank_zero(uuid.uuid4().hex)
    size, node = get_context().get_world_size(), ray.get_runtime_context().get_node_id()
    together = ray.get(queue.joined.remote(group, size, node))
    try:
        with _run_folder(job) as run_folder:
            _take_part(job, queue, config["gpu"], SharedRun(run_folder, job["copy"]), together)
    except Exception as error:
        kind, message = _refusal(error, job["run_folder"])
        ray.get(queue.refuse.remote(kind, message))
        if together:  # the others wait for this one: all are started again, and find the refusal
            raise


def _refusal(error: Exception, run_folder: str) -> tuple[str, str]:
    """The class and the one line of what a worker raised."""
    if isinstance(error, BeholderError):
        return type(error).__name__, str(error)
    if isinstance(error, OSError) and error.strerror:
        return "ClusterError", f"{error.filename or run_folder}: {error.strerror}. {KEPT}"
    logging.getLogger("beholder").exception("a worker failed")
    return "ClusterError", f"a worker failed: {type(error).__name__}: {first_line(error)}. {KEPT}"


@contextlib.contextmanager
def _run_folder(job: dict[str, Any]) -> Iterator[Path]:
    """The run's folder; one of the worker's own, for its time, where a copy is what is shared."""
    folder = Path(job["run_folder"])
    if not job["copy"]:
        yield folder
        return
    with scratch() as own:
        yield own / folder.parent.name / folder.name


def _take_part(job: dict[str, Any], queue: Any, gpu: bool, shared: SharedRun, together: list[str]) -> None:
    import ray
    import torch

    from beholder.cluster.scheduler import Worker

    shared.fetch(ANNOTATIONS)
    if not RunFolder(shared.folder).annotations.is_file():
        node = ray.util.get_node_ip_address()
        raise ClusterError(f"{shared.folder}: node {node} does not see it. Give --storage that all nodes reach.")

    features = FeatureCache()

    def context(progress: Any, say: Callable[[str], None]) -> Context:
        device = f"cuda:{torch.cuda.current_device()}" if gpu else "cpu"
        return Context(ModelRef.of(job["base"]), job["seed"], device, progress, say, shared.folder, features=features)

    arms = {arm["name"]: ArmJob(**arm) for arm in job["arms"]}
    measures = {each["arm"]: MeasureJob(**each) for each in job["measures"]}
    Worker(queue, arms, measures, Parts(shared.folder), shared, context).work(together)


class Parts:
    """The rows of each part of a run, of one fold at a time."""

    def __init__(self, run_folder: Path) -> None:
        self._annotations = Annotations.read_parquet(RunFolder(run_folder).annotations)
        self._last: tuple[int | None, dict[str, Annotations]] | None = None

    def __call__(self, fold: int | None = None) -> dict[str, Annotations]:
        """See `folds.parts_of`."""
        if self._last is None or self._last[0] != fold:
            self._last = fold, parts_of(self._annotations, fold)
        return self._last[1]


def read_parts(run_folder: Path) -> dict[str, Annotations]:
    """The annotations of a run by part; see `folds.parts_of`."""
    return parts_of(Annotations.read_parquet(RunFolder(run_folder).annotations))

"""Fitting the arms of an experiment as one Ray Train job.

Starting a trainer costs many seconds, a task within it milliseconds: one job fits all arms, dealt out over its workers.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from beholder import errors
from beholder.annotations import Annotations
from beholder.cluster.local import local_ray
from beholder.errors import BeholderError, ClusterError
from beholder.methods.arm import ArmJob, run_arm
from beholder.methods.method import Context

ArmProgress = Callable[[str, int, int, str], None]
"""Called with (arm, steps done, steps in all, a few words)."""


@dataclass(frozen=True)
class FitJob:
    """Everything the workers need; plain values, so that it travels.

    Attributes:
        run_folder: holds `annotations.parquet` with a `part` column; arms are written below it. All workers must
            reach it.
        arms: those to fit.
        base, seed: see `methods.Context`.
        workers: how many processes share the arms.
        use_gpu: a GPU for each worker; `"auto"` takes one where there is one.
    """

    run_folder: str
    arms: tuple[ArmJob, ...]
    base: str
    seed: int
    workers: int
    use_gpu: bool | str


def fit_arms(job: FitJob, on_progress: ArmProgress) -> None:
    """Fit, save and score every arm of `job`. Finished arms stay when a later one fails.

    Raises:
        BeholderError: what a worker refused, as it said it.
        ClusterError: the job failed otherwise.
    """
    if not job.arms:
        return
    workers = min(job.workers, len(job.arms))
    with local_ray(workers):
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        board: Any = ray.remote(num_cpus=0)(_Board).remote()
        use_gpu = ray.cluster_resources().get("GPU", 0) > 0 if job.use_gpu == "auto" else bool(job.use_gpu)
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)) // workers)
        storage = Path(job.run_folder) / "ray"
        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": asdict(job), "board": board, "threads": cpus, "gpu": use_gpu},
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": cpus, **({"GPU": 1} if use_gpu else {})},
            ),
            run_config=RunConfig(name=f"fit-{time.time_ns()}", storage_path=str(storage)),
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        )
        failure: list[BaseException] = []

        def fit() -> None:
            try:
                trainer.fit()
            except BaseException as error:  # carried to the calling thread below
                failure.append(error)

        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.5)
            _show(board, on_progress)
        _show(board, on_progress)
        if failure:
            refused = ray.get(board.refusal.remote())
            if refused:
                raise getattr(errors, refused[0])(refused[1]) from None
            reason = str(failure[0]).strip().splitlines()
            raise ClusterError(
                f"the training job failed: {reason[-1] if reason else type(failure[0]).__name__} "
                f"Finished methods are kept; run again to go on. Ray's logs: {storage}"
            ) from failure[0]
        shutil.rmtree(storage, ignore_errors=True)


class _Board:
    """Where workers write how far they are, and the driver reads it."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[int, int, str]] = {}
        self._refusal: tuple[str, str] | None = None

    def put(self, arm: str, done: int, total: int, note: str) -> None:
        self._latest[arm] = (done, total, note)

    def take(self) -> dict[str, tuple[int, int, str]]:
        latest, self._latest = self._latest, {}
        return latest

    def refuse(self, kind: str, message: str) -> None:
        self._refusal = (kind, message)

    def refusal(self) -> tuple[str, str] | None:
        return self._refusal


def _show(board: Any, on_progress: ArmProgress) -> None:
    import ray

    latest: Any = ray.get(board.take.remote())
    for arm, (done, total, note) in latest.items():
        on_progress(arm, done, total, note)


def _work(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs: its share of the arms, one after the other."""
    import ray
    import ray.train
    import torch

    torch.set_num_threads(config["threads"])
    job, board = config["job"], config["board"]
    rank, world = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    run_folder = Path(job["run_folder"])
    arms = [ArmJob(**arm) for arm in job["arms"]][rank::world]
    try:
        parts = read_parts(run_folder)
        for arm in arms:
            context = Context(
                base=job["base"],
                seed=job["seed"],
                device=f"cuda:{torch.cuda.current_device()}" if config["gpu"] else "cpu",
                progress=_Throttled(board, arm.name),
            )
            run_arm(arm, parts, run_folder, context)
            ray.get(board.put.remote(arm.name, 1, 1, "done"))
    except BeholderError as error:
        ray.get(board.refuse.remote(type(error).__name__, str(error)))
        raise


def read_parts(run_folder: Path) -> dict[str, Annotations]:
    """The annotations of a run by part: `train`, `valid`, `test` (and `enrol`)."""
    import numpy as np

    annotations = Annotations.read_parquet(run_folder / "annotations.parquet")
    part = np.asarray(annotations.column("part"))
    return {name: annotations.select(np.flatnonzero(part == name)) for name in sorted(set(part.tolist())) if name}


class _Throttled:
    """Tells the board at most four times a second."""

    def __init__(self, board: Any, arm: str) -> None:
        self._board, self._arm, self._last = board, arm, 0.0

    def __call__(self, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if now - self._last > 0.25 or done == total:
            self._last = now
            self._board.put.remote(self._arm, done, total, note)

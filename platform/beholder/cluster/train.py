"""Fitting the arms of an experiment as one Ray Train job.

Starting a trainer costs many seconds, a task within it milliseconds: one job fits all arms, and all users of those that
train a bank, dealt out over its workers (`fanout`).
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from beholder import errors
from beholder.annotations import Annotations
from beholder.bases.endpoint import base_of
from beholder.cluster.local import local_ray, takes_gpu
from beholder.errors import BeholderError, ClusterError
from beholder.home import home
from beholder.methods.arm import ArmJob
from beholder.methods.forgetting import MeasureJob
from beholder.methods.method import Context

ArmProgress = Callable[[str, int, int, str, str], None]
"""Called with (arm, units done, units in all, a few words, the unit)."""


@dataclass(frozen=True)
class FitJob:
    """Everything the workers need; plain values, so that it travels.

    Attributes:
        run_folder: holds `annotations.parquet` with a `part` column; arms are written below it. All workers must
            reach it.
        arms: those to fit.
        measures: what to measure of forgetting, once its arm is fitted.
        base: see `bases.endpoint.plain_base`.
        seed: see `methods.Context`.
        workers: how many processes share the arms; 0 is this one alone.
        use_gpu: a GPU for each worker; `"auto"` takes one where there is one.
    """

    run_folder: str
    arms: tuple[ArmJob, ...]
    base: str | dict[str, Any]
    seed: int
    workers: int
    use_gpu: bool | str
    measures: tuple[MeasureJob, ...] = ()


def fit_arms(job: FitJob, on_progress: ArmProgress, say: Callable[[str], None]) -> None:
    """Fit, save and score every arm of `job`. Finished arms stay when a later one fails.

    Raises:
        BeholderError: what a worker refused, as it said it.
        ClusterError: the job failed otherwise.
    """
    if not job.arms and not job.measures:
        return
    in_blocks = any(arm.settings.in_blocks for arm in job.arms)
    workers = job.workers if in_blocks else min(job.workers, len(job.arms) + len(job.measures))
    with local_ray(workers):
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        from beholder.cluster.fanout import Board

        board: Any = ray.remote(num_cpus=0)(Board).remote(list(job.arms), job.measures)
        use_gpu = takes_gpu(job.use_gpu)
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)) // max(1, workers))
        storage = Path(job.run_folder) / "ray"
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "job": asdict(job),
                "board": board,
                "threads": cpus,
                "gpu": use_gpu,
                "home": str(home()),
            },
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
            _show(board, on_progress, say)
        _show(board, on_progress, say)
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


def _show(board: Any, on_progress: ArmProgress, say: Callable[[str], None]) -> None:
    import ray

    progress, said = ray.get(board.take_news.remote())
    for line in said:
        say(line)
    for arm, news in progress.items():
        on_progress(arm, *news)


def _work(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray
    import torch

    from beholder.cluster.fanout import work

    # A worker runs in a folder of Ray's own: a home given relative to the driver's folder, or none, would be elsewhere.
    os.environ["BEHOLDER_HOME"] = config["home"]
    torch.set_num_threads(config["threads"])
    job, board = config["job"], config["board"]
    run_folder = Path(job["run_folder"])

    def context(progress: Any, say: Callable[[str], None]) -> Context:
        device = f"cuda:{torch.cuda.current_device()}" if config["gpu"] else "cpu"
        return Context(base_of(job["base"]), job["seed"], device, progress, say, run_folder)

    arms = {arm["name"]: ArmJob(**arm) for arm in job["arms"]}
    measures = {each["arm"]: MeasureJob(**each) for each in job["measures"]}
    try:
        work(board, arms, measures, read_parts(run_folder), run_folder, context)
    except BeholderError as error:
        ray.get(board.refuse.remote(type(error).__name__, str(error)))
        raise


def read_parts(run_folder: Path) -> dict[str, Annotations]:
    """The annotations of a run by part: `train`, `valid`, `test` (and `enrol`)."""
    import numpy as np

    annotations = Annotations.read_parquet(run_folder / "annotations.parquet")
    part = np.asarray(annotations.column("part"))
    return {name: annotations.select(np.flatnonzero(part == name)) for name in sorted(set(part.tolist())) if name}

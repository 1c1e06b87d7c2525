"""Searching settings: Ray Tune runs trials, Optuna proposes them, ASHA stops those that are behind.

Optuna's storage and the trials' own records (`study`) hold everything a search knows. Ray Tune starts afresh when a
search resumes: its own state does not hold what finished in between.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from beholder.cluster.runtime import cpus_each, on_ray, takes_gpu
from beholder.cluster.trainer import read_parts
from beholder.execution.arm import ArmJob
from beholder.execution.trial import measure
from beholder.methods.base import config_class
from beholder.models.model_ref import ModelRef
from beholder.search.space import Choices, Objective, Space, apply
from beholder.search.study import METRICS, Study, Trial, measured_before, write_record
from beholder.training.context import Context
from beholder.util.atomic import digest_of
from beholder.util.errors import BeholderError, ClusterError
from beholder.util.paths import home
from beholder.util.run_folder import RunFolder

GRACE, REDUCTION = 2, 3
"""ASHA (Li et al. 2020): after `GRACE` epochs, and each time `REDUCTION` times as many, the best third continues."""

# Only our own records are kept: no CSV, JSON and TensorBoard files of every trial. Ctrl-C is for the command line, and
# so is standard output.
QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}


@dataclass(frozen=True)
class SearchJob:
    """A search of one arm's settings; plain values, so that it travels.

    Attributes:
        folder: holds `annotations.parquet` with the parts `train` and `valid`, and under `methods/` what the arm starts
            from. All workers must reach it.
        arm: whose settings are searched.
        space, objective: see `search.space`.
        base, seed: see `training.context.Context`.
        trials: how many in all.
        concurrency: how many at once.
        use_gpu: a GPU for each; `"auto"` takes one where there is one.
    """

    folder: str
    arm: ArmJob
    space: Space
    objective: tuple[Objective, ...]
    base: ModelRef
    seed: int
    trials: int
    concurrency: int
    use_gpu: bool | str


OnTrial = Callable[[int, int, float | None], None]
"""Called with (trials done, trials in all, the best validation macro-F1 so far)."""


def run_trials(job: SearchJob, on_trial: OnTrial) -> list[Trial]:
    """Try settings until `job.trials` have come to an end, those of earlier calls among them; returns all.

    Raises:
        ClusterError: Ray failed; what was finished is kept.
    """
    folder = Path(job.folder)
    study = Study(folder, job.space, job.objective, job.seed)
    before = study.go_on()
    if before < job.trials:
        with on_ray(job.concurrency):
            _tune(job, study, job.trials - before, on_trial)
    trials = study.trials()
    if len(trials) < job.trials:
        raise ClusterError(
            f"the search ended after {len(trials)} of {job.trials} trials. They are kept; run again to resume."
        )
    return trials


def _tune(job: SearchJob, study: Study, count: int, on_trial: OnTrial) -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    class PersistentOptunaSearch(OptunaSearch):
        """Optuna's store is the state; only what ran to its end is recorded as finished."""

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            end = (result or {}).get("end")
            super().on_trial_complete(trial_id, result if end == "finished" else None, error or end == "failed")

        def save(self, checkpoint_path: str) -> None:
            pass

    class TrialProgress(tune.Callback):
        """Shows each end of a trial."""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.show()

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.show()

        def show(self) -> None:
            done = study.trials()
            best = max((each.valid_macro_f1 or 0.0 for each in done if each.state == "finished"), default=None)
            on_trial(len(done), job.trials, best)

    metrics = [METRICS[each] for each in job.objective]
    names, modes = [name for name, _ in metrics], [mode for _, mode in metrics]
    alone = len(metrics) == 1
    use_gpu = takes_gpu(job.use_gpu)
    cpus = cpus_each(job.concurrency)
    storage = RunFolder(Path(job.folder)).ray
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_try, job=job, driver_home=str(home()), threads=cpus, gpu=use_gpu),
            {"cpu": cpus, **({"gpu": 1} if use_gpu else {})},
        ),
        tune_config=tune.TuneConfig(
            num_samples=count,
            max_concurrent_trials=job.concurrency,
            reuse_actors=True,
            search_alg=PersistentOptunaSearch(
                study.draw,
                metric=names[0] if alone else names,
                mode=modes[0] if alone else modes,
                sampler=study.sampler,
                study_name=Path(job.folder).name,
                storage=study.storage,
            ),
            scheduler=_asha(job) if alone else None,
        ),
        run_config=tune.RunConfig(
            name=f"search-{time.time_ns()}", storage_path=str(storage), verbose=0, callbacks=[TrialProgress()]
        ),
    )
    try:
        tuner.fit()
    except (RuntimeError, tune.TuneError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ClusterError(
            f"the search failed: {reason[-1]} Finished trials are kept; run again to resume. Ray's logs: {storage}"
        ) from error
    shutil.rmtree(storage, ignore_errors=True)


def _asha(job: SearchJob) -> Any:
    """Whether a method reports its validation score after each epoch; one with a cost besides runs to its end.

    A bank does not: its users have epochs of their own, and a trial of it is short.
    """
    if not hasattr(job.arm.settings, "epochs"):
        return None
    from ray.tune.schedulers import ASHAScheduler

    own = job.space.of(job.space.points[0])

    class IncumbentSafeASHA(ASHAScheduler):
        """Never stops the arm's own settings: the others are measured against what comes of them in the end."""

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            decision = super().on_trial_result(tune_controller, trial, result)
            return self.CONTINUE if json.loads(trial.config["settings"]) == own else decision

    dimension = job.space.dimensions.get("epochs")
    if dimension is None:
        most = int(job.arm.config["epochs"])
    else:
        most = int(max(dimension.values) if isinstance(dimension, Choices) else dimension.high)
    return IncumbentSafeASHA(
        time_attr="epoch",
        metric="valid_macro_f1",
        mode="max",
        max_t=most + 1,  # nothing is stopped for having come to its last epoch
        grace_period=min(GRACE, most),
        reduction_factor=REDUCTION,
    )


def _try(config: dict[str, Any], job: SearchJob, driver_home: str, threads: int, gpu: bool) -> None:
    """One trial, in a worker."""
    import torch
    from ray import tune

    os.environ["BEHOLDER_HOME"] = driver_home  # see train._work
    torch.set_num_threads(threads)
    folder, number, settings = Path(job.folder), int(config["number"]), json.loads(config["settings"])
    best, latest = 0.0, 1

    def after_epoch(epoch: int, score: float) -> None:
        nonlocal best, latest
        best, latest = max(best, score), epoch
        if len(job.objective) == 1:
            tune.report({"valid_macro_f1": best, "epoch": epoch, "end": "not yet"})

    device = f"cuda:{torch.cuda.current_device()}" if gpu else "cpu"
    context = Context(job.base, job.seed, device, run_folder=folder, after_epoch=after_epoch)
    # Two trials at once with the same settings would work in the same place; the second one has its answer here.
    key = digest_of(settings)[:16]
    with FileLock(folder / "trials" / f".{key}.lock"):
        record = measured_before(folder, settings)
        if not record:
            try:
                arm = apply(job.arm.config, settings)
                measured = measure(config_class(arm["method"]).model_validate(arm), read_parts(folder), context)
            except BeholderError as error:
                write_record(folder, number, {"settings": settings, "error": str(error)})
                tune.report({**dict.fromkeys((name for name, _ in METRICS.values()), 0.0), "epoch": 0, "end": "failed"})
                return
            record = {"settings": settings, **vars(measured)}
        write_record(folder, number, record)
    told = {name: record[name] for name, _ in METRICS.values()}
    tune.report({**told, "epoch": latest, "end": "finished"})

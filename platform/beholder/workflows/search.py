"""A search: what the arm starts from, its trials, the best setting as an experiment file, MLflow.

A search has a folder named after the experiment, the arm and a hash of everything a trial's result depends on. The same
command resumes it; with more trials it continues it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from filelock import FileLock, Timeout

from beholder import __version__
from beholder.cluster.run_storage import STORAGE, require_shared, storage_uri
from beholder.cluster.runtime import on_ray
from beholder.cluster.tune import SearchJob, run_trials
from beholder.execution.arm import ArmJob, is_done
from beholder.experiment.config import Experiment
from beholder.search.space import SPACES, TrialSettings
from beholder.search.study import METRICS, Trial
from beholder.tracking.client import ChildRun, log_run, tracking_uri
from beholder.util.atomic import atomic_write, beside, digest_of, write_json
from beholder.util.errors import ClusterError, ExperimentError, MethodError
from beholder.util.paths import home, require_home
from beholder.util.run_folder import RunFolder
from beholder.workflows.run import Prepared, Reporter, Silent, fit_some, prepare


def search(
    experiment: Experiment,
    arm: str | None = None,
    reporter: Reporter | None = None,
    *,
    trials: int | None = None,
    on_bad_rows: Literal["refuse", "skip"] = "refuse",
) -> dict[str, Any]:
    """Search an arm's settings on the validation rows; returns everything `beholder search --json` prints.

    Args:
        experiment: checked settings.
        arm: whose settings; may be left out where there is only one to search.
        reporter: receives progress.
        trials: how many in all, instead of the file's number.
        on_bad_rows: see `workflows.run.run`.

    Raises:
        BeholderError: nothing to search, or a step failed; finished trials are kept.
    """
    started = time.perf_counter()
    reporter = reporter or Silent()
    require_home()
    arm = arm or only_arm(experiment)
    settings, space = experiment.searched(arm)
    cost = settings.objective[1:]
    prepared = prepare(experiment.of_one_split, on_bad_rows)
    jobs = {job.name: job for job in prepared.jobs}
    if cost == ("parameters",) and not (jobs[arm].settings.trains or jobs[arm].after):
        raise ExperimentError(
            f"search.{arm}.objective: {jobs[arm].config['method']} trains no parameters. Use [macro_f1, seconds]."
        )
    for line in prepared.notes:
        reporter.say(line)
    require_shared(tracking_uri())
    if storage_uri():
        raise ClusterError(f"{STORAGE}: trials need a folder that all nodes reach. Give one, or search on one machine.")
    inputs = [jobs[arm].key, {name: asdict(each) for name, each in space.dimensions.items()}, settings.objective]
    digest = digest_of(inputs)
    folder = _folder(f"{experiment.name}-{arm}-{digest[:8]}")
    job = SearchJob(
        str(folder),
        jobs[arm],
        space,
        settings.objective,
        experiment.base_model,
        experiment.seed,
        trials or settings.trials,
        settings.concurrency or max(1, experiment.cluster.range[1]),
        experiment.cluster.use_gpu,
    )
    try:
        with FileLock(folder / ".lock", timeout=0), contextlib.ExitStack() as stack:
            after = jobs[arm].after
            if after is not None and not is_done(jobs[after], folder):
                stack.enter_context(on_ray(job.concurrency))  # once for fitting that and for the trials
            _bring(experiment, prepared, jobs, arm, folder, reporter)

            def on_trial(done: int, total: int, best: float | None) -> None:
                note = "" if best is None else f"best {100 * best:.1f}"
                reporter.step(f"search {arm}", done, total, "done" if done == total else note, "trials")

            tried = run_trials(job, on_trial)
            shutil.rmtree(RunFolder(folder).unfinished, ignore_errors=True)  # nothing will resume from it
            found = conclude(experiment, arm, tried, space.of(space.points[0]), cost, folder)
            found["mlflow"] = {"run_id": _track(experiment, prepared, arm, tried, found, folder), "uri": tracking_uri()}
    except Timeout as error:
        raise ClusterError(f"{folder}: another search of the same is running. Wait for it, or stop it.") from error
    return {**found, "seconds": time.perf_counter() - started}


def only_arm(experiment: Experiment) -> str:
    """The arm to search where none was named.

    Raises:
        ExperimentError: there are several, or none.
    """
    named = list(experiment.search) or [
        arm.name for arm in experiment.arms if arm.control_of is None and arm.method in SPACES
    ]
    if len(named) != 1:
        there = ", ".join(named) or f"none; there is something to search for {', '.join(sorted(SPACES))}"
        raise ExperimentError(f"search: name the arm with --arm. There are: {there}.")
    return named[0]


def conclude(
    experiment: Experiment, arm: str, tried: Sequence[Trial], own: TrialSettings, cost: tuple[str, ...], folder: Path
) -> dict[str, Any]:
    """The best of the finished trials beside the arm's own settings, and the best as an experiment file.

    Args:
        experiment: that was searched.
        arm: whose settings.
        tried: all trials.
        own: the arm's own settings.
        cost: the second objective, where there is one: then the trials that no other beats in both are listed, too.
        folder: of the search; takes the files.

    Raises:
        MethodError: the arm's own settings could not be fitted.
    """
    finished = [trial for trial in tried if trial.state == "finished"]
    default = next((trial for trial in finished if trial.settings == own), None)
    if default is None:
        why = next((trial.error for trial in tried if trial.settings == own), None) or "they were not tried"
        raise MethodError(f"methods.{arm}: its own settings, the first trial, did not finish: {why}")
    # Of equals the cheapest, where there is a cost, else the first.
    best = max(
        finished,
        key=lambda trial: (trial.valid_macro_f1 or 0.0, *(-getattr(trial, name) for name in cost), -trial.number),
    )
    file = folder / f"{experiment.name[:75]}-tuned.yaml"
    _write_tuned(experiment, arm, best, default, len(tried), file)
    found: dict[str, Any] = {
        "experiment": experiment.name,
        "method": arm,
        "best": _shown(best),
        "default": _shown(default),
        "trials": len(tried),
        "states": {state: sum(trial.state == state for trial in tried) for state in ("finished", "stopped", "failed")},
        "file": str(file),
        "folder": str(folder),
    }
    if cost:
        found["cost"] = cost[0]
        found["front"] = [_shown(trial) for trial in front(finished, cost[0])]
    write_json(folder / "search.json", {**found, "all": [trial.to_json() for trial in tried]})
    return found


def front(trials: Sequence[Trial], cost: str) -> list[Trial]:
    """Pareto: the trials than which none is better in macro-F1 without costing more; the cheapest first."""
    kept: list[Trial] = []
    for trial in sorted(trials, key=lambda each: (getattr(each, cost), -(each.valid_macro_f1 or 0.0), each.number)):
        if not kept or (trial.valid_macro_f1 or 0.0) > (kept[-1].valid_macro_f1 or 0.0):
            kept.append(trial)
    return kept


def _shown(trial: Trial) -> dict[str, Any]:
    return {key: value for key, value in trial.to_json().items() if key not in ("state", "error")}


def _folder(name: str) -> Path:
    folder = home() / "searches" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterError(
            f"{folder}: cannot be written ({error.strerror}). Set BEHOLDER_HOME to a writable folder."
        ) from error
    return folder


def _bring(
    experiment: Experiment, prepared: Prepared, jobs: dict[str, ArmJob], arm: str, folder: Path, reporter: Reporter
) -> None:
    """What all trials read: training and validation rows, never the test rows, and what the arm starts from.

    That is fitted in the folder of the experiment's run: where it is there, it is not fitted again, and a later run
    finds it.
    """
    part = np.full(len(prepared.annotations), "", dtype=object)
    for name in ("train", "valid"):
        part[prepared.split[name]] = name
    rows = np.flatnonzero(part)
    prepared.annotations.select(rows).with_column("part", part[rows].tolist()).write_parquet(
        RunFolder(folder).annotations
    )
    after = jobs[arm].after
    if after is None or is_done(jobs[after], folder):
        return
    run = fit_some(experiment.of_one_split, prepared, {after}, reporter)
    there = RunFolder(folder).method(after)
    temporary = beside(there)
    shutil.copytree(RunFolder(run).method(after), temporary)
    shutil.rmtree(there, ignore_errors=True)
    os.replace(temporary, there)


def _write_tuned(experiment: Experiment, arm: str, best: Trial, default: Trial, trials: int, file: Path) -> None:
    tuned = experiment.tuned(arm, best.settings)
    said = (
        f"# {arm} with the best of {trials} settings: macro-F1 {100 * (best.valid_macro_f1 or 0.0):.2f} on "
        f"validation, {100 * (default.valid_macro_f1 or 0.0):.2f} before.\n"
        "# The best of many on the same rows is optimistic: run this file to get its test score.\n"
    )
    written = tuned.model_dump(mode="json", by_alias=True, exclude={"search"})
    with atomic_write(file) as temporary:
        temporary.write_text(said + yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=120))


def _track(
    experiment: Experiment, prepared: Prepared, arm: str, tried: Sequence[Trial], found: dict[str, Any], folder: Path
) -> str:
    """One parent run for the search and a child for each trial; a search that resumes adds to them."""
    shared = {
        "base": experiment.base_model.name,
        "split_hash": prepared.split.hash,
        "data_fingerprint": prepared.annotations.fingerprint,
        "code_version": __version__,
        "method": arm,
    }
    best, default = found["best"], found["default"]
    metrics = [name for name, _ in METRICS.values()]
    return log_run(
        experiment.name,
        folder.name,
        parameters={"method": arm, "base": experiment.base_model.name, "seed": experiment.seed},
        metrics={
            "valid_macro_f1": best["valid_macro_f1"],
            "valid_macro_f1.default": default["valid_macro_f1"],
            "trials": len(tried),
        },
        tags={**shared, "best": _run_name(best["number"])},
        description=_note(found),
        folders={"": folder / "search.json", "experiment": Path(found["file"])},
        children=[
            ChildRun(
                _run_name(trial.number),
                trial.settings,
                {name: getattr(trial, name) for name in metrics},
                {"state": trial.state, "default": str(trial.number == default["number"]).lower()},
            )
            for trial in tried
        ],
        key=folder.name,
    )


def _run_name(number: int) -> str:
    return f"trial-{number:03d}"


def _note(found: dict[str, Any]) -> str:
    best, default = found["best"], found["default"]
    lines = ["| setting | default | best |", "| --- | --- | --- |"]
    lines.append(f"| **valid macro-F1** | {default['valid_macro_f1']:.4f} | {best['valid_macro_f1']:.4f} |")
    for name in dict.fromkeys([*default["settings"], *best["settings"]]):
        lines.append(f"| {name} | {default['settings'].get(name, '')} | {best['settings'].get(name, '')} |")
    return "\n".join(lines) + f"\n\nBest of {found['trials']} on validation: optimistic. The test rows were not read."

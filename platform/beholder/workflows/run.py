"""A run, from an experiment file to a registered model.

Each step writes what the next one reads, into one run folder named after the experiment and a hash of its settings. A
run that died resumes at the first step whose output is missing or whose inputs changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from beholder.cluster.run_storage import require_shared, run_of
from beholder.cluster.runtime import on_ray
from beholder.cluster.trainer import FitJob, fit_arms
from beholder.data.annotations import Annotations
from beholder.data.splits import ByPeople
from beholder.evaluation.results import ROUTED, Curve
from beholder.evaluation.run_results import DataResult, Provenance, RunResults, SplitResult, TrackedResult
from beholder.evaluation.saved_run import LEVEL, EvaluationSettings
from beholder.evaluation.scores_io import write_scores
from beholder.evaluation.summary import gain_rows, heading
from beholder.execution import forgetting
from beholder.execution.arm import ArmJob, done, is_done
from beholder.experiment.config import Experiment
from beholder.registry.blob_store import Store
from beholder.registry.bundle import Bundle
from beholder.tracking.client import client, page_of, tracking_uri
from beholder.util.atomic import write_json
from beholder.util.errors import DataError, RegistryError
from beholder.util.paths import home, require_home
from beholder.util.run_folder import FORGETTING, METHODS, SCORES, UNFINISHED, RunFolder
from beholder.util.tables import RowTable
from beholder.util.tombstones import erased_people
from beholder.workflows.choose import Routing, find_routing, scores_of
from beholder.workflows.cross_fitting import put_together, refitted, training_rows
from beholder.workflows.finished_run import FinishedRun
from beholder.workflows.prepare import Prepared, prepare
from beholder.workflows.record import make_bundle, publish, track
from beholder.workflows.run_report import draw_report


class Reporter(Protocol):
    """Receives the progress of a run."""

    def say(self, line: str) -> None:
        """One finished fact."""
        ...

    def step(self, arm: str, done: int, total: int, note: str, unit: str = "steps") -> None:
        """Progress of one arm."""
        ...


class Silent:
    """Reports nothing."""

    def say(self, line: str) -> None:
        """Ignore."""

    def step(self, arm: str, done: int, total: int, note: str, unit: str = "steps") -> None:
        """Ignore."""


@dataclass(repr=False)
class Outcome:
    """What a run found and left behind."""

    run_folder: Path
    results: RunResults
    """Everything `beholder run --json` prints."""
    bundle: Bundle | None
    test: Annotations
    seconds: dict[str, float] = field(default_factory=dict)

    def _shown(self) -> RowTable:
        return RowTable(gain_rows(self.results), heading(self.results), self.results.verdict.sentence)

    def __repr__(self) -> str:
        return f"{self._shown()}\n{self.run_folder}"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self._shown()._repr_html_()


def run(
    experiment: Experiment,
    reporter: Reporter | None = None,
    *,
    on_bad_rows: Literal["refuse", "skip"] = "refuse",
    fresh: bool = False,
) -> Outcome:
    """Run an experiment from data to registered version.

    Args:
        experiment: checked settings.
        reporter: receives progress.
        on_bad_rows: refuse a table with bad rows, or skip them into a file beside it.
        fresh: fit every arm again, even those finished before with the same inputs.

    Raises:
        BeholderError: see `prepare`; or training, tracking or publishing failed, and what was finished before is kept;
            or somebody was erased meanwhile, and nothing is.
    """
    reporter = reporter or Silent()
    clock = _Clock()
    require_home()
    require_shared(tracking_uri())
    if tracking_uri().startswith("http"):
        client()  # a missing server is to be noticed before hours of work, not after
    with clock.phase("set-up"):
        prepared = prepare(experiment, on_bad_rows)
        annotations, parts = prepared.annotations, prepared.split
        for line in prepared.notes:
            reporter.say(line)
        if prepared.loaded.refused:
            kept = ", ".join(map(str, prepared.loaded.refused_files))
            reporter.say(f"{prepared.loaded.refused:,} bad rows left out, kept in {kept}")
        reporter.say(
            f"{len(annotations):,} annotations of {len(annotations.distinct_texts[0]):,} texts by "
            f"{len(annotations.users):,} users; {prepared.line}"
        )
        if parts.leaked:
            reporter.say(f"note: {100 * parts.leaked:.0f} % of the test rows repeat a training text under this split")
        folder = _run_folder(experiment, prepared, fresh)
    with _nobody_erased(annotations.users, folder):
        with clock.phase("fit"):
            if prepared.repeats:
                pending, measured, routing = _cross_fit(experiment, prepared, folder, reporter)
            else:
                pending, measured = _fit(experiment, prepared.jobs, folder, reporter, prepared.forgotten)
                routing = _route(experiment, prepared, folder)
            shutil.rmtree(
                RunFolder(folder).unfinished, ignore_errors=True
            )  # all arms are finished: nothing will resume from it
            run_of(folder).drop(UNFINISHED)
        fitted_now = {job.name: done(job.name, folder) for job in pending}
        clock.divide("fit", fitted_now, forgetting.seconds(measured, folder))
        with clock.phase("evaluation"):
            results = _evaluate(experiment, prepared, folder, routing)
        finished = FinishedRun(experiment, prepared, RunFolder(folder), routing, results)
        with clock.phase("bundle"):
            bundle = make_bundle(finished)
        with clock.phase("tracking"):
            run_id = track(finished, reporter.say)
            registered = publish(finished, bundle, run_id, reporter.say) if bundle else None
        tracked = TrackedResult(run_id=run_id, uri=tracking_uri(), page=page_of(run_id))
        ended = {"registered": registered, "seconds": clock.seconds, "mlflow": tracked}
        results = results.model_copy(update=ended)
        write_json(RunFolder(folder).results, results.to_json())
        run_of(folder).keep(".")
    return Outcome(folder, results, bundle, prepared.part("test"), clock.seconds)


@contextlib.contextmanager
def _nobody_erased(people: Collection[str], folder: Path) -> Iterator[None]:
    """A `with` block whose work is deleted where one of the people it is of was erased meanwhile.

    Raises:
        RegistryError: it was so.
    """
    try:
        yield
    finally:
        erased = Store().erased(people)
        if erased:
            run_of(folder).drop(".")
            shutil.rmtree(folder, ignore_errors=True)
            raise RegistryError(
                f"{erased_people(len(erased))} while the run was under way, so what it made of their judgements was "
                "deleted. Run it again: it leaves their rows out."
            )


def fit_some(experiment: Experiment, prepared: Prepared, names: set[str], reporter: Reporter) -> Path:
    """Fit some arms only, in the folder of the experiment's run, which resumes from them; returns that folder.

    Raises:
        BeholderError: see `run`.
    """
    folder = _run_folder(experiment, prepared, fresh=False)
    _fit(experiment, [job for job in prepared.jobs if job.name in names], folder, reporter)
    return folder


def _run_folder(experiment: Experiment, prepared: Prepared, fresh: bool) -> Path:
    """Make the run's folder, with everything workers read. Finished arms in it stay, unless `fresh`."""
    folder = home() / "runs" / f"{experiment.name}-{experiment.digest[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run_of(folder).fetch(METHODS, SCORES, FORGETTING)  # what another machine began
        if fresh:
            shutil.rmtree(RunFolder(folder).unfinished, ignore_errors=True)
            for job in (*prepared.jobs, *prepared.repeats):
                RunFolder(folder).done(job.name).unlink(missing_ok=True)
        prepared.marked.write_parquet(RunFolder(folder).annotations)
        if prepared.forgotten:
            prepared.forgotten.write(folder)
        else:
            shutil.rmtree(RunFolder(folder).forgetting, ignore_errors=True)
        settings = experiment.model_dump(mode="json", by_alias=True)
        write_json(RunFolder(folder).experiment, {"digest": experiment.digest, **settings})
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}). Set BEHOLDER_HOME to a writable folder."
        ) from error
    return folder


def _fit(
    experiment: Experiment,
    jobs: list[ArmJob],
    folder: Path,
    reporter: Reporter,
    plan: forgetting.ForgettingPlan | None = None,
    fits: int = 1,
) -> tuple[tuple[ArmJob, ...], tuple[forgetting.MeasureJob, ...]]:
    """Fit those of the jobs that were not finished with the same inputs, and measure what is planned; returns both.

    fits: see `FitJob`.
    """
    pending = tuple(job for job in jobs if not is_done(job, folder))
    for job in jobs:
        if job not in pending:
            reporter.say(f"{job.name}: finished before with the same inputs, kept")
    measures = plan.pending(folder, {job.name for job in pending}) if plan else ()
    cluster = experiment.cluster
    trained = tuple(job.name for job in pending if job.settings.trains and not job.settings.in_blocks)
    together = trained if cluster.data_parallel and cluster.range[1] > 1 else ()
    base, copy = experiment.base_model.to_json(), run_of(folder).uri
    fit = FitJob(str(folder), pending, base, experiment.seed, cluster, measures, together, copy, fits)
    fit_arms(fit, reporter.step, reporter.say)
    return pending, measures


def _route(experiment: Experiment, prepared: Prepared, folder: Path) -> Routing | None:
    """Choose what is served, and write the scores of the pair of arms as if it were an arm."""
    known = training_rows(*(prepared.part(name) for name in prepared.split.served))
    routing = find_routing(experiment.arms, known, scores_of(experiment.arms, folder))
    file = RunFolder(folder).scores(ROUTED)
    if routing and routing.routed:
        write_scores(file, routing.routed, prepared.part("valid"), prepared.part("test"))
    else:
        file.unlink(missing_ok=True)
    return routing


def _cross_fit(
    experiment: Experiment, prepared: Prepared, folder: Path, reporter: Reporter
) -> tuple[tuple[ArmJob, ...], tuple[forgetting.MeasureJob, ...], Routing | None]:
    """Fit every fold under every seed, put the scores together, choose what is served; see `_fit`.

    With folds what is served is then fitted on all rows.
    """
    curves = [point for points in experiment.curves.values() for point in points.values()]
    folds, numbers = prepared.folds, experiment.evaluate.folds
    fits = numbers * experiment.evaluate.seeds
    with contextlib.ExitStack() as stack:
        if folds and not all(is_done(job, folder) for job in prepared.measured):
            stack.enter_context(on_ray())  # once for the folds and for what is served
        pending, measured = _fit(experiment, prepared.measured, folder, reporter, prepared.forgotten, fits)
        routing = put_together(experiment.arms, curves, prepared.marked, numbers, experiment.again, folder)
        if folds and routing:
            pending += _fit(experiment, refitted(prepared.jobs, routing.served, numbers, folder), folder, reporter)[0]
    return pending, measured, routing


def _evaluate(experiment: Experiment, prepared: Prepared, folder: Path, routing: Routing | None) -> RunResults:
    settings = _settings(experiment, routing)
    write_json(RunFolder(folder).evaluation, settings.to_json())
    made_from = _provenance(experiment, prepared, folder)
    return draw_report(folder, settings, made_from, prepared.marked, experiment.split.by)


def _settings(experiment: Experiment, routing: Routing | None) -> EvaluationSettings:
    names = [arm.name for arm in experiment.arms]
    people = experiment.split if isinstance(experiment.split, ByPeople) else None
    return EvaluationSettings(
        experiment.evaluate.reference,
        LEVEL,
        experiment.evaluate.worthwhile,
        [*names, *([ROUTED] if routing and routing.routed else [])],
        {
            name: Curve(next(iter(points.values())).after or "", {rows: point.name for rows, point in points.items()})
            for name, points in experiment.curves.items()
        },
        names if people else [],
        people.texts if people else "unseen",
    )


def _provenance(experiment: Experiment, prepared: Prepared, folder: Path) -> Provenance:
    annotations = prepared.annotations
    return Provenance.from_json(
        {
            "experiment": experiment.name,
            "run": folder.name,
            "base": experiment.base_model.name,
            "seed": experiment.seed,
            **({"seeds": [experiment.seed, *experiment.again]} if experiment.again else {}),
            "data": DataResult(
                origin=prepared.loaded.origin,
                rows=len(annotations),
                texts=len(annotations.distinct_texts[0]),
                users=len(annotations.users),
                labels=annotations.task.described[0],
                kind=annotations.task.described[1],
                refused_rows=prepared.loaded.refused,
                fingerprint=annotations.fingerprint,
            ),
            "split": SplitResult.from_json(prepared.facts),
        }
    )


@dataclasses.dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

    def divide(self, name: str, fitted: dict[str, dict[str, Any]], measuring: float) -> None:
        """Split the fitting phase into what the arms noted themselves, what measuring took, and Ray: the rest."""
        total = self.seconds.pop(name)
        self.seconds["training"] = sum(note.get("fit_seconds", 0.0) for note in fitted.values())
        self.seconds["scoring"] = sum(
            note.get("seconds", 0.0) - note.get("fit_seconds", 0.0) for note in fitted.values()
        )
        if measuring:
            self.seconds["forgetting"] = measuring
        self.seconds["ray"] = max(0.0, total - self.seconds["training"] - self.seconds["scoring"] - measuring)

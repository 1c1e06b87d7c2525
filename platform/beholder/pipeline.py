"""The way through the house, from an experiment file to a registered model.

Each step writes what the next one reads, into one run folder named after the experiment and a hash of its settings. A
run that died goes on at the first step whose output is missing or whose inputs changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow.parquet as pq

from beholder import __version__
from beholder.annotations import Annotations, text_key
from beholder.bases import BaseFacts, facts_of
from beholder.bases.endpoint import Endpoint, base_name, plain_base
from beholder.bases.forms import advice, require_form
from beholder.bases.loading import weights_checksum
from beholder.cluster.shared import require_shared, run_of
from beholder.cluster.train import FitJob, fit_arms
from beholder.errors import BeholderError, DataError
from beholder.evaluation import figures, report
from beholder.evaluation.scores_file import write_scores
from beholder.evaluation.verdict import verdict
from beholder.experiment import ROUTED, Arm, Experiment, Limits
from beholder.files import whole
from beholder.home import home
from beholder.methods import METHODS, config_class, forgetting
from beholder.methods.arm import ArmJob, done, is_done
from beholder.methods.blocks import working_folder
from beholder.records import make_bundle, publish, track, write_json
from beholder.registry.bundle import Bundle
from beholder.report.page import write_reports
from beholder.routing import Routing, find_routing
from beholder.sources import Loaded, load
from beholder.splits import ByPeople, Split, held_out_people, split
from beholder.tracking import client, page_of, tracking_uri


class Reporter(Protocol):
    """Where a run says how far it is."""

    def say(self, line: str) -> None:
        """One finished fact."""
        ...

    def step(self, arm: str, done: int, total: int, note: str, unit: str = "steps") -> None:
        """Progress of one arm."""
        ...


class Silent:
    """Says nothing."""

    def say(self, line: str) -> None:
        """Ignore."""

    def step(self, arm: str, done: int, total: int, note: str, unit: str = "steps") -> None:
        """Ignore."""


@dataclass
class Outcome:
    """What a run found and left behind."""

    run_folder: Path
    results: dict[str, Any]
    """Everything `beholder run --json` prints."""
    bundle: Bundle | None
    test: Annotations
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """An experiment's rows, checked and split; nothing has been written yet."""

    loaded: Loaded
    annotations: Annotations
    split: Split
    jobs: list[ArmJob]
    forgotten: forgetting.Plan | None

    notes: tuple[str, ...]
    """What a person should know before any of it is fitted, a line each."""

    def part(self, name: str) -> Annotations:
        """The rows of one part."""
        return self.annotations.select(self.split[name])


def prepare(experiment: Experiment, on_bad_rows: Literal["refuse", "skip"] = "refuse") -> Prepared:
    """Load, limit, split and check, without writing anything.

    Raises:
        BeholderError: data, split, base or methods cannot be used; nothing was left behind.
    """
    arms = experiment.arms
    base, identity = _base(experiment.base)
    loaded = load(experiment.source, on_bad_rows)
    annotations = _limited(loaded.annotations, experiment.limits, experiment.seed)
    parts = split(annotations, experiment.split)
    train = annotations.select(parts["train"])
    for label, positives in zip(train.task.labels, np.nansum(train.labels, axis=0), strict=True):
        if positives == 0:
            raise DataError(
                f'{loaded.origin}: label "{label}" has no positive among the {len(train)} training rows. '
                "Leave it out under source, or use more rows."
            )
    for arm in arms:
        try:
            arm.config.check(base, train.task)
            arm.config.check_rows(train)
        except BeholderError as error:
            raise type(error)(f"methods.{arm.name}: {error}") from error
    inputs = [annotations.fingerprint, parts.hash, identity, str(experiment.seed), __version__]
    curves = [point for points in experiment.curves.values() for point in points.values()]
    jobs = _jobs([*arms, *curves], inputs, parts.people, annotations)
    measured = experiment.forgetting and forgetting.plan(experiment.forgetting, base, identity, jobs, experiment.seed)
    slow = None if isinstance(experiment.base, Endpoint) else advice(experiment.base)
    people = [held_out_people(annotations, parts).line()] if parts.people else []
    notes = (f"data: {loaded.origin}", *([slow] if slow else []), *people, *experiment.evaluate.notes)
    return Prepared(loaded, annotations, parts, jobs, measured, notes)


def _base(name: str | Endpoint) -> tuple[BaseFacts | Endpoint, str]:
    """What is known of a base at once, and what tells it from others."""
    if isinstance(name, Endpoint):
        return name, name.checksum
    require_form(name)
    facts = facts_of(name)
    return facts, f"{weights_checksum(facts.folder)} {facts.form}"


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
        reporter: told what happens.
        on_bad_rows: refuse a table with bad rows, or skip them into a file beside it.
        fresh: fit every arm again, even those finished before with the same inputs.

    Raises:
        BeholderError: see `prepare`; or training, tracking or publishing failed, and what was finished before is kept.
    """
    reporter = reporter or Silent()
    clock = _Clock()
    require_shared(tracking_uri())
    if tracking_uri().startswith("http"):
        client()  # a server that is not there is to be missed before hours of work, not after
    with clock.phase("set-up"):
        prepared = prepare(experiment, on_bad_rows)
        annotations, parts = prepared.annotations, prepared.split
        for line in prepared.notes:
            reporter.say(line)
        if prepared.loaded.refused:
            kept = ", ".join(map(str, prepared.loaded.refused_files))
            reporter.say(f"{prepared.loaded.refused:,} bad rows left out, kept in {kept}")
        sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in parts.parts.items())
        reporter.say(
            f"{len(annotations):,} annotations of {len(annotations.distinct_texts[0]):,} texts by "
            f"{len(annotations.users):,} users; split {parts.hash[:8]}: {sizes}"
        )
        if parts.leaked:
            reporter.say(f"note: {100 * parts.leaked:.0f} % of the test rows repeat a training text under this split")
        folder = _run_folder(experiment, prepared, fresh)
    with clock.phase("fit"):
        pending, measured = _fit(experiment, prepared.jobs, folder, reporter, prepared.forgotten)
        shutil.rmtree(working_folder(folder), ignore_errors=True)  # all arms are there: nothing will go on from it
        run_of(folder).drop(working_folder(folder).name)
    fitted_now = {job.name: done(job.name, folder) for job in pending}
    clock.divide("fit", fitted_now, forgetting.seconds(measured, folder))
    with clock.phase("evaluation"):
        routing = _route(experiment, prepared, folder)
        facts = _facts(experiment, prepared, folder)
        found = _evaluate(experiment, folder, routing, facts)
    with clock.phase("bundle"):
        bundle = make_bundle(experiment, facts, prepared.part("test"), folder, routing, found) if routing else None
    with clock.phase("tracking"):
        run_id = track(experiment, facts, prepared.jobs, folder, routing, found, reporter.say)
        registered = None
        if experiment.register_ and routing and bundle:
            registered = publish(
                experiment, folder, routing, bundle, prepared.part("valid"), found, facts, run_id, reporter.say
            )
    whole = {**facts, **found, "registered": registered, "seconds": clock.seconds}
    whole["mlflow"] = {"run_id": run_id, "uri": tracking_uri(), "page": page_of(run_id)}
    write_json(folder / "results.json", whole)
    run_of(folder).keep(".")
    return Outcome(folder, whole, bundle, prepared.part("test"), clock.seconds)


def fit_some(experiment: Experiment, prepared: Prepared, names: set[str], reporter: Reporter) -> Path:
    """Fit some arms only, in the folder of the experiment's run, which goes on from them; returns that folder.

    Raises:
        BeholderError: see `run`.
    """
    folder = _run_folder(experiment, prepared, fresh=False)
    _fit(experiment, [job for job in prepared.jobs if job.name in names], folder, reporter)
    return folder


def _jobs(arms: list[Arm], inputs: list[str], people: ByPeople | None, annotations: Annotations) -> list[ArmJob]:
    """The arms as jobs. The key of one that starts from another holds that one's key: it is as old as what it is on."""
    jobs: dict[str, ArmJob] = {}
    measured = people.model_dump(mode="json") if people else None
    inputs = [*inputs, json.dumps(measured)] if measured else inputs
    for arm in sorted(arms, key=lambda arm: arm.after is not None):
        config = arm.config.model_dump(mode="json")
        on = [jobs[arm.after].key] if arm.after else []
        on += [repr(annotations.column(column)) for column in arm.config.traits]  # no part of the fingerprint
        key = hashlib.sha256(json.dumps([config, arm.control_of, *inputs, *on], sort_keys=True).encode()).hexdigest()
        jobs[arm.name] = ArmJob(arm.name, config, arm.control_of, key, arm.after, arm.curve_of, measured)
    return [jobs[arm.name] for arm in arms]


def _limited(annotations: Annotations, limits: Limits, seed: int) -> Annotations:
    """At most so many annotations: whole texts, in an order drawn by hash, so that users meet on the same texts."""
    if limits.rows_per_text is not None:
        _, index = annotations.distinct_texts
        drawn = np.random.default_rng(seed).permutation(len(annotations))
        drawn = drawn[np.argsort(index[drawn], kind="stable")]  # text by text, in a drawn order within each
        first = np.searchsorted(index[drawn], index[drawn])
        annotations = annotations.select(np.sort(drawn[np.arange(len(drawn)) - first < limits.rows_per_text]))
    if limits.rows is None or limits.rows >= len(annotations):
        return annotations
    texts, index = annotations.distinct_texts
    order = sorted(range(len(texts)), key=lambda position: text_key(f"{seed} {texts[position]}"))
    rank = np.empty(len(texts), dtype=np.int64)
    rank[order] = np.arange(len(texts))
    by_rank = np.argsort(rank[index], kind="stable")
    return annotations.select(np.sort(by_rank[: limits.rows]))


def _run_folder(experiment: Experiment, prepared: Prepared, fresh: bool) -> Path:
    """Make the run's folder, with everything workers read. Finished arms in it stay, unless `fresh`."""
    folder = home() / "runs" / f"{experiment.name}-{experiment.digest[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run_of(folder).fetch("methods", "scores", "forgetting")  # what another machine began
        if fresh:
            shutil.rmtree(working_folder(folder), ignore_errors=True)
            for job in prepared.jobs:
                (folder / "methods" / job.name / "done.json").unlink(missing_ok=True)
        part = np.full(len(prepared.annotations), "", dtype=object)
        for name, rows in prepared.split.parts.items():
            part[rows] = name
        prepared.annotations.with_column("part", part.tolist()).write_parquet(folder / "annotations.parquet")
        if prepared.forgotten:
            prepared.forgotten.write(folder)
        else:
            shutil.rmtree(folder / "forgetting", ignore_errors=True)
        settings = experiment.model_dump(mode="json", by_alias=True)
        write_json(folder / "experiment.json", {"digest": experiment.digest, **settings})
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}). Set BEHOLDER_HOME to a writable folder."
        ) from error
    return folder


def _fit(
    experiment: Experiment, jobs: list[ArmJob], folder: Path, reporter: Reporter, plan: forgetting.Plan | None = None
) -> tuple[tuple[ArmJob, ...], tuple[forgetting.MeasureJob, ...]]:
    """Fit those of the jobs that were not finished with the same inputs, and measure what is planned; returns both."""
    pending = tuple(job for job in jobs if not is_done(job, folder))
    for job in jobs:
        if job not in pending:
            reporter.say(f"{job.name}: finished before with the same inputs, kept")
    measures = plan.pending(folder, {job.name for job in pending}) if plan else ()
    cluster = experiment.cluster
    trained = tuple(job.name for job in pending if job.settings.trains and not job.settings.in_blocks)
    together = trained if cluster.data_parallel and cluster.range[1] > 1 else ()
    base, copy = plain_base(experiment.base), run_of(folder).uri
    fit = FitJob(str(folder), pending, base, experiment.seed, cluster, measures, together, copy)
    fit_arms(fit, reporter.step, reporter.say)
    return pending, measures


def _route(experiment: Experiment, prepared: Prepared, folder: Path) -> Routing | None:
    """Choose what is served, and write what the pair of arms says as if it were an arm."""
    learned = [prepared.part(name) for name in prepared.split.served]
    users, rows = np.unique(np.concatenate([part.user_ids.astype(str) for part in learned]), return_counts=True)
    known = dict(zip(users.tolist(), rows.tolist(), strict=True))
    routing = find_routing(experiment.arms, known, folder)
    file = folder / "scores" / f"{ROUTED}.parquet"
    if routing and routing.routed:
        write_scores(file, routing.routed, prepared.part("valid"), prepared.part("test"))
    else:
        file.unlink(missing_ok=True)
    return routing


def _evaluate(experiment: Experiment, folder: Path, routing: Routing | None, facts: dict[str, Any]) -> dict[str, Any]:
    settings = experiment.evaluate
    names = [arm.name for arm in experiment.arms]
    people = experiment.split if isinstance(experiment.split, ByPeople) else None
    if routing and routing.routed:
        names.append(ROUTED)
    write_json(
        folder / "evaluation.json",
        {
            "reference": settings.reference,
            "worthwhile": settings.worthwhile,
            "arms": names,
            **({"newcomers": {"arms": names[: len(experiment.arms)], "texts": people.texts}} if people else {}),
            "curves": {
                name: {
                    "start": next(iter(points.values())).after,
                    "arms": {rows: point.name for rows, point in points.items()},
                }
                for name, points in experiment.curves.items()
            },
        },
    )
    return draw_report(folder, facts)


def draw_report(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Evaluate a run from its saved scores alone; returns `Results` as JSON, the verdict, what was forgotten.

    Writes `users.parquet`, what each method does for each user, the figures, and the reports for people.

    Args:
        folder: of the run.
        facts: see `write_reports`.
    """
    found = report.recompute(folder)
    with whole(folder / "users.parquet") as temporary:
        pq.write_table(found.user_table(), temporary, compression="zstd")
    figures.write_figures(folder / "figures", folder / "figures-of-users", found)
    personal = {arm.name for arm in found.arms if arm.method in METHODS and config_class(arm.method).personal}
    said = verdict(found, personal)
    write_reports(folder, found, said, facts)
    forgotten = forgetting.summary(folder)
    return {**found.to_json(), "verdict": said.to_json(), **({"forgetting": forgotten} if forgotten else {})}


def _facts(experiment: Experiment, prepared: Prepared, folder: Path) -> dict[str, Any]:
    annotations = prepared.annotations
    return {
        "experiment": experiment.name,
        "run": folder.name,
        "base": base_name(experiment.base),
        "seed": experiment.seed,
        "data": {
            "origin": prepared.loaded.origin,
            "rows": len(annotations),
            "texts": len(annotations.distinct_texts[0]),
            "users": len(annotations.users),
            "labels": list(annotations.task.labels),
            "kind": annotations.task.kind,
            "refused_rows": prepared.loaded.refused,
            "fingerprint": annotations.fingerprint,
        },
        "split": prepared.split.facts(annotations),
    }


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
        whole = self.seconds.pop(name)
        self.seconds["training"] = sum(note.get("fit_seconds", 0.0) for note in fitted.values())
        self.seconds["scoring"] = sum(
            note.get("seconds", 0.0) - note.get("fit_seconds", 0.0) for note in fitted.values()
        )
        if measuring:
            self.seconds["forgetting"] = measuring
        self.seconds["ray"] = max(0.0, whole - self.seconds["training"] - self.seconds["scoring"] - measuring)

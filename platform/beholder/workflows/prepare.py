"""What a run begins with: an experiment's rows, loaded, limited, split and checked, and the jobs that fit its arms."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from beholder import __version__
from beholder.data.annotations import Annotations
from beholder.data.folds import Folds, deal, with_uses
from beholder.data.splits import Split, held_out_people, split
from beholder.data.subsample import subsample
from beholder.data.text_splits import CutByText
from beholder.datasets import Loaded, load
from beholder.datasets.profile.value_forms import unlike_text
from beholder.execution import forgetting
from beholder.execution.arm import ArmJob
from beholder.experiment.config import Arm, Experiment
from beholder.models import BaseFacts, facts_of
from beholder.models.hosted import Endpoint
from beholder.models.loading import weights_checksum
from beholder.models.model_ref import ModelRef
from beholder.models.precision import advice, require_form
from beholder.registry.blob_store import Store
from beholder.registry.maintenance import without_erased
from beholder.util.atomic import digest_of
from beholder.util.errors import BeholderError, DataError
from beholder.util.tombstones import erased_people
from beholder.workflows.cross_fitting import of_fold, of_seed

LONGEST_NAME = 200
"""Letters of a label's name: MLflow's names of metrics, of which it is a part, have at most 250."""


@dataclass(frozen=True)
class Prepared:
    """An experiment's rows, checked and split; nothing has been written yet."""

    loaded: Loaded
    annotations: Annotations
    split: Split
    """With folds, that of the models that are served: `folds.Folds.last`."""
    folds: Folds | None
    jobs: list[ArmJob]
    """Under the first seed; with folds, those of `split`."""
    repeats: list[ArmJob]
    """With folds, those of every fold under every seed; without, those under the seeds after the first."""
    forgotten: forgetting.ForgettingPlan | None

    notes: tuple[str, ...]
    """What a person should know before any of it is fitted, a line each."""

    def part(self, name: str) -> Annotations:
        """The rows of one part; the test rows of folds are those of all, one fold after the other."""
        if self.folds and name == "test":
            return self.annotations.select(np.concatenate([each["test"] for each in self.folds.splits]))
        return self.annotations.select(self.split[name])

    @property
    def measured(self) -> list[ArmJob]:
        """All jobs that scores are of."""
        return self.repeats if self.folds else [*self.jobs, *self.repeats]

    @cached_property
    def marked(self) -> Annotations:
        """All rows with the columns that hold what a run does with each; see `folds.with_uses`."""
        return with_uses(self.annotations, self.split, self.folds)

    @property
    def facts(self) -> dict[str, Any]:
        """The split as results have it."""
        return self.folds.facts() if self.folds else self.split.facts(self.annotations)

    @property
    def line(self) -> str:
        """The split in one line, for people."""
        if self.folds:
            return self.folds.line()
        sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in self.split.parts.items())
        return f"split {self.split.hash[:8]}: {sizes}"


def prepare(experiment: Experiment, on_bad_rows: Literal["refuse", "skip"] = "refuse") -> Prepared:
    """Load, limit, split and check, without writing anything. Rows of people who were erased are left out.

    Raises:
        BeholderError: data, split, base or methods cannot be used; nothing was left behind.
    """
    arms = experiment.arms
    base, identity = _base(experiment.base_model)
    loaded = load(experiment.source, on_bad_rows)
    _require_short_names(loaded)
    store = Store()
    here = without_erased(loaded.annotations, store)
    if not len(here):
        raise DataError(f"{loaded.origin}: everybody in it was erased. Give judgements of other people.")
    annotations = subsample(here, experiment.subsample, experiment.seed)
    if isinstance(experiment.split, CutByText):
        annotations = experiment.split.prepared(annotations)
    folds = deal(annotations, experiment.split, experiment.evaluate.folds) if experiment.evaluate.folds > 1 else None
    parts = folds.last if folds else split(annotations, experiment.split)
    train = annotations.select(parts["train"])
    for fold in folds.splits if folds else (parts,):
        _require_answers(annotations.select(fold["train"]), loaded.origin, " of a fold" if folds else "")
    for arm in arms:
        try:
            arm.config.check(base, train.task)
            arm.config.check_rows(train)
        except BeholderError as error:
            raise type(error)(f"methods.{arm.name}: {error}") from error
    every = [*arms, *(point for points in experiment.curves.values() for point in points.values())]
    inputs = [annotations.fingerprint, identity, str(experiment.seed), __version__]
    jobs = _jobs(every, parts, inputs, annotations)
    repeats = []
    for seed in (None, *experiment.again):
        some = every if seed is None else [of_seed(arm, seed) for arm in every]
        mine = inputs if seed is None else [*inputs[:2], str(seed), *inputs[3:]]
        for number, fold in enumerate(folds.splits if folds else ()):
            fitted = _jobs([of_fold(arm, number) for arm in some], fold, mine, annotations)
            repeats += [replace(job, fold=number, seed=seed) for job in fitted]
        if seed is not None and not folds:
            repeats += [replace(job, seed=seed) for job in _jobs(some, parts, mine, annotations)]
    measured = experiment.forgetting and forgetting.plan(
        experiment.forgetting, base, identity, jobs, experiment.seed, lambda rows: without_erased(rows, store)
    )
    slow = None if experiment.base_model.endpoint else advice(experiment.base_model.local)
    people = [held_out_people(annotations, parts).line()] if parts.people else []
    gone = len(loaded.annotations.users) - len(here.users)
    if gone:
        rows = len(loaded.annotations) - len(here)
        people.append(f"{erased_people(gone)}: their {rows:,} judgements are left out")
    unlike = unlike_text(annotations.distinct_texts[0])
    notes = (
        f"data: {loaded.origin}",
        *loaded.lines,
        *([unlike] if unlike else []),
        *([slow] if slow else []),
        *people,
        *experiment.notes,
    )
    return Prepared(loaded, annotations, parts, folds, jobs, repeats, measured, notes)


def _require_short_names(loaded: Loaded) -> None:
    """Refuse labels whose names are too long for the stores of runs and models, before anything is fitted."""
    long = next((label for label in loaded.annotations.task.labels if len(label) > LONGEST_NAME), None)
    if long is not None:
        raise DataError(
            f'{loaded.origin}: the label "{long[:40]}..." has a name of {len(long)} letters, and stores take '
            f"{LONGEST_NAME}. Rename it under source.labels, as in {{short: {{column: long name}}}}; rename classes in "
            "the table."
        )


def _require_answers(train: Annotations, origin: str, where: str) -> None:
    """Refuse training rows from which a question cannot be learned. Points of a scale may be without answers."""
    for question in train.task.questions:
        labels = train.labels[:, list(question.columns)]
        given = np.nansum(labels, axis=0)
        if question.scale is not None:
            asked = labels[~np.isnan(labels).any(axis=1)]
            if not len(asked) or (asked == asked[0]).all():
                raise DataError(
                    f'{origin}: scale "{question.name}" has one answer only in the {len(train)} training rows{where}. '
                    "Leave it out under source, or use more rows."
                )
        elif not given.all():
            label = train.task.labels[question.columns[int(np.argmin(given))]]
            raise DataError(
                f'{origin}: label "{label}" has no positive among the {len(train)} training rows{where}. '
                "Leave it out under source, or use more rows."
            )


def _base(base: ModelRef) -> tuple[BaseFacts | Endpoint, str]:
    """What is known of a base at once, and its identity."""
    if base.endpoint:
        return base.endpoint, base.endpoint.checksum
    require_form(base.local)
    facts = facts_of(base.local)
    return facts, f"{weights_checksum(facts.folder)} {facts.form}"


def _jobs(arms: list[Arm], parts: Split, inputs: list[str], annotations: Annotations) -> list[ArmJob]:
    """The arms as jobs. The key of one that starts from another holds that one's key: it is as old as what it is on."""
    jobs: dict[str, ArmJob] = {}
    measured = parts.people.model_dump(mode="json") if parts.people else None
    inputs = [inputs[0], parts.hash, *inputs[1:], *([json.dumps(measured)] if measured else [])]
    for arm in sorted(arms, key=lambda arm: arm.after is not None):
        config, identity = arm.config.model_dump(mode="json"), arm.config.identity
        on = [jobs[arm.after].key] if arm.after else []
        on += arm.config.reads(annotations)
        key = digest_of([identity, arm.control_of, *inputs, *on])
        jobs[arm.name] = ArmJob(arm.name, config, arm.control_of, key, arm.after, arm.curve_of, measured)
    return [jobs[arm.name] for arm in arms]

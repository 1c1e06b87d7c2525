"""A run that fits its arms several times, on each fold and under each seed, and puts their scores together.

With folds every judgement is tested once; within a fold all is as in a run of its own: training, early stopping,
thresholds, what is served and to whom. See `folds` for how texts are dealt, and its sources. Under further seeds all of
that is done again, on the same rows, so that intervals can hold the chance of training.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from beholder.data.annotations import Annotations
from beholder.data.folds import parts_of, scored
from beholder.evaluation.arm_scores import ArmScores, Judgements
from beholder.evaluation.results import ROUTED
from beholder.evaluation.scores_io import ScoresFile, read_scores, write_scores
from beholder.execution.arm import ArmJob, done
from beholder.experiment.config import Arm
from beholder.util.atomic import digest_of
from beholder.util.run_folder import RunFolder
from beholder.workflows.choose import Routing, find_routing


def in_fold(arm: str, fold: int) -> str:
    """An arm's name in one fold (from 0): `cls@1` in the first."""
    return f"{arm}@{fold + 1}"


def under_seed(arm: str, seed: int) -> str:
    """An arm's name under one of the seeds after the first: `cls@seed-43`, and in a fold `cls@seed-43@1`."""
    return f"{arm}@seed-{seed}"


def on_all(arm: str) -> str:
    """The name of an arm's scores by the model that was fitted on all rows, which is the one that is served."""
    return f"{arm}@all"


def of_fold(arm: Arm, fold: int) -> Arm:
    """An arm as it is fitted in one fold: it starts from what was fitted there."""
    return _renamed(arm, lambda name: in_fold(name, fold))


def of_seed(arm: Arm, seed: int) -> Arm:
    """An arm as it is fitted under one of the seeds after the first: it starts from what was fitted under it."""
    return _renamed(arm, lambda name: under_seed(name, seed))


def _renamed(arm: Arm, called: Callable[[str], str]) -> Arm:
    config = arm.config
    if arm.after is not None:
        config = config.model_copy(update={"init_from": called(arm.after)})
    return Arm(called(arm.name), config, arm.control_of, arm.curve_of)


def refitted(jobs: Sequence[ArmJob], served: set[str], folds: int, folder: Path) -> list[ArmJob]:
    """The jobs that fit what is served, and what that starts from, on all rows, for as many epochs as folds found best.

    That number is the median over folds. Validation rows stop no training then: they choose thresholds, and a bundle
    is held against them.

    Args:
        jobs: of the arms, as without folds; one that starts from another comes after it.
        served: names of arms.
        folds: how many.
        folder: of the run, where every fold's arms are finished.
    """
    after = {job.name: job.after for job in jobs}
    wanted = served | {start for name in served if (start := after[name])}
    found: dict[str, ArmJob] = {}
    for job in sorted((job for job in jobs if job.name in wanted), key=lambda job: job.after is not None):
        kept = [_kept_epochs(done(in_fold(job.name, fold), folder).get("training", {})) for fold in range(folds)]
        known = [epochs for epochs in kept if epochs is not None]
        epochs = statistics.median_high(known) if len(known) == folds else None
        on = found[job.after].key if job.after else None
        key = digest_of([job.key, epochs, on])
        found[job.name] = replace(job, scored_as=on_all(job.name), epochs=epochs, key=key)
    return list(found.values())


def _kept_epochs(training: Mapping[str, Any]) -> int | None:
    """After how many epochs a fold's model stood; None for methods without. Earlier versions noted the course alone."""
    course = training.get("history") or []
    if training.get("epochs") or not course:
        return training.get("epochs")
    best = min(course, key=lambda each: each["valid_loss"] if "valid_loss" in each else -each["valid_macro_f1"])
    return int(best["epoch"])


def put_together(
    arms: Sequence[Arm],
    curves: Sequence[Arm],
    annotations: Annotations,
    folds: int,
    again: Sequence[int],
    folder: Path,
) -> Routing | None:
    """Write the scores of every arm over all folds and under all seeds, and what each fold would have served as if it
    were an arm.

    What is served in the end is chosen on the validation rows of all folds, under the first seed.

    Args:
        arms: of the experiment.
        curves: the arms of its learning curves.
        annotations: of the run's folder, with the columns of `folds.with_uses`.
        folds: how many; 1 without.
        again: the seeds after the first.
        folder: of the run, with the scores of every fold under every seed.

    Returns:
        See `find_routing`. `routed` has the thresholds that are served; how good the pair is, the written scores tell.
    """
    numbers = list(range(folds)) if folds > 1 else [None]
    valid, test = (annotations.select(scored(annotations, part)) for part in ("valid", "test"))
    rows = Judgements.of(valid), Judgements.of(test)
    known = [training_rows(parts_of(annotations, fold)["train"]) for fold in numbers]

    def trained(seed: int | None) -> tuple[dict[str, ArmScores], list[dict[str, ScoresFile]]]:
        """Every arm over all folds, and every arm in each of them."""
        each = [
            {arm.name: read_scores(_file(folder, arm.name, seed, fold)) for arm in (*arms, *curves)} for fold in numbers
        ]
        return {name: _joined([files[name].arm for files in each], name) for name in each[0]}, each

    wholes, parts = trained(None)
    repeats = [trained(seed) for seed in again]
    for name, whole in wholes.items():
        more = replace(whole, repeats=tuple(others[name] for others, _ in repeats))
        write_scores(RunFolder(folder).scores(name), more, valid, test)
    found = {name: replace(parts[0][name], arm=whole, valid=rows[0], test=rows[1]) for name, whole in wholes.items()}
    routing = find_routing(arms, training_rows(parts_of(annotations)["train"]), found)
    file = RunFolder(folder).scores(ROUTED)
    if routing is None or routing.routed is None:
        file.unlink(missing_ok=True)
        return routing

    def as_served(files: list[dict[str, ScoresFile]]) -> ArmScores:
        each = [_served(find_routing(arms, users, here), here) for users, here in zip(known, files, strict=True)]
        return replace(_joined(each, ROUTED), method=ROUTED)

    again_served = tuple(as_served(files) for _, files in repeats)
    write_scores(file, replace(as_served(parts), repeats=again_served), valid, test)
    return routing


def training_rows(*parts: Annotations) -> dict[str, int]:
    """User -> rows in these parts."""
    users, rows = np.unique(np.concatenate([part.user_ids.astype(str) for part in parts]), return_counts=True)
    return dict(zip(users.tolist(), rows.tolist(), strict=True))


def _served(routing: Routing | None, scores: Mapping[str, ScoresFile]) -> ArmScores:
    """What a fold would serve: the pair, or the global arm alone."""
    assert routing is not None  # there is an arm that serves everybody, as there is over all folds
    return routing.routed or scores[routing.choice.global_arm].arm


def _file(folder: Path, arm: str, seed: int | None, fold: int | None) -> Path:
    """Of an arm's scores under one seed (None: the first) in one fold (None: there are none)."""
    name = arm if seed is None else under_seed(arm, seed)
    return folder / "scores" / f"{name if fold is None else in_fold(name, fold)}.parquet"


def _joined(folds: Sequence[ArmScores], name: str) -> ArmScores:
    """One after the other, each decided by its own thresholds; without repeats, of which there may be some already."""
    if len(folds) == 1:
        return replace(folds[0], name=name, repeats=())

    def numbers(sizes: list[int]) -> np.ndarray:
        return np.repeat(np.arange(len(folds)), sizes)

    return replace(
        folds[0],
        name=name,
        thresholds=np.stack([each.thresholds for each in folds]),
        valid_scores=np.concatenate([each.valid_scores for each in folds]),
        test_scores=np.concatenate([each.test_scores for each in folds]),
        seconds=sum(each.seconds for each in folds),
        valid_fold=numbers([len(each.valid_scores) for each in folds]),
        test_fold=numbers([len(each.test_scores) for each in folds]),
    )

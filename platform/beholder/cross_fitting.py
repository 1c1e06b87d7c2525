"""A run whose every judgement is tested once: its arms fitted on each fold, their scores put together.

Within a fold all is as in a run of its own: training, early stopping, thresholds, what is served and to whom. See
`folds` for how texts are dealt, and its sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from beholder.annotations import Annotations
from beholder.evaluation.results import ArmScores, Rows
from beholder.evaluation.scores_file import ScoresFile, read_scores, write_scores
from beholder.experiment import ROUTED, Arm
from beholder.folds import parts_of, scored
from beholder.methods.arm import ArmJob
from beholder.routing import Routing, find_routing


def in_fold(arm: str, fold: int) -> str:
    """An arm's name in one fold (from 0): `cls@1` in the first."""
    return f"{arm}@{fold + 1}"


def on_all(arm: str) -> str:
    """The name of an arm's scores by the model that was fitted on all rows, which is the one that is served."""
    return f"{arm}@all"


def of_fold(arm: Arm, fold: int) -> Arm:
    """An arm as it is fitted in one fold: it starts from what was fitted there."""
    config = arm.config
    if arm.after is not None:
        config = config.model_copy(update={"from_": in_fold(arm.after, fold)})
    return Arm(in_fold(arm.name, fold), config, arm.control_of, arm.curve_of)


def refitted(jobs: Sequence[ArmJob], served: set[str]) -> list[ArmJob]:
    """The jobs that fit what is served, and what that starts from, on all rows."""
    after = {job.name: job.after for job in jobs}
    wanted = served | {start for name in served if (start := after[name])}
    return [replace(job, scored_as=on_all(job.name)) for job in jobs if job.name in wanted]


def put_together(
    arms: Sequence[Arm], curves: Sequence[Arm], annotations: Annotations, folds: int, folder: Path
) -> Routing | None:
    """Write the scores of every arm over all folds, and what each fold would have served as if it were an arm.

    What is served in the end is chosen on the validation rows of all folds.

    Args:
        arms: of the experiment.
        curves: the arms of its learning curves.
        annotations: of the run's folder, with the columns of `folds.with_uses`.
        folds: how many.
        folder: of the run, with the scores of every fold.

    Returns:
        See `find_routing`. `routed` has the thresholds that are served; how good the pair is, the written scores tell.
    """
    valid, test = (annotations.select(scored(annotations, part)) for part in ("valid", "test"))
    rows = Rows.of(valid), Rows.of(test)
    found: dict[str, ScoresFile] = {}
    parts: dict[str, list[ScoresFile]] = {}
    for arm in (*arms, *curves):
        parts[arm.name] = [read_scores(folder / "scores" / f"{in_fold(arm.name, k)}.parquet") for k in range(folds)]
        whole = _joined([file.arm for file in parts[arm.name]], arm.name)
        write_scores(folder / "scores" / f"{arm.name}.parquet", whole, valid, test)
        found[arm.name] = replace(parts[arm.name][0], arm=whole, valid=rows[0], test=rows[1])
    routing = find_routing(arms, training_rows(parts_of(annotations)["train"]), found)
    file = folder / "scores" / f"{ROUTED}.parquet"
    if routing is None or routing.routed is None:
        file.unlink(missing_ok=True)
        return routing
    served = []
    for fold in range(folds):
        here = {arm.name: parts[arm.name][fold] for arm in arms}
        served.append(_served(find_routing(arms, training_rows(parts_of(annotations, fold)["train"]), here), here))
    write_scores(file, replace(_joined(served, ROUTED), method=ROUTED), valid, test)
    return routing


def training_rows(*parts: Annotations) -> dict[str, int]:
    """User -> rows in these parts."""
    users, rows = np.unique(np.concatenate([part.user_ids.astype(str) for part in parts]), return_counts=True)
    return dict(zip(users.tolist(), rows.tolist(), strict=True))


def _served(routing: Routing | None, scores: Mapping[str, ScoresFile]) -> ArmScores:
    """What a fold would serve: the pair, or the global arm alone."""
    assert routing is not None  # there is an arm that serves everybody, as there is over all folds
    return routing.routed or scores[routing.choice.global_arm].arm


def _joined(folds: Sequence[ArmScores], name: str) -> ArmScores:
    """One after the other, each decided by its own thresholds."""

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

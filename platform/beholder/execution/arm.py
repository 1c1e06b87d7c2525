"""One arm of an experiment, from annotations to a fitted method and its scores on disk."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beholder.data.annotations import Annotations
from beholder.data.controls import shuffle_users
from beholder.data.splits import ByPeople
from beholder.evaluation.arm_scores import ArmScores
from beholder.evaluation.scores_io import write_newcomers, write_scores
from beholder.execution.adaptation import score_newcomers
from beholder.methods.base import MethodConfig, before_refit, config_class, save_fitted
from beholder.training.context import Context, Training
from beholder.training.memory import PeakMemory
from beholder.util.atomic import beside
from beholder.util.errors import MethodError
from beholder.util.run_folder import RunFolder


@dataclass(frozen=True)
class ArmJob:
    """What a worker needs to know of one arm; plain values, so that it travels.

    Attributes:
        name: the arm's name, also its folder's.
        config: the method's config, dumped.
        control_of: the arm this one is the control of.
        after: the arm whose fitted method this one starts from.
        key: hash of all inputs; a finished arm with the same key need not be run again.
        curve_of: the arm whose learning curve this one is a point of; of such a one only the scores are kept.
        people: the settings of a split by people, dumped: the arm is then measured on newcomers as well.
        fold: whose rows the arm is fitted and scored on, from 0; see `folds.parts_of`.
        scored_as: the name of its scores, where that is not the arm's.
        seed: of its random draws, where that is not the run's.
        epochs: see `Context.epochs`.
    """

    name: str
    config: dict[str, Any]
    control_of: str | None
    key: str
    after: str | None = None
    curve_of: str | None = None
    people: dict[str, Any] | None = None
    fold: int | None = None
    scored_as: str | None = None
    seed: int | None = None
    epochs: int | None = None

    @property
    def scores(self) -> str:
        """The name of its file of scores."""
        return self.scored_as or self.name

    @property
    def settings(self) -> MethodConfig:
        """The method's config."""
        return config_class(self.config["method"]).model_validate(self.config)


def as_seen(config: MethodConfig, parts: dict[str, Annotations], seed: int) -> dict[str, Annotations]:
    """The rows of each part as this arm sees them: under other users where it is a shuffled control."""
    control = config.control
    if not control:
        return parts
    return {
        part: shuffle_users(rows, seed + i, config.traits, control)
        for i, (part, rows) in enumerate(sorted(parts.items()))
    }


def to_learn(config: MethodConfig, seen: dict[str, Annotations]) -> tuple[Annotations, Annotations]:
    """The training and validation rows this arm learns from, of those it sees: all, or those of its `tasks`.

    Raises:
        MethodError: there are none.
    """
    tasks = config.only_tasks
    if tasks is None:
        return seen["train"], seen["valid"]

    def of_tasks(part: str) -> Annotations:
        mine = np.concatenate([seen[part].rows_of_tasks[task] for task in tasks])
        if not len(mine):
            raise MethodError(f"tasks: {', '.join(tasks)} has no {part} rows. Use more rows, or leave tasks out.")
        return seen[part].select(np.unique(mine))

    return of_tasks("train"), of_tasks("valid")


def run_arm(job: ArmJob, parts: dict[str, Annotations], run_folder: Path, context: Context) -> None:
    """Fit, save, score validation and test rows, write the scores.

    Writes `scores/NAME.parquet`, under a split by people `scores/NAME~newcomers.parquet`, and then `methods/NAME/`
    under `run_folder`; each appears whole or not at all. Of those who fit together (`context.team`), the first does so.

    Under a split by people the test scores are those after the most judgements of each person that `split.adapt` names.
    Where nothing is held back for testing (what folds have measured is fitted on all rows), the scores of validation
    rows by what is saved stand in their place: a bundle is held against them.
    """
    started, peak = time.perf_counter(), PeakMemory()
    config = job.settings
    parts = {**parts, "test": parts.get("test", parts["valid"])}
    seen = as_seen(config, parts, context.seed)
    fitted = config.fit(*to_learn(config, seen), context)
    if context.team.rank:
        return
    fit_seconds = time.perf_counter() - started + fitted.training.elsewhere
    scores = {"valid": before_refit(fitted).score(list(seen["valid"].texts), list(seen["valid"].user_ids))}
    newcomers = None
    if job.people is None:
        scores["test"] = fitted.score(list(seen["test"].texts), list(seen["test"].user_ids))
    else:
        people = ByPeople.model_validate(job.people)
        newcomers = score_newcomers(job.name, job.control_of, config, fitted, seen, parts, people)
        scores["test"] = newcomers.at("test", newcomers.steps("test")[-1]).scores
    seconds = time.perf_counter() - started + fitted.training.elsewhere
    folder = RunFolder(run_folder).method(job.name)
    temporary = beside(folder)
    temporary.mkdir(parents=True)
    if job.curve_of is None:
        save_fitted(fitted, temporary)
    arm = ArmScores(
        name=job.name,
        method=fitted.method,
        thresholds=np.asarray(fitted.thresholds, dtype=np.float32),
        valid_scores=scores["valid"],
        test_scores=scores["test"],
        seconds=seconds,
        control_of=job.control_of,
    )
    write_scores(RunFolder(run_folder).scores(job.scores), arm, parts["valid"], parts["test"])
    if newcomers and job.curve_of is None:
        write_newcomers(RunFolder(run_folder).newcomers(job.name), newcomers)
    done = {
        "key": job.key,
        "seconds": seconds,
        "fit_seconds": fit_seconds,
        "peak_mb": peak.megabytes,
        "training": _plain(fitted.training),
    }
    (temporary / "done.json").write_text(json.dumps(done, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def is_done(job: ArmJob, run_folder: Path) -> bool:
    """Whether this arm was finished with the very same inputs."""
    return done(job.name, run_folder).get("key") == job.key


def done(name: str, run_folder: Path) -> dict[str, Any]:
    """What `run_arm` noted about a finished arm; empty where it is not finished."""
    try:
        return json.loads(RunFolder(run_folder).done(name).read_text())
    except (OSError, ValueError):
        return {}


def _plain(training: Training) -> dict[str, Any]:
    return {
        "seconds": training.seconds,
        "tokens_per_second": training.tokens_per_second,
        "history": training.history,
        "epochs": training.epochs,
    }

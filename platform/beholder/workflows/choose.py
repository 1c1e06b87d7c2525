"""What a run serves, chosen from validation scores alone: a global arm, a personal one, and each user's route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from beholder.evaluation.arm_scores import ArmScores
from beholder.evaluation.headline import choose_thresholds, headline
from beholder.evaluation.intervals import clustered_mean
from beholder.evaluation.results import ROUTED
from beholder.evaluation.scores_io import ScoresFile, read_scores
from beholder.experiment.config import Arm
from beholder.registry.routing import RULE, Candidate, Choice, Population, choose, route, row_losses
from beholder.util.run_folder import RunFolder


@dataclass(frozen=True)
class Routing:
    """What is served.

    Attributes:
        choice: the arms.
        users: see `routing.USERS`; None without a personal arm.
        population: what users' gains were shrunk toward; None without a personal arm.
        routed: the pair's scores of the rows, as if it were an arm; None without a personal arm.
    """

    choice: Choice
    users: pa.Table | None = None
    population: Population | None = None
    routed: ArmScores | None = None

    @property
    def best(self) -> str:
        """What is served, as results name it: the pair, or the global arm alone."""
        return self.choice.global_arm if self.routed is None else ROUTED

    @property
    def served(self) -> set[str]:
        """The names of the arms that are served."""
        return {self.choice.global_arm, *([self.choice.personal_arm] if self.choice.personal_arm else [])}

    @property
    def counts(self) -> dict[str, int]:
        """Users by route; empty without a personal arm."""
        if self.users is None:
            return {}
        routes = self.users["route"].to_pylist()
        return {"on_personal": routes.count("personal"), "on_global": routes.count("global")}

    @property
    def thresholds(self) -> list[float] | None:
        """By which everybody is decided, whatever their route; None where the global arm's own are used."""
        return None if self.routed is None else [float(value) for value in self.routed.thresholds]

    def to_json(self) -> dict[str, Any]:
        """Its entry in a manifest."""
        if self.users is None or self.population is None:
            return {"rule": "everybody gets the global method: on validation no personal one was better"}
        return {"rule": RULE, "population": self.population.to_json(), "users": self.counts}


def scores_of(arms: Sequence[Arm], folder: Path) -> dict[str, ScoresFile]:
    """The scores of a run's arms, without controls: of those that can be served."""
    return {arm.name: read_scores(RunFolder(folder).scores(arm.name)) for arm in arms if _servable(arm)}


def _servable(arm: Arm) -> bool:
    return arm.control_of is None and not arm.config.control


def find_routing(arms: Sequence[Arm], known: Mapping[str, int], scores: Mapping[str, ScoresFile]) -> Routing | None:
    """Choose the best global arm, the best personal one, and who gets which; None where no arm serves everybody.

    The personal arm is the best one, or one that people can be enrolled in later, where validation cannot tell it from
    the best. It is served only where the pair is better on validation than the global arm alone.

    Args:
        arms: of the experiment.
        known: users who were trained on -> their training rows.
        scores: of the arms, at least of all that can be served.
    """
    files = {arm.name: scores[arm.name] for arm in arms if _servable(arm)}
    personal = {arm.name: arm.config.personal for arm in arms}
    choice = choose([Candidate(name, personal[name], _valid(file.arm, file)) for name, file in files.items()])
    if choice is None or choice.personal_arm is None:
        return choice and Routing(choice)
    shared = files[choice.global_arm]
    growing = {arm.name: files[arm.name] for arm in arms if arm.name in files and arm.config.in_blocks}
    for name in dict.fromkeys([_open_to_newcomers(choice.personal_arm, files, growing), choice.personal_arm]):
        own = files[name]
        users, population = route(known, shared.valid.user_ids.tolist(), _losses(shared), _losses(own))
        routed = _routed(shared, own, users)
        if _valid(routed, shared) > _valid(shared.arm, shared):
            return Routing(Choice(choice.global_arm, name), users, population, routed)
    return Routing(Choice(choice.global_arm, None))


def _open_to_newcomers(best: str, files: Mapping[str, ScoresFile], growing: Mapping[str, ScoresFile]) -> str:
    """Of personal arms that validation cannot tell apart, one that people can be added to after training.

    Args:
        best: the personal arm with the best macro-F1.
        files: of all arms.
        growing: of those that people can be enrolled in; the best of them takes the place of `best`, unless its
            log-loss is surely larger: the 95 % interval of the paired difference lies above zero.
    """
    if best in growing or not growing:
        return best
    other = max(growing, key=lambda name: _valid(growing[name].arm, growing[name]))
    difference = _losses(growing[other]) - _losses(files[best])
    asked = ~np.isnan(difference)
    rows = files[best].valid
    more = clustered_mean(difference[asked], np.ones(asked.sum()), rows.user_ids[asked], rows.text_ids[asked])
    return best if more.above_zero else other


def _losses(file: ScoresFile) -> NDArray[np.float64]:
    """Log-loss of each validation row."""
    return row_losses(file.arm.valid_scores, file.valid.labels, file.task.kind)


def _valid(arm: ArmScores, file: ScoresFile) -> float:
    value = headline(arm.valid_answers(file.task), file.valid.labels, file.task)
    return value if np.isfinite(value) else 0.0


def _routed(shared: ScoresFile, own: ScoresFile, users: pa.Table) -> ArmScores:
    """Each row by its user's route, with one threshold a label for both: equal scores decide equally."""
    chosen = set(users.filter(pc.field("route") == "personal")["user_id"].to_pylist())

    def pick(ids: NDArray[np.object_], scores: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
        mine = np.asarray([user in chosen for user in ids], dtype=bool)[:, None]
        return np.where(mine, others, scores)

    valid = pick(shared.valid.user_ids, shared.arm.valid_scores, own.arm.valid_scores)
    return ArmScores(
        name=ROUTED,
        method=ROUTED,
        thresholds=choose_thresholds(valid, shared.valid.labels, shared.task),
        valid_scores=valid,
        test_scores=pick(shared.test.user_ids, shared.arm.test_scores, own.arm.test_scores),
        seconds=0.0,
    )

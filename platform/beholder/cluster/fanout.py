"""Dealing out the work of a job: arms, and blocks of users where an arm trains a bank.

A board hands out what is ready, to whichever worker is free: an arm; the opening of a fan-out (its trunk is run, its
users are cut into blocks); a block; at the end the arm that puts its blocks together; and what is measured of an arm
once it is fitted. What is finished lies whole on disk, so that a job started again does only what is missing.

When a worker dies, or nodes come or go, Ray Train starts the workers anew, as many as there is room for. What the old
ones held goes back to the board; what they had finished stays finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray

from beholder.annotations import Annotations
from beholder.cluster.shared import SharedRun
from beholder.evaluation.scores_file import newcomers_file
from beholder.methods.arm import ArmJob, as_seen, run_arm, to_learn
from beholder.methods.blocks import BankFitting, working_folder
from beholder.methods.forgetting import MeasureJob, measure
from beholder.methods.method import Context, Progress
from beholder.methods.team import ALONE, Team, everybody

POLL_S = 0.2
"""Between two looks of a worker for whom nothing is ready."""
DEATHS = 3
"""How often workers may die one after the other while nothing gets finished."""


@dataclass(frozen=True)
class Task:
    """One thing for one worker to do. `block` counts from 0; `measure` of no arm is of the base as it is.

    `join`: get ready for the blocks of a fan-out while another worker opens it; nobody waits for that.
    """

    kind: Literal["arm", "open", "join", "block", "measure"]
    arm: str
    block: int = 0

    @property
    def label(self) -> str:
        """Under which name progress is told."""
        return f"forgetting, {self.arm or 'base'}" if self.kind == "measure" else self.arm


class Board:
    """What is to be done, what is done, and what there is to say of it; one actor that all workers and the driver ask.

    Progress of a fan-out is in users: those of finished blocks, and the part that running blocks have come to.
    """

    def __init__(self, arms: list[ArmJob], measures: Sequence[MeasureJob] = (), together: Sequence[str] = ()) -> None:
        """Put everything up.

        Args:
            arms: those to fit.
            measures: what to measure of forgetting.
            together: arms that all workers fit at once, before anything is taken.
        """
        self._arms = {arm.name: arm for arm in arms}
        self._measures = [Task("measure", each.arm) for each in measures]
        ready = [arm for arm in arms if arm.after not in self._arms and arm.name not in together]
        self._ready = [self._first(arm) for arm in ready]
        self._ready += [each for each in self._measures if each.arm not in self._arms]
        self._together = list(together)
        self._held: list[Task] = []  # with somebody
        self._group, self._again = "", False
        self._nodes: list[str] = []  # of the group's workers that are here
        self._deaths = 0  # since something was finished
        self._left = len(arms) + len(measures)
        self._blocks: dict[str, list[int]] = {}  # arm -> users of each block
        self._done: dict[str, dict[int, int]] = {}  # arm -> block -> users done
        self._open: dict[str, set[int]] = {}  # arm -> blocks not finished
        self._latest: dict[str, tuple[int, int, str, str]] = {}
        self._said: list[str] = []
        self._refusal: tuple[str, str] | None = None

    def joined(self, group: str, size: int, node: str) -> list[str]:
        """A worker is here; of a new group the first tells that what an earlier one held is to be done again.

        Args:
            group: those who were started together.
            size: how many they are.
            node: where this one is.

        Returns:
            The arms they are to fit together, one after the other, before they take anything.
        """
        if group != self._group:
            self._again = bool(self._group)
            self._group, self._ready, self._held = group, [*self._held, *self._ready], []
            self._nodes = []
        self._nodes.append(node)
        if len(self._nodes) == size and (self._again or len(set(self._nodes)) > 1):
            self.say(_group(size, len(set(self._nodes))) + (", started again" if self._again else ""))
        return [] if self._refusal else list(self._together)

    def died(self) -> None:
        """Workers died. When that goes on and nothing gets finished, the job is over."""
        self._deaths += 1
        if self._deaths > DEATHS and not self._refusal:
            held = ", ".join(sorted({task.label for task in self._held})) or "their start"
            self.refuse(
                "ClusterError",
                f"workers died {self._deaths} times and nothing got finished in between; they were at: {held}. "
                "Most often that is memory: `ray memory`, fewer workers, or smaller blocks (bank.block_users).",
            )

    def take(self, inside: str = "", near: str = "") -> Task | Literal["wait", "end"]:
        """The next thing to do. After a refusal there is none.

        Args:
            inside: the fan-out whose blocks the worker is ready for.
            near: the arm whose texts the worker has read: of arms that stand on another, those on this one come first.
        """
        if self._refusal:
            return "end"
        if self._ready:
            on = [self._arms[task.arm].after if task.kind in ("arm", "open") else None for task in self._ready]
            place = on.index(near) if on[0] and near in on else 0
            self._held.append(self._ready.pop(place))
            return self._held[-1]
        opening = [task.arm for task in self._held if task.kind == "open"]
        if opening and inside not in opening:
            return Task("join", opening[0])
        return "wait" if self._left else "end"

    def opened(self, arm: str, sizes: list[int]) -> None:
        """A fan-out's blocks, by their numbers of users."""
        self._let_go(Task("open", arm))
        self._blocks[arm], self._done[arm], self._open[arm] = sizes, {}, set(range(len(sizes)))
        self._ready = [*(Task("block", arm, block) for block in range(len(sizes))), *self._ready]

    def finished(self, task: Task) -> None:
        """What follows from a task's end."""
        self._let_go(task)
        if task.arm in self._together:
            self._together.remove(task.arm)
        if task.kind == "block":
            self._open[task.arm].discard(task.block)
            if not self._open[task.arm]:
                self._ready.insert(0, Task("arm", task.arm))
        elif task.kind != "open":
            self._left -= 1
            self._latest[task.label] = (1, 1, "done", "steps")
            if task.kind == "arm":
                self._ready += [self._first(arm) for arm in self._arms.values() if arm.after == task.arm]
                self._ready += [each for each in self._measures if each.arm == task.arm]

    def put(self, task: Task, done: int, total: int, note: str, unit: str) -> None:
        """Progress of a task."""
        if task.kind == "block":
            self._done[task.arm][task.block] = done
            done, total = sum(self._done[task.arm].values()), sum(self._blocks[task.arm])
        self._latest[task.label] = (done, total, note, unit)

    def say(self, line: str) -> None:
        """Something a person should know."""
        self._said.append(line)

    def take_news(self) -> tuple[dict[str, tuple[int, int, str, str]], list[str]]:
        """Progress by arm, and what was said, since the last look."""
        news = self._latest, self._said
        self._latest, self._said = {}, []
        return news

    def refuse(self, kind: str, message: str) -> None:
        """An error that the user can mend: its class and what it says."""
        self._refusal = (kind, message)

    def refusal(self) -> tuple[str, str] | None:
        """What `refuse` was told."""
        return self._refusal

    def _let_go(self, task: Task) -> None:
        self._deaths = 0
        if task in self._held:
            self._held.remove(task)

    @staticmethod
    def _first(arm: ArmJob) -> Task:
        return Task("open" if arm.settings.in_blocks else "arm", arm.name)


def work(
    board: Any,
    arms: dict[str, ArmJob],
    measures: dict[str, MeasureJob],
    parts: Callable[[int | None], dict[str, Annotations]],
    shared: SharedRun,
    context: Callable[[Callable[..., None], Callable[[str], None]], Context],
    together: Sequence[str] = (),
) -> None:
    """What one worker does until nothing is left.

    Args:
        board: the `Board` actor.
        arms: all arms of the job, by name.
        measures: what is measured of forgetting, by arm.
        parts: the annotations of each part of a fold, or of what is served; see `folds.parts_of`.
        shared: where everything is written.
        context: makes a method's context from where to tell progress and where to say things.
        together: arms that all workers fit at once, each a share of every batch (`methods.team`).
    """
    run_folder = shared.folder
    open_: dict[str, BankFitting] = {}  # the fan-out this worker is in

    def of_arm(arm: ArmJob, progress: Callable[..., None], say: Callable[[str], None]) -> Context:
        found = replace(context(progress, say), epochs=arm.epochs)
        return found if arm.seed is None else replace(found, seed=arm.seed)

    def fitting(task: Task) -> BankFitting:
        if task.arm not in open_:
            open_.clear()
            config: Any = arms[task.arm].settings
            shared.fetch(f"methods/{config.from_}")
            mine = of_arm(arms[task.arm], _nothing, say)
            seen = as_seen(config, parts(arms[task.arm].fold), mine.seed)
            open_[task.arm] = config.begin(*to_learn(config, seen), mine)
        return open_[task.arm]

    def say(line: str) -> None:
        ray.get(board.say.remote(line))

    def whole_arm(task: Task, team: Team = ALONE) -> None:
        arm = arms[task.arm]
        quiet = arm.settings.in_blocks or team.rank
        progress = _nothing if quiet else _Throttled(board, task)
        mine = of_arm(arm, progress, _nothing if team.rank else say)
        run_arm(arm, parts(arm.fold), run_folder, replace(mine, team=team))
        if not team.rank:
            newcomers = relative(shared, newcomers_file(run_folder, arm.name))
            shared.keep(f"scores/{arm.scores}.parquet", newcomers, f"methods/{arm.name}")
            ray.get(board.finished.remote(task))

    for name in together:
        whole_arm(Task("arm", name), everybody())

    near = ""
    while True:
        task: Any = ray.get(board.take.remote(next(iter(open_), ""), near))
        if isinstance(task, Task) and task.kind in ("arm", "open"):
            near = arms[task.arm].after or task.arm
        if task == "end":
            return
        if task == "wait":
            time.sleep(POLL_S)
        elif task.kind == "join":
            fitting(task)
        elif task.kind == "open":
            trunk = relative(shared, fitting(task).trunk_folder)
            shared.fetch(trunk)
            _ = fitting(task).outputs
            shared.keep(trunk)
            prior = relative(shared, fitting(task).prior_folder)
            shared.fetch(prior)
            _ = fitting(task).prior
            shared.keep(prior)
            ray.get(board.opened.remote(task.arm, [len(users) for users in fitting(task).blocks]))
        elif task.kind == "block":
            train_block(shared, fitting(task), task.block, _Throttled(board, task))
            ray.get(board.finished.remote(task))
        elif task.kind == "measure":
            shared.fetch("forgetting", f"methods/{task.arm}")
            measure(measures[task.arm], run_folder, context(_Throttled(board, task), say))
            shared.keep("forgetting")
            ray.get(board.finished.remote(task))
        else:
            start = arms[task.arm].after
            if start is not None:
                shared.fetch(f"methods/{start}")
            if arms[task.arm].settings.in_blocks:
                shared.fetch(working_folder(Path()).name)
            whole_arm(task)


def _group(workers: int, nodes: int) -> str:
    return f"{workers} worker{'s' * (workers != 1)} on {nodes} node{'s' * (nodes != 1)}"


def train_block(shared: SharedRun, fitting: BankFitting, number: int, progress: Progress) -> None:
    """Train a block unless that is done, here or in a job that died; what it needs and makes is shared."""
    shared.fetch(*(relative(shared, path) for path in (fitting.trunk_folder, fitting.prior_folder)))
    shared.fetch(relative(shared, fitting.held_file(number)), relative(shared, fitting.block_file(number)))
    shared.fetch(*(relative(shared, file) for file in fitting.files(number)))
    fitting.train(number, progress)
    shared.keep(*(relative(shared, file) for file in fitting.files(number)))


def relative(shared: SharedRun, path: Path) -> str:
    """A path below the run's folder, as `SharedRun` names it."""
    return path.relative_to(shared.folder).as_posix()


def _nothing(*_: Any) -> None:
    pass


class _Throttled:
    """Tells the board at most four times a second."""

    def __init__(self, board: Any, task: Task) -> None:
        self._board, self._task, self._last = board, task, 0.0

    def __call__(self, done: int, total: int, note: str, unit: str = "steps") -> None:
        now = time.monotonic()
        if now - self._last > 0.25 or done == total:
            self._last = now
            self._board.put.remote(self._task, done, total, note, unit)

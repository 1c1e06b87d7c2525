"""Dealing out the work of a job: arms, and blocks of users where an arm trains a bank.

A work queue hands out what is ready to the next free worker: an arm; the opening of a fan-out (its trunk is run, its
users are cut into blocks); a block; at the end the arm that puts its blocks together; and what is measured of an arm
once it is fitted. What is finished lies whole on disk, so that a restarted job does only what is missing.

If a worker fails, or nodes come or go, Ray Train restarts the workers, as many as there is room for. What the old ones
had leased goes back to the queue; what they had finished stays finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray

from beholder.adapters.block_training import BankFitting
from beholder.cluster.run_storage import SharedRun
from beholder.data.annotations import Annotations
from beholder.execution.arm import ArmJob, as_seen, run_arm, to_learn
from beholder.execution.forgetting import MeasureJob, measure
from beholder.training.context import Context, Progress
from beholder.training.data_parallel import ALONE, Team, everybody
from beholder.util.run_folder import FORGETTING, METHODS, SCORES, UNFINISHED, RunFolder

POLL_S = 0.2
"""Between two looks of a worker for whom nothing is ready."""
DEATHS = 3
"""How often workers may die one after the other while nothing gets finished."""


@dataclass(frozen=True)
class WorkItem:
    """One thing for one worker to do. `block` counts from 0; `measure` of no arm is of the base as it is.

    `join`: get ready for the blocks of a fan-out while another worker opens it; nobody waits for that.
    """

    kind: Literal["arm", "open", "join", "block", "measure"]
    arm: str
    block: int = 0

    @property
    def label(self) -> str:
        """The name under which progress is reported."""
        return f"forgetting, {self.arm or 'base'}" if self.kind == "measure" else self.arm


class WorkQueue:
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
        self._measures = [WorkItem("measure", each.arm) for each in measures]
        ready = [arm for arm in arms if arm.after not in self._arms and arm.name not in together]
        self._ready = [self._first(arm) for arm in ready]
        self._ready += [each for each in self._measures if each.arm not in self._arms]
        self._together = list(together)
        self._leased: list[WorkItem] = []  # with somebody
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
        """A worker is here; the first of a new group releases what an earlier group held.

        Args:
            group: those who were started together.
            size: how many they are.
            node: where this one is.

        Returns:
            The arms they are to fit together, one after the other, before they take anything.
        """
        if group != self._group:
            self._again = bool(self._group)
            self._group, self._ready, self._leased = group, [*self._leased, *self._ready], []
            self._nodes = []
        self._nodes.append(node)
        if len(self._nodes) == size and (self._again or len(set(self._nodes)) > 1):
            self.say(_group(size, len(set(self._nodes))) + (", started again" if self._again else ""))
        return [] if self._refusal else list(self._together)

    def died(self) -> None:
        """Workers died. When that continues and nothing gets finished, the job ends."""
        self._deaths += 1
        if self._deaths > DEATHS and not self._refusal:
            held = ", ".join(sorted({task.label for task in self._leased})) or "their start"
            self.refuse(
                "ClusterError",
                f"workers died {self._deaths} times and nothing got finished in between; they were at: {held}. "
                "Most often that is memory: `ray memory`, fewer workers, or smaller blocks (bank.block_users).",
            )

    def take(self, inside: str = "", near: str = "") -> WorkItem | Literal["wait", "end"]:
        """The next thing to do. After a refusal there is none.

        Args:
            inside: the fan-out whose blocks the worker is ready for.
            near: the arm whose texts the worker has read: of arms that stand on another, those on this one come first.
        """
        if self._refusal:
            return "end"
        if self._ready:
            on = [self._arms[item.arm].after if item.kind in ("arm", "open") else None for item in self._ready]
            place = on.index(near) if on[0] and near in on else 0
            self._leased.append(self._ready.pop(place))
            return self._leased[-1]
        opening = [task.arm for task in self._leased if task.kind == "open"]
        if opening and inside not in opening:
            return WorkItem("join", opening[0])
        return "wait" if self._left else "end"

    def opened(self, arm: str, sizes: list[int]) -> None:
        """A fan-out's blocks, by their numbers of users."""
        self._let_go(WorkItem("open", arm))
        self._blocks[arm], self._done[arm], self._open[arm] = sizes, {}, set(range(len(sizes)))
        self._ready = [*(WorkItem("block", arm, block) for block in range(len(sizes))), *self._ready]

    def finished(self, task: WorkItem) -> None:
        """What follows from a task's end."""
        self._let_go(task)
        if task.arm in self._together:
            self._together.remove(task.arm)
        if task.kind == "block":
            self._open[task.arm].discard(task.block)
            if not self._open[task.arm]:
                self._ready.insert(0, WorkItem("arm", task.arm))
        elif task.kind != "open":
            self._left -= 1
            self._latest[task.label] = (1, 1, "done", "steps")
            if task.kind == "arm":
                self._ready += [self._first(arm) for arm in self._arms.values() if arm.after == task.arm]
                self._ready += [each for each in self._measures if each.arm == task.arm]

    def put(self, task: WorkItem, done: int, total: int, note: str, unit: str) -> None:
        """Progress of a task."""
        if task.kind == "block":
            self._done[task.arm][task.block] = done
            done, total = sum(self._done[task.arm].values()), sum(self._blocks[task.arm])
        self._latest[task.label] = (done, total, note, unit)

    def say(self, line: str) -> None:
        """Something a person should know."""
        self._said.append(line)

    def take_news(self) -> tuple[dict[str, tuple[int, int, str, str]], list[str]]:
        """Progress by arm, and lines reported, since the last call."""
        news = self._latest, self._said
        self._latest, self._said = {}, []
        return news

    def refuse(self, kind: str, message: str) -> None:
        """An error that the user can fix: its class and its message."""
        self._refusal = (kind, message)

    def refusal(self) -> tuple[str, str] | None:
        """The error given to `refuse`."""
        return self._refusal

    def _let_go(self, task: WorkItem) -> None:
        self._deaths = 0
        if task in self._leased:
            self._leased.remove(task)

    @staticmethod
    def _first(arm: ArmJob) -> WorkItem:
        return WorkItem("open" if arm.settings.in_blocks else "arm", arm.name)


class Worker:
    """What one worker does until nothing is left."""

    def __init__(
        self,
        queue: Any,
        arms: dict[str, ArmJob],
        measures: dict[str, MeasureJob],
        parts: Callable[[int | None], dict[str, Annotations]],
        shared: SharedRun,
        context: Callable[[Callable[..., None], Callable[[str], None]], Context],
    ) -> None:
        """Take what all work needs.

        Args:
            queue: the `WorkQueue` actor.
            arms: all arms of the job, by name.
            measures: what is measured of forgetting, by arm.
            parts: the annotations of each part of a fold, or of what is served; see `folds.parts_of`.
            shared: where everything is written.
            context: makes a method's context from two functions, for progress and for lines people should read.
        """
        self._queue, self._arms, self._measures, self._parts = queue, arms, measures, parts
        self._shared, self._context = shared, context
        self._open: dict[str, BankFitting] = {}  # the fan-out this worker is in

    def work(self, together: Sequence[str] = ()) -> None:
        """Work until the queue is empty. together: arms that all workers fit at once, each a share of every batch."""
        for name in together:
            self._fit(WorkItem("arm", name), everybody())
        near = ""
        while True:
            item: Any = ray.get(self._queue.take.remote(next(iter(self._open), ""), near))
            if isinstance(item, WorkItem) and item.kind in ("arm", "open"):
                near = self._arms[item.arm].after or item.arm
            if item == "end":
                return
            if item == "wait":
                time.sleep(POLL_S)
            else:
                self._do(item)

    def _do(self, item: WorkItem) -> None:
        shared, arms = self._shared, self._arms
        if item.kind == "join":
            self._fitting(item)
        elif item.kind == "open":
            self._begin(item)
        elif item.kind == "block":
            train_block(shared, self._fitting(item), item.block, _Throttled(self._queue, item))
            ray.get(self._queue.finished.remote(item))
        elif item.kind == "measure":
            shared.fetch(FORGETTING, f"{METHODS}/{item.arm}")
            context = self._context(_Throttled(self._queue, item), self._say)
            measure(self._measures[item.arm], shared.folder, context)
            shared.keep(FORGETTING)
            ray.get(self._queue.finished.remote(item))
        else:
            start = arms[item.arm].after
            if start is not None:
                shared.fetch(f"{METHODS}/{start}")
            if arms[item.arm].settings.in_blocks:
                shared.fetch(UNFINISHED)
            self._fit(item)

    def _begin(self, item: WorkItem) -> None:
        """Open a fan-out: run the trunk, learn the prior, tell the queue of the blocks."""
        shared, fitting = self._shared, self._fitting(item)
        trunk, prior = relative(shared, fitting.trunk_folder), relative(shared, fitting.prior_folder)
        shared.fetch(trunk)
        _ = fitting.outputs
        shared.keep(trunk)
        shared.fetch(prior)
        _ = fitting.prior
        shared.keep(prior)
        ray.get(self._queue.opened.remote(item.arm, [len(users) for users in fitting.blocks]))

    def _fit(self, item: WorkItem, team: Team = ALONE) -> None:
        """Fit an arm whole, or put it together from its blocks."""
        arm, shared = self._arms[item.arm], self._shared
        quiet = arm.settings.in_blocks or team.rank
        progress = _nothing if quiet else _Throttled(self._queue, item)
        mine = self._of_arm(arm, progress, _nothing if team.rank else self._say)
        run_arm(arm, self._parts(arm.fold), shared.folder, replace(mine, team=team))
        if not team.rank:
            newcomers = relative(shared, RunFolder(shared.folder).newcomers(arm.name))
            shared.keep(f"{SCORES}/{arm.scores}.parquet", newcomers, f"{METHODS}/{arm.name}")
            ray.get(self._queue.finished.remote(item))

    def _fitting(self, item: WorkItem) -> BankFitting:
        """The fan-out an item is of; the one before is let go."""
        if item.arm not in self._open:
            self._open.clear()
            arm = self._arms[item.arm]
            config: Any = arm.settings
            self._shared.fetch(f"{METHODS}/{config.init_from}")
            mine = self._of_arm(arm, _nothing, self._say)
            seen = as_seen(config, self._parts(arm.fold), mine.seed)
            self._open[item.arm] = config.begin(*to_learn(config, seen), mine)
        return self._open[item.arm]

    def _of_arm(self, arm: ArmJob, progress: Callable[..., None], say: Callable[[str], None]) -> Context:
        found = replace(self._context(progress, say), epochs=arm.epochs)
        return found if arm.seed is None else replace(found, seed=arm.seed)

    def _say(self, line: str) -> None:
        ray.get(self._queue.say.remote(line))


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
    """Reports to the queue at most four times a second."""

    def __init__(self, queue: Any, task: WorkItem) -> None:
        self._queue, self._task, self._last = queue, task, 0.0

    def __call__(self, done: int, total: int, note: str, unit: str = "steps") -> None:
        now = time.monotonic()
        if now - self._last > 0.25 or done == total:
            self._last = now
            self._queue.put.remote(self._task, done, total, note, unit)

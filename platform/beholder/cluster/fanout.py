"""Dealing out the work of a job: arms, and blocks of users where an arm trains a bank.

A board hands out what is ready, to whichever worker is free: an arm; the opening of a fan-out (its trunk is run, its
users are cut into blocks); a block; at the end the arm that puts its blocks together; and what is measured of an arm
once it is fitted. What is finished lies whole on disk, so that a job started again does only what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray

from beholder.annotations import Annotations
from beholder.methods.arm import ArmJob, as_seen, run_arm, to_learn
from beholder.methods.blocks import BankFitting
from beholder.methods.forgetting import MeasureJob, measure
from beholder.methods.method import Context

POLL_S = 0.2
"""Between two looks of a worker for whom nothing is ready."""


@dataclass(frozen=True)
class Task:
    """One thing for one worker to do. `block` counts from 0; `measure` of no arm is of the base as it is."""

    kind: Literal["arm", "open", "block", "measure"]
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

    def __init__(self, arms: list[ArmJob], measures: Sequence[MeasureJob] = ()) -> None:
        self._arms = {arm.name: arm for arm in arms}
        self._measures = [Task("measure", each.arm) for each in measures]
        self._ready = [self._first(arm) for arm in arms if arm.after not in self._arms]
        self._ready += [each for each in self._measures if each.arm not in self._arms]
        self._left = len(arms) + len(measures)
        self._blocks: dict[str, list[int]] = {}  # arm -> users of each block
        self._done: dict[str, dict[int, int]] = {}  # arm -> block -> users done
        self._open: dict[str, set[int]] = {}  # arm -> blocks not finished
        self._latest: dict[str, tuple[int, int, str, str]] = {}
        self._said: list[str] = []
        self._refusal: tuple[str, str] | None = None

    def take(self) -> Task | Literal["wait", "end"]:
        """The next thing to do."""
        if self._ready:
            return self._ready.pop(0)
        return "wait" if self._left else "end"

    def opened(self, arm: str, sizes: list[int]) -> None:
        """A fan-out's blocks, by their numbers of users."""
        self._blocks[arm], self._done[arm], self._open[arm] = sizes, {}, set(range(len(sizes)))
        self._ready = [*(Task("block", arm, block) for block in range(len(sizes))), *self._ready]

    def finished(self, task: Task) -> None:
        """What follows from a task's end."""
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

    @staticmethod
    def _first(arm: ArmJob) -> Task:
        return Task("open" if arm.settings.in_blocks else "arm", arm.name)


def work(
    board: Any,
    arms: dict[str, ArmJob],
    measures: dict[str, MeasureJob],
    parts: dict[str, Annotations],
    run_folder: Path,
    context: Callable[[Callable[..., None], Callable[[str], None]], Context],
) -> None:
    """What one worker does until nothing is left.

    Args:
        board: the `Board` actor.
        arms: all arms of the job, by name.
        measures: what is measured of forgetting, by arm.
        parts: the annotations of each part.
        run_folder: where everything is written.
        context: makes a method's context from where to tell progress and where to say things.
    """
    open_: dict[str, BankFitting] = {}  # the fan-out this worker is in

    def fitting(task: Task) -> BankFitting:
        if task.arm not in open_:
            open_.clear()
            config: Any = arms[task.arm].settings
            seen = as_seen(config, parts, context(_nothing, _nothing).seed)
            open_[task.arm] = config.begin(*to_learn(config, seen), context(_nothing, say))
        return open_[task.arm]

    def say(line: str) -> None:
        ray.get(board.say.remote(line))

    while True:
        task: Any = ray.get(board.take.remote())
        if task == "end":
            return
        if task == "wait":
            time.sleep(POLL_S)
        elif task.kind == "open":
            _ = fitting(task).outputs
            ray.get(board.opened.remote(task.arm, [len(users) for users in fitting(task).blocks]))
        elif task.kind == "block":
            fitting(task).train(task.block, _Throttled(board, task))
            ray.get(board.finished.remote(task))
        elif task.kind == "measure":
            measure(measures[task.arm], run_folder, context(_Throttled(board, task), say))
            ray.get(board.finished.remote(task))
        else:
            arm = arms[task.arm]
            progress = _nothing if arm.settings.in_blocks else _Throttled(board, task)
            run_arm(arm, parts, run_folder, context(progress, say))
            ray.get(board.finished.remote(task))


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

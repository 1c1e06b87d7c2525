"""Progress bars for those who call from Python: in a terminal or a notebook, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def columns() -> tuple[ProgressColumn, ...]:
    """What stands in a line of progress: name, bar, count, a note, time taken and left."""
    return (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


class Bars:
    """A bar for each method that is fitted, and a line for each thing to know. See `run.Reporter`.

    Args:
        progress: None shows nothing.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def say(self, line: str) -> None:
        """One finished fact."""
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False)

    def step(self, arm: str, done: int, total: int, note: str, unit: str = "steps") -> None:
        """Progress of one method."""
        if self._progress is None:
            return
        if arm not in self._tasks:
            self._tasks[arm] = self._progress.add_task(arm, total=total, note=note)
        if note == "done":
            task = next(each for each in self._progress.tasks if each.id == self._tasks[arm])
            done, total = int(task.total or 0), int(task.total or 0)
        self._progress.update(self._tasks[arm], completed=done, total=total, note=note)

    def of(self, arm: str) -> Callable[..., None]:
        """Receives the progress of one method's fit. See `context.Progress`."""

        def step(done: int, total: int, note: str, unit: str = "steps") -> None:
            self.step(arm, done, total, note, unit)

        return step


@contextmanager
def bars(shown: bool) -> Iterator[Bars]:
    """Draw bars on stderr for the time of a `with` block, if wanted and if somebody can see them."""
    console: Any = Console(stderr=True)
    if not (shown and (console.is_terminal or console.is_jupyter)):
        yield Bars()
        return
    with Progress(*columns(), console=console) as progress:
        yield Bars(progress)

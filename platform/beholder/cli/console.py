"""How runs look in a terminal: progress, tables, JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from beholder.workflows.progress import columns

if TYPE_CHECKING:
    from beholder.evaluation.run_results import (
        CellResult,
        ForgettingMeasures,
        ForgettingResult,
        MeanResult,
        MethodResult,
        NewcomerResult,
        RunResults,
    )

PIPED = 200
"""Columns of what is printed to a file or another program, where COLUMNS does not say it: names stay whole."""

console = Console(
    highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPED
)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]


def print_json(value: Any) -> None:
    """One JSON object on one line, for programs."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")


def print_rows(rows: list[dict[str, str]], as_json: bool) -> None:
    """Rows with the same keys, as a table or as JSON."""
    if as_json:
        print_json(rows)
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


class RunReporter:
    """Shows on stderr how far a run is: a bar per method in a terminal, else a plain line every few seconds."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}

    @contextmanager
    def live(self) -> Iterator[RunReporter]:
        """Draw bars for the time of a `with` block."""
        if self._quiet or not errors.is_terminal:
            yield self
            return
        with Progress(*columns(), console=errors) as progress:
            self._progress = progress
            yield self
        self._progress = None

    def say(self, line: str) -> None:
        """One finished fact."""
        if not self._quiet:
            errors.print(line, markup=False)

    def step(self, arm: str, done: int, total: int, note: str, unit: str = "steps") -> None:
        """Progress of one arm."""
        if self._quiet:
            return
        if self._progress is not None:
            if arm not in self._tasks:
                self._tasks[arm] = self._progress.add_task(arm, total=total, note=note)
            finished = note == "done"
            task = self._progress.tasks[self._tasks[arm]]
            if finished:
                self._progress.update(self._tasks[arm], completed=task.total, note=note)
            else:
                self._progress.update(self._tasks[arm], completed=done, total=total, note=note)
            return
        now = time.monotonic()
        first = self._printed.setdefault(f"{arm} began", now)
        if note == "done" or now - self._printed.get(arm, 0.0) > 10:
            self._printed[arm] = now
            rate = done / (now - first) if now > first else 0.0
            left = f", {rate:.1f} {unit}/s, {(total - done) / rate:.0f} s left" if rate else ""
            words = [note] if note == "done" else [each for each in (note, f"{done}/{total} {unit}{left}") if each]
            errors.print(f"{arm}: {', '.join(words)}", markup=False)


def facts_in_words(value: Any) -> str:
    """A fact for people: three digits of a share, `name value` of several."""
    if isinstance(value, dict):
        inner = {name: facts_in_words(each) for name, each in value.items()}
        nested = {name for name, each in value.items() if isinstance(each, dict | list)}
        return ", ".join(f"{name} ({words})" if name in nested else f"{name} {words}" for name, words in inner.items())
    if isinstance(value, list):
        return ", ".join(map(facts_in_words, value))
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def gain_table(results: RunResults) -> Table:
    """Arms x (headline, gain with both intervals, the part of it that is personal, whether it wins)."""
    from beholder.evaluation.headline import MACRO_F1
    from beholder.evaluation.intervals import in_words, percent, signed
    from beholder.evaluation.results import ROUTED

    title = (
        f"{results.experiment}: {results.rows:,} test judgements by {results.users:,} people of "
        f"{results.texts:,} texts: {results.metric};\ngain in points over {results.reference}, 95 % intervals; "
        f"personal: gain over the same with users permuted{over_trainings(results.trainings)}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("arm", overflow="fold")  # it gives way in a narrow window, and no number does
    for name in (
        "F1" if results.metric == MACRO_F1 else "score",
        "gain",
        "at large",
        "these people",
        "personal",
        "wins",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for name, method in results.methods.items():
        gain, is_reference = method.gain, name == results.reference
        no_contest = is_reference or method.control_of or name == ROUTED
        verdict = "" if no_contest else "yes" if method.wins else "no"
        table.add_row(
            name,
            percent(method.headline),
            "ref." if is_reference else signed(gain.points),
            "" if is_reference else in_words(gain.low, gain.high),
            "" if is_reference else in_words(gain.texts_low, gain.texts_high),
            personal_part(method),
            verdict,
        )
    return table


def scale_table(results: RunResults, scale: str) -> Table:
    """Arms x (mean absolute error of a scale, how much less than the reference's, and what else it is judged by)."""
    from beholder.evaluation.intervals import in_unit, percent

    table = Table(title=f"{scale}: errors in its unit, less than {results.reference}'s", title_justify="left")
    table.add_column("arm", overflow="fold")
    for name in ("MAE", "less", "at large", "these people", "kappa", "Spearman", "in 90 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, method in results.methods.items():
        of = (method.scales or {})[scale]
        ends = ((of.mae.low, of.mae.high), (of.mae.texts_low, of.mae.texts_high))
        gain = ["ref.", "", ""]
        if name != results.reference:
            gain = [in_unit(of.mae.gain), *(f"{in_unit(low)} to {in_unit(high)}" for low, high in ends)]
        rest = (in_unit(of.quadratic_kappa.value), in_unit(of.spearman.value), percent(of.interval.coverage))
        table.add_row(name, in_unit(of.mae.value), *gain, *rest)
    return table


def over_trainings(trainings: int | None) -> str:
    """How often methods were trained, for the title of a table; nothing where once."""
    return f"; means over {trainings} trainings" if trainings else ""


def personal_part(method: MethodResult) -> str:
    """What a method gains over its control, for a cell; nothing where it has none."""
    from beholder.evaluation.intervals import signed

    beyond = method.beyond_control
    return "" if beyond is None else signed(beyond.points)


def task_table(results: RunResults, tasks: Iterable[str]) -> Table:
    """Arms x tasks: headline over the labels of each task, and the gain with interval."""
    from beholder.evaluation.intervals import in_words

    title = f"per task: {results.metric}, and gain in points over {results.reference}"
    table = Table("arm", *tasks, title=title, title_justify="left")
    for name, method in results.methods.items():
        cells: list[str] = []
        for task in tasks:
            score, gain = (method.per_task or {})[task], (method.per_task_gain or {})[task]
            measured = name != results.reference and None not in (score, gain.points)
            more = f" ({gain.points:+.1f}, {in_words(gain.low, gain.high)})" if measured else ""
            cells.append("-" if score is None else f"{100 * score:.1f}{more}")
        table.add_row(name, *cells)
    return table


def forgetting_table(found: ForgettingResult) -> Table:
    """Trained arms x (perplexity of general text, macro-F1 on another task), before -> after."""
    tested = f"{found.rows['test']:,} {found.source} judgements"
    title = f"forgetting: perplexity of a general text; macro-F1 of plain prompting on {tested}; before -> after"
    table = Table("arm", title=title, title_justify="left")
    table.add_column("perplexity", justify="right")
    table.add_column("macro-F1", justify="right", no_wrap=True)

    def shown(measures: ForgettingMeasures) -> tuple[str, str]:
        score = measures.macro_f1
        return f"{measures.perplexity:.1f}", "-" if score is None else f"{100 * score:.1f}"

    before = shown(found.before)
    for name, measures in found.arms.items():
        cells = zip(before, shown(measures), strict=True)
        table.add_row(name, *(f"{one} -> {other}" for one, other in cells))
    prior = found.prior.macro_f1
    if prior is not None:
        table.add_row("base rates alone", "", f"{100 * prior:.1f}")
    return table


def newcomer_table(results: RunResults, curves: Mapping[str, Sequence[NewcomerResult]]) -> Table:
    """Arms x judgements of new people: log-loss, what it is below the global model's and below k = 0, macro-F1."""
    title = (
        f"newcomers: {results.rows:,} test judgements by {results.users:,} people nothing was fitted on, after k "
        "of their own;\nlog-loss per label in nats, and how far below (intervals: 95 %)"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("arm", overflow="fold")
    table.add_column("k", justify="right", no_wrap=True)
    table.add_column("loss", justify="right", no_wrap=True)
    table.add_column(f"below {results.reference}", justify="right", no_wrap=True)
    table.add_column("below k = 0", justify="right", no_wrap=True)
    table.add_column("F1", justify="right", no_wrap=True)
    for name, curve in curves.items():
        for place, point in enumerate(curve):
            table.add_row(
                "" if place else name,
                f"{point.k}",
                f"{point.log_loss:.3f}",
                _nats(point.gain_over_global),
                _nats(point.gain_over_zero),
                "-" if point.macro_f1 is None else f"{100 * point.macro_f1:.1f}",
            )
    return table


def _nats(gain: MeanResult | None) -> str:
    """A difference with its interval, short: +.034 +.010..+.058."""
    if gain is None:
        return ""
    value, low, high = (
        "" if each is None else f"{each:+.3f}".replace("+0.", "+.").replace("-0.", "-.")
        for each in (gain.value, gain.low, gain.high)
    )
    return f"{value} {low}..{high}" if low else value


def seen_table(reference: str, cells: Sequence[CellResult], methods: Iterable[str]) -> Table:
    """Arms x (people seen in training or new, texts seen or unseen): log-loss."""
    heads = [f"{cell.people} people, {cell.texts} texts ({cell.methods[reference][0].rows:,})" for cell in cells]
    title = "log-loss per label of judgements not learned from; new people before -> after the most judgements"
    table = Table("arm", *heads, title=title, title_justify="left")
    for name in methods:
        table.add_row(name, *(" -> ".join(f"{each.log_loss:.3f}" for each in cell.methods[name]) for cell in cells))
    return table


def print_gains(results: RunResults) -> None:
    """The table of gains and the verdict; newcomers; where there are several tasks a table of each; forgetting."""
    console.print(gain_table(results))
    for scale in results.methods[results.reference].scales or {}:
        console.print(scale_table(results, scale))
    console.print(results.verdict.sentence, markup=False)
    if results.newcomers:
        most = max(point.k or 0 for curve in results.newcomers.values() for point in curve)
        console.print(f"(Of new people, after at most {most} judgements of each.)", markup=False)
        console.print(newcomer_table(results, results.newcomers))
        console.print(seen_table(results.reference, results.seen_unseen or [], results.newcomers))
    if tasks := results.methods[results.reference].per_task:
        console.print(task_table(results, tasks))
    if results.forgetting:
        console.print(forgetting_table(results.forgetting))

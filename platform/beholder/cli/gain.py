"""`beholder gain`: predictions that were made elsewhere, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from beholder.cli.console import AsJson, console, print_json


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("gain")(gain_command)


def gain_command(
    one: Annotated[Path, typer.Argument(help="Reference predictions: CSV, TSV, Parquet, JSON lines.")],
    other: Annotated[Path, typer.Argument(help="Predictions of the same judgements, in any order.")],
    user: Annotated[str, typer.Option(help="Column of the user's id.")],
    text: Annotated[str, typer.Option(help="Column of the text, or of its id.")],
    label: Annotated[
        list[str],
        typer.Option(help="Column of the true label, 0 or 1 (with --score; several), or of the true class (one)."),
    ],
    score: Annotated[
        list[str] | None, typer.Option(help="Column of the predicted probability of each label, 0 to 1.")
    ] = None,
    prediction: Annotated[str | None, typer.Option(help="Column of the predicted class.")] = None,
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="Score from which a label is predicted: one for all labels, or one for each; default 0.5."),
    ] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="Column that identifies a judgement, where user and text do not.")
    ] = None,
    level: Annotated[float, typer.Option(help="Level of the intervals.", min=0.5, max=0.999)] = 0.95,
    as_json: AsJson = False,
) -> None:
    """How much better the predictions of OTHER are than those of ONE, and how sure that is.

    Intervals allow for rows of one user, and of one text, that depend on each other: for people at large, and for these
    people. The same judgements, labels and columns must be in both files.

    Example: beholder gain global.csv personal.csv --user annotator --text text --label angry --score p_angry
    """
    from beholder.workflows.compare_files import PredictionColumns, compare_predictions, read_predictions

    thresholds = tuple(threshold) if threshold else (0.5,)
    columns = PredictionColumns(user, text, tuple(label), tuple(score or ()), prediction, thresholds, id_)
    found = compare_predictions(*read_predictions((one, other), columns), level)
    if as_json:
        print_json({"reference": str(one), "other": str(other), **found.to_json()})
        return
    console.print(gain_table(found))
    for line in words(found, other.name, one.name):
        console.print(line, markup=False)


def gain_table(found: Any) -> Table:
    """Measures x (of the one, of the other, how much better, its two intervals)."""
    from beholder.evaluation.measures import MEASURES

    table = Table(title=f"{found.rows:,} judgements by {found.people:,} people of {found.texts:,} texts")
    table.title_justify = "left"
    table.add_column("measure")
    for name in ("one", "other", "gain", f"people at large, {100 * found.level:g} %", "these people"):
        table.add_column(name, justify="right")
    for name, each in found.measures.items():
        lower = " (lower is better)" if MEASURES[name].better == "lower" else ""
        in_nats = name == "log_loss"
        table.add_row(
            name.replace("_", " ") + lower,
            *(_shown(value, in_nats) for value in (each.reference, each.value)),
            _shown(each.gain, in_nats, "+"),
            _between(each.low, each.high, in_nats),
            _between(each.texts_low, each.texts_high, in_nats),
        )
    return table


def words(found: Any, other: str, one: str) -> list[str]:
    """What it means, a line each."""
    gain = found.gain
    if gain.points != gain.points:
        return ["macro-F1 is undefined: no label has a positive."]
    if gain.low != gain.low:
        sure = "no interval is possible with one person or one text"
    elif gain.low > 0 or gain.high < 0:
        sure = "the interval for people at large does not hold zero"
    else:
        sure = "that may be chance: the interval for people at large holds zero"
    said = "above" if gain.points >= 0 else "below"
    by = "its log-loss" if "log_loss" in found.measures else "its accuracy"
    lines = [
        f"{other} is {abs(gain.points):.1f} points of macro-F1 {said} {one}; {sure}.",
        f"Taken one by one, {by} is better for {found.users.better:,} people, worse for {found.users.worse:,}, the "
        f"same for {found.users.same:,}.",
    ]
    if found.commonest > 0.2:
        lines.append(f"note: {100 * found.commonest:.0f} % of the rows are of one text.")
    return lines


def _shown(value: float, in_nats: bool, sign: str = "") -> str:
    """Nats with three decimals; shares of 1 as percentage points with one."""
    if value != value:
        return "-"
    return f"{value:{sign}.3f}" if in_nats else f"{100 * value:{sign}.1f}"


def _between(low: float, high: float, in_nats: bool) -> str:
    return "unknown" if low != low else f"{_shown(low, in_nats, '+')} to {_shown(high, in_nats, '+')}"

"""`beholder compare`: methods of several runs side by side."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from beholder.cli.console import AsJson, console, errors, over_trainings, print_json


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("compare")(compare_command)


def compare_command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Folders, names, or beginnings of names of runs. None: the newest run and its like."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="What gains are over: an arm of the first run, or RUN:ARM.")
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV and nothing else on stdout.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page that works without a network to this file.")] = None,
) -> None:
    """Compare arms across runs on the same test rows, with p-values corrected for looking at many (Holm).

    Without RUNS: the newest run, and all others that were split alike. Runs of other data, labels or splits are
    refused; the message names the difference.

    Example: beholder compare convabuse-1a2b3c4d convabuse-5e6f7a8b --reference cls
    """
    from beholder.evaluation.compare import compare
    from beholder.methods import is_personal
    from beholder.workflows.find_runs import find_run, runs_split_alike

    if runs:
        folders = list(dict.fromkeys(find_run(run) for run in runs))
    else:
        folders, others = runs_split_alike()
        if others and not (as_json or as_csv):
            errors.print(f"{others} other run{'s' * (others > 1)} left out: another split", markup=False)
    found = compare(folders, reference, is_personal)
    if html is not None:
        from beholder.report.comparison import write_comparison

        write_comparison(html, found)
    if as_json:
        print_json(found.to_json())
    elif as_csv:
        rows = found.table()
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        console.print(comparison_table(found))
        console.print(found.verdict.sentence, markup=False)
        if html is not None:
            console.print(f"page: {html}", markup=False)


def comparison_table(found: Any) -> Table:
    """Methods of all runs x (headline, gain with intervals, the personal part of it, p-value, users better and worse).

    `found` is a `Comparison`.
    """
    from beholder.evaluation.intervals import in_words, p_in_words, percent, signed

    said = found.to_json()
    table = Table(
        title=f"{said['test_rows']:,} test judgements by {said['users']:,} people of {said['texts']:,} texts (split "
        f"{found.split[:8]}): {found.results.metric};\ngain in points over {said['reference']}, "
        f"{100 * said['level']:g} % intervals{over_trainings(said.get('trainings'))}",
        title_justify="left",
    )
    several = len({row.run for row in found.rows}) > 1
    table.add_column("run:arm" if several else "arm", overflow="fold")
    for name in (
        "F1" if "metric" not in said else "score",
        "gain",
        "at large,\nthese people",
        "personal",
        "p (Holm)",
        "users +/-",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in said["methods"]:
        gain = ["ref.", *[""] * 4]
        if f"{row['run']}:{row['arm']}" != said["reference"]:
            gain = [
                signed(row["points"]),
                f"{in_words(row['low'], row['high'])}\n{in_words(row['texts_low'], row['texts_high'])}",
                signed(row["beyond_control"]["points"]) if row["beyond_control"] else "",
                p_in_words(row["p_holm"]),
                f"{row['better']:,}/{row['worse']:,}",
            ]
        name = f"{row['run']}:{row['arm']}" if several else row["arm"]
        table.add_row(name, percent(row.get("macro_f1", row.get("score"))), *gain)
    return table

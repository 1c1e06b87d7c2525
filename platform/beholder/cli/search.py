"""`beholder search`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from beholder.cli.console import AsJson, RunReporter, console, print_json
from beholder.cli.run import ExperimentFile, OnBadRows, Overrides, _bad_rows


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("search")(search_command)


def search_command(
    experiment: ExperimentFile,
    arm: Annotated[
        str | None, typer.Option("--arm", "--method", help="The arm, a name under methods: in the file.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="How many settings to try in all; default 20.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    on_bad_rows: OnBadRows = "refuse",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Search an arm's settings on the validation rows, and write the best as an experiment file.

    The space is search: in the file, or the method's own. The same command resumes a
    search that was interrupted; with more trials it continues it.

    Example: beholder search experiments/convabuse.yaml --arm cls-u --trials 20
    """
    from beholder.experiment.config import load_experiment
    from beholder.workflows import search as tuning

    settings = load_experiment(experiment, overrides or ())
    with RunReporter(quiet).live() as reporter:
        found = tuning.search(settings, arm, reporter, trials=trials, on_bad_rows=_bad_rows(on_bad_rows))
    if as_json:
        print_json(found)
        return
    console.print(settings_table(found))
    if "front" in found:
        console.print(front_table(found))
    ends = ", ".join(f"{count} {state}" for state, count in found["states"].items() if count)
    console.print(
        f"{found['trials']} trials ({ends}). The best of many on the same validation rows is optimistic; the test rows "
        "were not read.",
        markup=False,
    )
    console.print(f"written: {found['file']}   its test score: beholder run {found['file']}", markup=False)


def settings_table(found: dict[str, Any]) -> Table:
    """Settings x (default, best)."""
    best, default = found["best"], found["default"]
    table = Table(title=f"{found['experiment']}: settings of {found['method']}", title_justify="left")
    table.add_column("setting", no_wrap=True)
    table.add_column("default", justify="right")
    table.add_column(f"best (trial {best['number']})", justify="right")
    scores = (f"{100 * each['valid_macro_f1']:.2f}" for each in (default, best))
    table.add_row("macro-F1 on validation", *scores, end_section=True)
    for name in dict.fromkeys([*default["settings"], *best["settings"]]):
        table.add_row(name, *(_short(each["settings"].get(name, "")) for each in (default, best)))
    return table


def front_table(found: dict[str, Any]) -> Table:
    """The trials that no other beats in both objectives."""
    cost = found["cost"]
    table = Table(title=f"none is better in both: macro-F1 and {cost}", title_justify="left")
    for column in ("trial", "macro-F1", cost):
        table.add_column(column, justify="right")
    table.add_column("settings")
    for trial in found["front"]:
        settings = ", ".join(f"{name} {_short(value)}" for name, value in trial["settings"].items())
        table.add_row(str(trial["number"]), f"{100 * trial['valid_macro_f1']:.2f}", _short(trial[cost]), settings)
    return table


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)

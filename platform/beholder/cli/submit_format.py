"""`beholder submit-format`: predictions in the files of a shared task."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.console import AsJson, console, print_json


class Track(StrEnum):
    """What is submitted: distributions of texts, or answers of annotators."""

    soft = "soft"
    perspectivist = "perspectivist"


class Items(StrEnum):
    """Whose predictions are wanted."""

    test = "test"
    dev = "dev"


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("submit-format")(submit_format_command)


def submit_format_command(
    run_or_model: Annotated[
        str, typer.Argument(help="A run by name or folder, or a model: models:/NAME@champion, or a saved one's folder.")
    ],
    track: Annotated[Track, typer.Option(help="Distributions of items, or answers of each annotator.")],
    out: Annotated[Path, typer.Option(help="File to write, TSV.")],
    arm: Annotated[
        str | None, typer.Option(help="Arm of the run; default: the best on validation rows, controls left out.")
    ] = None,
    part: Annotated[Items, typer.Option(help="Items to predict.")] = Items.test,
    path: Annotated[
        Path | None, typer.Option(help="Folder of the task's JSON files; default: that of the run.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="The set, as MP; default: that of the run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write predictions for the items of a LeWiDi set as the task takes them, a line for each item.

    Scores are those that the run evaluated. Items that it did not score, as a test file without annotations, are
    predicted by the fitted arm.

    Example: beholder submit-format lewidi-mp --track soft --out MP_test_soft.tsv
    """
    from beholder.workflows.submit_format import submission

    made = submission(run_or_model, track.value, arm=arm, part=part.value, path=path, data=data)
    made.write(out)
    if as_json:
        print_json(
            {"file": str(out), "items": len(made.lines), "of": str(made.items), "arm": made.arm, "track": track.value}
        )
        return
    how = "predicted now" if made.predicted else "from the scores of the run"
    console.print(f"{out}: {len(made.lines):,} items of {made.items}, {made.arm}, {how}", markup=False)

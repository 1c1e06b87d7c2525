"""`beholder refresh`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.console import RunReporter, console, print_json


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("refresh")(refresh_command)


def refresh_command(
    model: Annotated[str, typer.Argument(help="A registered model's name.")],
    annotations: Annotated[
        Path | None, typer.Option(help="A table with columns text, user_id and one of 0 and 1 for each label.")
    ] = None,
    feedback: Annotated[bool, typer.Option("--feedback", help="What users told the served model.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train users with new judgements, and publish a candidate in which only their adapters differ.

    Example: beholder refresh convabuse-minilm --annotations new.parquet
    """
    from beholder.errors import DataError
    from beholder.refresh import refresh

    if (annotations is None) != feedback:
        raise DataError("give either --annotations FILE or --feedback.")

    with RunReporter(quiet).live() as reporter:
        found = refresh(model, annotations, reporter)
    if as_json:
        print_json(found)
        return
    scores = found["valid_macro_f1"]
    measured = (
        "no validation rows to compare on"
        if scores["old"] is None or scores["new"] is None
        else f"their validation macro-F1 {100 * scores['old']:.1f} -> {100 * scores['new']:.1f}"
    )
    console.print(
        f"{model} v{found['version']} (candidate): {found['users']:,} users trained anew, "
        f"{found['shards_rewritten']:,} shards rewritten; {measured}",
        markup=False,
    )
    console.print(f"to serve it: beholder registry promote {model} {found['version']}", markup=False)

"""`beholder refresh`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    retrain_prior: Annotated[
        bool,
        typer.Option(
            "--retrain-prior",
            help="Learn the prior again from the people who are still in the champion's run, and estimate everybody "
            "given it: removes the share of erased people.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train users with new judgements, and publish a candidate in which only their adapters differ.

    Or, with --retrain-prior, learn what users have in common again and publish a candidate in which every adapter
    differs, on the same global model.

    Example: beholder refresh convabuse-minilm --annotations new.parquet
    """
    from beholder.errors import DataError
    from beholder.refresh import refresh
    from beholder.retrain import retrain

    if (annotations is not None) + feedback + retrain_prior != 1:
        raise DataError("give one of --annotations FILE, --feedback and --retrain-prior.")
    if retrain_prior:
        with RunReporter(quiet).live() as reporter:
            found = retrain(model, reporter)
        if as_json:
            print_json(found)
        else:
            print_retrained(found)
        return
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


def print_retrained(found: dict[str, Any]) -> None:
    """What came of learning a prior again."""
    model, number, prior, scores = found["model"], found["version"], found["prior"], found["valid_macro_f1"]
    measured = (
        "not compared with the champion"
        if scores["old"] is None or scores["new"] is None
        else f"validation macro-F1 {100 * scores['old']:.1f} -> {100 * scores['new']:.1f}"
    )
    console.print(
        f"{model} v{number} (candidate): prior learned again from {prior['rows']:,} judgements of {prior['people']:,} "
        f"people, {found['users']:,} users estimated given it; {measured}",
        markup=False,
    )
    if found["kept"]:
        console.print(
            f"{found['kept']:,} users keep adapters estimated with the old prior, because fewer of their judgements "
            "are here than they were estimated from",
            markup=False,
        )
    console.print(
        "the global model is unchanged: it was trained on the judgements of everybody in the run, erased people "
        "among them; only a new run of the experiment changes that",
        markup=False,
    )
    console.print(
        f"to serve it: beholder registry promote {model} {number}; older versions keep the old prior", markup=False
    )

"""`beholder refresh`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from beholder.cli.console import AsJson, RunReporter, console, print_json
from beholder.util.errors import counted


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("refresh")(refresh_command)


def refresh_command(
    model: Annotated[str, typer.Argument(help="A registered model's name.")],
    annotations: Annotated[
        Path | None, typer.Option(help="A table with columns text, user_id and one of 0 and 1 for each label.")
    ] = None,
    feedback: Annotated[
        bool, typer.Option("--feedback", help="Learn from the judgements that users gave the served model.")
    ] = False,
    retrain_prior: Annotated[
        bool,
        typer.Option(
            "--retrain-prior",
            help="Learn the prior again from the people who are still in the champion's run, and estimate everybody "
            "given it: removes the share of erased people.",
        ),
    ] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train users with new judgements, and publish a candidate in which only their adapters differ.

    Or, with --retrain-prior, learn what users have in common again and publish a candidate in which every adapter
    differs, on the same global model.

    Example: beholder refresh convabuse-minilm --annotations new.parquet
    """
    from beholder.lifecycle.refresh import refresh
    from beholder.lifecycle.retrain import retrain
    from beholder.util.errors import DataError

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
    measured = _compared(found["valid_macro_f1"], "their validation macro-F1", "no validation rows to compare on")
    console.print(
        f"{model} v{found['version']} (candidate): {counted(found['users'], 'user')} trained again, "
        f"{counted(found['shards_rewritten'], 'shard')} rewritten; {measured}",
        markup=False,
    )
    if found["kept_for_testing"]:
        console.print(
            f"{counted(found['kept_for_testing'], 'new judgement')} of texts that are kept for testing, left out",
            markup=False,
        )
    old, new = found["valid_macro_f1"]["old"], found["valid_macro_f1"]["new"]
    command = f"beholder registry promote {model} {found['version']}"
    if old is None or new is None or new < old:
        why = "nobody knows whether it is better" if old is None or new is None else "it is worse on validation"
        console.print(f"to serve it, though {why}: {command} --force", markup=False)
    else:
        console.print(f"to serve it: {command}", markup=False)


def _compared(scores: dict[str, float | None], metric: str, otherwise: str) -> str:
    """A metric of the champion and of the candidate, in words."""
    old, new = scores["old"], scores["new"]
    return otherwise if old is None or new is None else f"{metric} {100 * old:.1f} -> {100 * new:.1f}"


def print_retrained(found: dict[str, Any]) -> None:
    """What came of learning a prior again."""
    model, number, prior = found["model"], found["version"], found["prior"]
    measured = _compared(found["valid_macro_f1"], "validation macro-F1", "not compared with the champion")
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
        "among them; only a new run of the experiment changes that (beholder registry erase --retrain)",
        markup=False,
    )
    console.print(
        f"to serve it: beholder registry promote {model} {number}; older versions keep the old prior", markup=False
    )

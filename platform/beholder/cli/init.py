"""`beholder init`: from your own table to an experiment that runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from beholder.cli.console import AsJson, console, print_json
from beholder.util.errors import DataError


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("init")(init_command)


def init_command(
    table: Annotated[Path, typer.Argument(help="CSV, TSV, Parquet, JSON lines, or a saved `datasets` folder.")],
    out: Annotated[Path | None, typer.Option(help="The experiment file to write; by default the table's name.")] = None,
    text: Annotated[str | None, typer.Option(help="The column with the text.")] = None,
    user: Annotated[str | None, typer.Option(help="Column of the user's id.")] = None,
    labels: Annotated[str | None, typer.Option(help="Columns with judgements, as in rude,funny.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept the guesses without questions.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing experiment file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Describe a table of judgements, and write an experiment file that runs on it.

    Example: beholder init ratings.csv
    """
    from beholder.datasets.profile.infer_columns import GivenColumns
    from beholder.workflows.draft_experiment import ROWS, draft, write

    asked = GivenColumns(text, user, tuple(each.strip() for each in labels.split(",")) if labels else None)
    made = draft(table, asked)
    file = out or Path(f"{made.name}.yaml")
    if file.exists() and not force:
        raise DataError(f"{file}: is there already. Pass --force to write over it, or --out FILE.")
    if not as_json:
        _say(made)
    if not yes and not as_json and sys.stdin.isatty() and not typer.confirm(f"Write {file}?", default=True):
        console.print("Nothing was written. Name columns with --text, --user, --labels.")
        return
    written = write(made, file)
    if as_json:
        print_json(
            {
                "file": str(file),
                "written": [str(each) for each in written],
                "source": made.source,
                "left_out": made.left_out,
                "bad_rows": made.bad_rows,
                "words": list(made.words),
                **made.facts,
            }
        )
        return
    console.print(f"\nwritten: {', '.join(map(str, written))}   Next:", markup=False)
    if made.facts["rows"] > ROWS:
        console.print(
            f"  (the first run uses {ROWS:,} judgements; take subsample out of the file for all)", markup=False
        )
    skip = " --on-bad-rows skip" if made.bad_rows else ""
    console.print(f"  beholder run {file}{skip}", markup=False)


def _say(made: Any) -> None:
    facts, source = made.facts, made.source
    rows = facts["rows_per_user"]
    console.print(
        f"{facts['rows']:,} judgements of {facts['texts']:,} texts by {facts['users']:,} people, "
        f"{rows['min']:,} to {rows['max']:,} each (median {rows['median']:,.0f})",
        markup=False,
    )
    if made.long is not None:
        console.print("one row per text, a column for each annotator: turned to one row per judgement", markup=False)
    for role, column in (("text", source["text"]), ("user", source["user"])):
        console.print(f'  {role:<8} column "{column}"', markup=False)
    for label, share in facts["labels"].items():
        said = [f"given in {100 * share:.0f} % of the judgements" if share is not None else "never judged"]
        alpha, offset = facts["agreement"][label], facts["user_offset"][label]
        said += [f"agreement (alpha) {alpha:.2f}"] if alpha is not None else []
        said += [f"{100 * offset:.0f} % of differences are users' tendencies"] if offset is not None else []
        console.print(f'  label    "{label}"{_how(source, label)}: {", ".join(said)}', markup=False)
    for column, why in made.left_out.items():
        console.print(f'  not used "{column}": {why}', markup=False)
    if source.get("repeats"):
        console.print("  some people judged a text more than once; each judgement counts", markup=False)
    if made.bad_rows:
        console.print(
            f"  {made.bad_rows:,} rows cannot be used (nothing in them, or no label); a run puts them aside",
            markup=False,
        )
    for sentence in made.words:
        console.print(sentence, markup=False)


def _how(source: dict[str, Any], label: str) -> str:
    rule = source.get("labels", {}).get(label, {})
    if "at_least" in rule:
        low, high = rule["range"]
        return f" (from {rule['at_least']} up on the scale {low} to {high})"
    return ""

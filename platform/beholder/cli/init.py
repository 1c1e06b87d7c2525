"""`beholder init`: from your own table to an experiment that runs."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beholder.cli.console import AsJson, console, print_json
from beholder.util.errors import DataError

if TYPE_CHECKING:
    from beholder.datasets.profile.guesses import GivenColumns, UnsureError
    from beholder.workflows.draft_experiment import DraftExperiment


MANY = 6
"""Columns that are left out for one reason are printed together from this number on; --json has each."""


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("init")(init_command)


def init_command(
    tables: Annotated[
        list[str],
        typer.Argument(
            help="CSV, TSV, Parquet, JSON, .xlsx or .ods, also as .gz or .zip; a saved `datasets` folder; several "
            "files of the same columns, or a pattern; hf://owner/name; - for standard input.",
            metavar="TABLE...",
        ),
    ],
    format: Annotated[
        str, typer.Option("--format", help="The annotation tool whose export it is, as in prodigy; `table` for none.")
    ] = "auto",
    no_header: Annotated[
        bool, typer.Option("--no-header", help="The first row is data; columns are called column1, column2, ...")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The experiment file to write; by default the table's name.")] = None,
    text: Annotated[str | None, typer.Option(help="The column with the text.")] = None,
    user: Annotated[str | None, typer.Option(help="Column of the user's id.")] = None,
    labels: Annotated[str | None, typer.Option(help="Columns with judgements, as in rude,funny.")] = None,
    users: Annotated[
        str | None, typer.Option(help="Columns that are one for each person, as in Anna,Ben,Cleo.")
    ] = None,
    not_asked: Annotated[
        list[str] | None, typer.Option("--not-asked", help="A value that is no answer, as in --not-asked=-1.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="Lowest and highest step of the labels' scale, as in --scale=0..4.")
    ] = None,
    at_least: Annotated[
        float | None, typer.Option("--at-least", help="Cut every scale: a label is given from this value up.")
    ] = None,
    join_ids: Annotated[
        bool, typer.Option("--join-ids", help="Ids that differ only in case or white space are one person.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept the guesses without questions.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing experiment file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Describe a table of judgements, and write an experiment file that runs on it.

    What is not sure is a question in a terminal. With --yes, or without a terminal, it is refused, and the message
    names the option that settles it.

    Example: beholder init ratings.csv
    """
    from beholder.datasets.profile.guesses import GivenColumns
    from beholder.workflows.draft_experiment import write

    named = GivenColumns(
        text,
        user,
        _names("--labels", labels),
        _names("--users", users),
        tuple(not_asked or ()),
        _ends(scale),
        at_least,
        join_ids,
    )
    asking = not yes and not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    where = _where(tables)
    made = _drafted(where, named, asking, format, not no_header)
    file = out or Path(f"{made.name}.yaml")
    if file.exists() and not force:
        raise DataError(f"{file}: is there already. Pass --force to write over it, or --out FILE.")
    if asking:
        _describe(made)
        if not typer.confirm(f"Write {file}?", default=True):
            console.print("Nothing was written. Name columns with --text, --user, --labels, --users.")
            return
    written = write(made, file)  # before anything is printed to a reader that may stop reading
    if as_json:
        print_json(_as_json(made, file, written))
        return
    if not asking:
        _describe(made)
    _next(made, file, written)


def _names(option: str, written: str | None) -> tuple[str, ...] | None:
    if written is None:
        return None
    cells = next(csv.reader([written], skipinitialspace=True), [])  # a name with a comma in it stands in quotes
    names = [each.strip() for each in cells if each.strip()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not names or twice is not None:
        raise DataError(f"{option} {written}: {f'{twice!r} is named twice' if twice else 'name a column'}.")
    return tuple(names)


def _ends(written: str | None) -> tuple[float, float] | None:
    if written is None:
        return None
    low, dots, high = written.partition("..")
    try:
        ends = (float(low), float(high))
    except ValueError:
        ends = (0.0, 0.0)
    if not dots or ends[0] >= ends[1]:
        raise DataError(f"--scale={written}: expected its lowest and highest step, as in --scale=0..4.")
    return ends


def _where(tables: list[str]) -> str | list[str]:
    """The table, or several; what comes through standard input is kept in a file, which `run` reads again."""
    if "-" not in tables:
        return tables if len(tables) > 1 else tables[0]
    if len(tables) > 1:
        raise DataError("-: standard input is one table; give it alone.")
    from beholder.datasets.spool import spooled

    file = spooled(sys.stdin.buffer, Path())
    typer.echo(f"standard input is kept in {file}, from which it is read", err=True)
    return str(file)


def _drafted(where: str | list[str], named: GivenColumns, asking: bool, format: str, header: bool) -> DraftExperiment:
    """The experiment; in a terminal after questions about what is not sure."""
    from beholder.datasets.profile.guesses import UnsureError
    from beholder.workflows.draft_experiment import draft

    while True:
        try:
            return draft(where, named, format, header)
        except UnsureError as unsure:
            if not asking:
                raise
            named = _answered(named, unsure)


def _answered(named: GivenColumns, unsure: UnsureError) -> GivenColumns:
    """What was named, with the answer to a question."""
    console.print(str(unsure), markup=False)
    answer = typer.prompt(f"{unsure.option} (Ctrl-C to stop)", default=unsure.suggested or None)
    several = _names(unsure.option, answer) or ()
    settled: dict[str, Any] = {
        "--text": {"text": answer},
        "--user": {"user": answer},
        "--labels": {"labels": several},
        "--users": {"users": several},
        "--not-asked": {"not_asked": (*named.not_asked, answer)},
    }
    return replace(named, **settled[unsure.option])


def _as_json(made: DraftExperiment, file: Path, written: list[Path]) -> dict[str, Any]:
    return {
        "file": str(file),
        "written": [str(each) for each in written],
        "source": made.source,
        "shape": made.shape,
        "guesses": {role: asdict(guess) for role, guess in made.guesses.items()},
        "left_out": made.left_out,
        "dropped": [{"rows": count, "why": why} for why, count in made.dropped.items()],
        "notes": list(made.notes),
        "bad_rows": made.bad_rows,
        "words": list(made.words),
        **made.facts,
    }


def _describe(made: DraftExperiment) -> None:
    facts, source = made.facts, made.source
    rows = facts["rows_per_user"]
    console.print(
        f"{facts['rows']:,} judgements of {facts['texts']:,} texts by {facts['users']:,} people, "
        f"{rows['min']:,} to {rows['max']:,} each (median {rows['median']:,.0f})",
        markup=False,
    )
    if made.shape is not None:
        console.print(f"{made.shape}: turned to one judgement a row whenever the file is read", markup=False)
    for role, guess in made.guesses.items():
        if role in ("text", "user", "split"):
            sure = "" if guess.why == "named" else f" ({guess.why}; {100 * guess.sureness:.0f} % sure)"
            console.print(f'  {role:<8} column "{guess.column}"{sure}', markup=False)
    for name, share in facts["labels"].items():
        seen = [f"given in {100 * share:.0f} % of the judgements" if share is not None else "never judged"]
        console.print(
            f'  label    "{name}"{_how(source, name)}: {", ".join(_of_people(facts, name, seen))}', markup=False
        )
    for name, mean in facts.get("scales", {}).items():
        seen = [f"mean {mean:.3g}" if mean is not None else "never judged"]
        console.print(
            f'  scale    "{name}"{_how(source, name)}: {", ".join(_of_people(facts, name, seen))}', markup=False
        )
    for columns, why in _by_reason(made.left_out):
        console.print(f"  not used {columns}: {why}", markup=False)
    for why, count in made.dropped.items():
        console.print(f"  dropped  {count:,} {'row' if count == 1 else 'rows'}: {why}", markup=False)
    for line in made.notes:
        console.print(f"  note     {line}", markup=False)
    if made.bad_rows:
        console.print(
            f"  {made.bad_rows:,} rows cannot be used (nothing in them, or no label); a run puts them aside",
            markup=False,
        )
    for sentence in made.words:
        console.print(sentence, markup=False)


def _by_reason(left_out: dict[str, str]) -> list[tuple[str, str]]:
    """Columns that are left out, and why; those of one reason together where there are many, as a platform's own."""
    reasons: dict[str, list[str]] = {}
    for column, why in left_out.items():
        reasons.setdefault(why, []).append(f'"{column}"')
    return [
        (columns, why)
        for why, names in reasons.items()
        for columns in (names if len(names) < MANY else [f"{', '.join(names[:2])} and {len(names) - 2} more"])
    ]


def _of_people(facts: dict[str, Any], name: str, seen: list[str]) -> list[str]:
    """How far people agree on a label or scale, after what was seen of it."""
    alpha, offset = facts["agreement"].get(name), facts["user_offset"].get(name)
    seen += [f"agreement (alpha) {alpha:.2f}"] if alpha is not None else []
    return seen + ([f"{100 * offset:.0f} % of differences are users' tendencies"] if offset is not None else [])


def _next(made: DraftExperiment, file: Path, written: list[Path]) -> None:
    from beholder.workflows.draft_experiment import ROWS

    console.print(f"\nwritten: {', '.join(map(str, written))}   Next:", markup=False)
    if made.facts["rows"] > ROWS:
        console.print(
            f"  (the first run uses {ROWS:,} judgements; take subsample out of the file for all)", markup=False
        )
    console.print(f"  {made.command(file)}", markup=False)


def _how(source: dict[str, Any], label: str) -> str:
    rule = source.get("labels", {}).get(label, {})
    if "at_least" in rule:
        low, high = rule["range"]
        return f" (from {rule['at_least']} up on the scale {low} to {high})"
    if "steps" in rule:
        return f" ({rule['steps'][0]} to {rule['steps'][-1]}, {len(rule['steps'])} steps from 0)"
    if "range" in rule:
        low, high = rule["range"]
        return f" ({'slider, ' if rule['kind'] == 'continuous' else ''}{low} to {high})"
    return ""

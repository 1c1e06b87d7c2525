"""`beholder models`: the bases there are."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.table import Table

from beholder.cli.console import console, print_json
from beholder.errors import BaseModelError

app = typer.Typer(help="Base models: list them, fetch one from a hub.", no_args_is_help=True)


@app.command("ls")
def ls(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Known bases, and whether their weights are here."""
    from beholder.bases import KNOWN_BASES, resolve

    rows = []
    for name, description in KNOWN_BASES.items():
        try:
            resolve(name)
            here = True
        except BaseModelError:
            here = False
        rows.append({"base": name, "description": description, "here": here})
    if as_json:
        print_json(rows)
        return
    table = Table()
    for column in ("base", "description", "here"):
        table.add_column(column)
    for row in rows:
        table.add_row(row["base"], row["description"], "yes" if row["here"] else "no")
    console.print(table)
    console.print("A local folder or a hub id (owner/model) will do as well.", markup=False)


@app.command("pull")
def pull(name: Annotated[str, typer.Argument(help="A hub id, owner/model.")]) -> None:
    """Fetch a base from the hub into its cache: the one command that asks the hub."""
    os.environ["HF_HUB_OFFLINE"] = "0"
    from beholder.bases import resolve

    console.print(str(resolve(name, download=True)), markup=False)

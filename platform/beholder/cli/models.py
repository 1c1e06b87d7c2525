"""`beholder models`: the bases there are."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from beholder.cli.console import AsJson, console, print_rows
from beholder.util.errors import BaseModelError

app = typer.Typer(help="Base models: list them, fetch one from a hub.", no_args_is_help=True)


@app.command("ls")
def ls(as_json: AsJson = False) -> None:
    """Known bases, and whether their weights are here."""
    from beholder.models import KNOWN_BASES
    from beholder.models.catalog import installed
    from beholder.models.packaged import EMBEDDED
    from beholder.models.precision import FORMS

    rows = []
    for name, description in KNOWN_BASES.items():
        try:
            if name in EMBEDDED:  # tiny ones are made where they are needed
                installed(name)
            here = "yes"
        except BaseModelError:
            here = "no"
        rows.append({"base": name, "description": description, "here": here})
    print_rows(rows, as_json)
    if not as_json:
        console.print("A local folder or a hub id (owner/model) will do as well.", markup=False)
        for form, description in FORMS.items():
            console.print(f"NAME@{form:<5} {description}", markup=False)


@app.command("pull")
def pull(name: Annotated[str, typer.Argument(help="A hub id, owner/model.")]) -> None:
    """Fetch a base from the hub into its cache: the only command that contacts the hub."""
    os.environ["HF_HUB_OFFLINE"] = "0"
    from beholder.models import resolve
    from beholder.util.paths import require_home

    require_home()
    console.print(str(resolve(name, download=True)), markup=False)

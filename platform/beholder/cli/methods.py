"""`beholder methods`: the ways to predict there are."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from beholder.cli.console import console, print_json


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("methods")(methods_command)


def methods_command(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """All methods: what each does, whether it knows who reads, and the kinds of base it can work with."""
    from beholder.methods import METHODS, config_class

    rows = [
        {
            "method": name,
            "description": entry.description,
            "personal": config_class(name).personal,
            "bases": list(config_class(name).bases),
        }
        for name, entry in METHODS.items()
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("method", "who reads", "bases", "what it does")
    for row in rows:
        told = "matters" if row["personal"] else "is not asked"
        table.add_row(row["method"], told, ", ".join(row["bases"]) or "needs none", row["description"])
    console.print(table)

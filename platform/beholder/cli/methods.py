"""`beholder methods`: the ways to predict there are."""

from __future__ import annotations

import typer
from rich.table import Table

from beholder.cli.console import AsJson, console, print_json


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("methods")(methods_command)


def methods_command(as_json: AsJson = False) -> None:
    """All methods: what each does, whether it uses the user, and the kinds of base it works with."""
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
    table = Table("method", "uses the user", "bases", "what it does")
    for row in rows:
        uses_user = "yes" if row["personal"] else "no"
        table.add_row(row["method"], uses_user, ", ".join(row["bases"]) or "needs none", row["description"])
    console.print(table)

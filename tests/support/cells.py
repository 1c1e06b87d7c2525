"""Code cells, run as a notebook runs them: what the last expression of a cell gives is shown, as HTML where it can be.

Needs nothing but Python, so that it runs in an environment without test tools: a JSON list of cells on standard input,
a JSON list of what they printed and showed on standard output.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from typing import Any


def run_cell(source: str, names: dict[str, Any]) -> dict[str, str]:
    """Run a cell; returns what it `printed`, and what it `shows`: HTML, else text, else nothing.

    Args:
        source: its code.
        names: what earlier cells defined; the cell adds to it.
    """
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        shown = ast.Expression(last.value) if isinstance(last, ast.Expr) else None
        value = eval(compile(shown, "cell", "eval"), names) if shown else None
    html = getattr(value, "_repr_html_", lambda: None)()
    return {"printed": printed.getvalue(), "shows": html or ("" if value is None else repr(value))}


if __name__ == "__main__":
    known: dict[str, Any] = {}
    json.dump([run_cell(cell, known) for cell in json.load(sys.stdin)], sys.stdout)

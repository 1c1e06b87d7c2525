"""The first lines of Python anybody reads run: those of README, of the package itself, and of the notebook."""

from __future__ import annotations

import ast
import json
import re

import pytest
from printed import ROOT

import beholder

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def first_python(text: str) -> str | None:
    found = re.search(r"^```python\n(.*?)^```", text, re.M | re.S)
    return found[1] if found else None


def run_cell(source: str, names: dict) -> None:
    """Run a cell as a notebook does: what its last expression gives is shown."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        shown = value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)
        assert shown


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEHOLDER_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("where", ["README.md", "beholder"])
def test_the_first_lines_run(where, nowhere, capsys):
    text = beholder.__doc__ if where == "beholder" else (ROOT / where).read_text(encoding="utf-8")
    lines = first_python(text or "")
    assert lines is not None
    exec(compile(lines, where, "exec"), {})
    assert "cls-u" in capsys.readouterr().out
    assert not (nowhere / "home" / "runs").exists()


def test_the_notebook_is_one_and_holds_no_output():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CELLS)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", each) for each in ids)


def test_the_notebook_runs_from_top_to_bottom(nowhere):
    names: dict = {}
    for cell in CELLS:
        run_cell("".join(cell["source"]), names)

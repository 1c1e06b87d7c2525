"""The first lines of Python anybody reads run: those of README, of the package itself, and of the notebook."""

from __future__ import annotations

import json
import re

import pytest
from cells import run_cell
from first_lines import NOTEBOOK, cells, check_gains, check_notebook, check_readme, first_python
from printed import ROOT

import beholder

pytestmark = pytest.mark.long


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BEHOLDER_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("where", ["README.md", "beholder"])
def test_the_first_lines_run(where, nowhere):
    text = (beholder.__doc__ or "") if where == "beholder" else (ROOT / where).read_text(encoding="utf-8")
    found = run_cell(first_python(text), {})
    if where == "beholder":  # predicts nothing
        check_gains(found["printed"])
    else:
        check_readme(found)
    assert not (nowhere / "home" / "runs").exists()


def test_the_notebook_is_one_and_holds_no_output():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", each) for each in ids)


def test_the_notebook_runs_from_top_to_bottom(nowhere):
    names: dict = {}
    check_notebook({name: run_cell(source, names) for name, source in cells().items()})

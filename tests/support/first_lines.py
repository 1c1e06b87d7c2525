"""The first lines of Python anybody reads, those of README and of the notebook, and what they have to show."""

from __future__ import annotations

import json
import re

from printed import ROOT

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
METHOD = re.compile(r"^(cls|cls-u) +(\d+\.\d) +(ref\.|[+-]\d+\.\d)", re.M)


def first_python(text: str) -> str:
    """The first block of Python in Markdown."""
    found = re.search(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert found, "no block of Python"
    return found[1]


def cells() -> dict[str, str]:
    """The notebook's code, by the ids of its cells, in their order."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return {each["id"]: "".join(each["source"]) for each in notebook["cells"] if each["cell_type"] == "code"}


def check_gains(printed: str) -> None:
    """A table with the global model and the personal one; the gain is the difference of their scores."""
    rows = {name: (float(score), gain) for name, score, gain in METHOD.findall(printed)}
    assert set(rows) == {"cls", "cls-u"} and rows["cls"][1] == "ref.", printed
    assert all(10 < score < 100 for score, _ in rows.values()), printed
    assert abs(rows["cls-u"][0] - rows["cls"][0] - float(rows["cls-u"][1])) < 0.11, printed
    assert "ersonalisation pays" in printed


def check_readme(found: dict[str, str]) -> None:
    """What README's lines print and show, as `cells.run_cell` returns it."""
    check_gains(found["printed"])
    assert "<td>reader1</td>" in found["shows"] and "<td>cls-u</td>" in found["shows"]


def check_notebook(found: dict[str, dict[str, str]]) -> None:
    """What the notebook's cells print and show, by their ids: tables, and that a saved model predicts the same."""
    shows = {name: each["shows"] for name, each in found.items()}
    assert {name for name, shown in shows.items() if "<table" not in shown} == {"save"}
    assert "1,200 judgements" in shows["load"] and "split" in shows["split"] and "tiny-bert" in shows["fit"]
    scores = dict(re.findall(r"<tr><td>([\w~-]+)</td><td>(\d+\.\d)</td>", shows["evaluate"]))
    assert set(scores) == {"cls", "cls-u", "cls-u~shuffled-users"}
    assert all(10 < float(score) < 100 for score in scores.values())
    assert "ersonalisation pays" in shows["evaluate"]
    assert "somebody new" in shows["predict"] and "reader01" in shows["perspectives"] and "rude" in shows["own"]
    assert "True" in found["save"]["printed"] and "False" not in found["save"]["printed"]

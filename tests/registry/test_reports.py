"""A run's report: complete, equal to what is printed, without names where none belong, and gone with the user."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape

import pytest
from house import settings
from typer.testing import CliRunner
from worlds import home_with_a_run

from beholder.cli.main import app
from beholder.erasure import erase_everywhere
from beholder.report.page import NAMED, NAMELESS
from beholder.tracking import client

pytestmark = pytest.mark.slow
CURVE = [5, 20]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A home with one run whose report has everything, and what the run found."""
    folder = tmp_path_factory.mktemp("reported")
    bank = {"epochs": 10, "step_size": 0.3, "prior": {"rank": 2, "steps": 10}, "block_users": 8}
    methods = {
        "user-prior": {},
        "cls": {"epochs": 1, "max_tokens": 48},
        "cls-u": {"from": "cls", "controls": ["shuffled-users"], "curve": CURVE, "bank": bank},
    }
    written = settings(users=14, methods=methods)
    written["evaluate"]["bootstrap"] = 100
    with home_with_a_run(folder, written) as outcome:
        yield folder, outcome


@pytest.fixture
def home(reported, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(reported[0]))
    return reported


def said(*arguments):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_the_page_says_what_compare_says(home):
    _, outcome = home
    page = (outcome.run_folder / NAMED).read_text()
    compared = json.loads(said("compare", outcome.run_folder.name, "--json"))
    results = json.loads(said("report", outcome.run_folder.name, "--json"))
    rows = re.findall(r"<tr(?: class=\"control\")?><td>([^<]+)</td><td>([\d.]+)</td>\s*<td[^>]*>([^<]+)</td>", page)
    assert [name for name, *_ in rows][: len(compared["methods"])] == list(results["methods"])
    for method in compared["methods"]:
        shown = next((f1, gain) for name, f1, gain in rows if name == method["arm"])
        gain = "reference" if method["p"] is None else f"{method['points']:+.1f}"
        assert shown == (f"{100 * method['macro_f1']:.1f}", gain)
        assert results["methods"][method["arm"]]["gain"]["points"] == pytest.approx(method["points"])
        assert results["methods"][method["arm"]]["gain"]["p"] == method["p"]


def test_it_is_one_file_with_every_panel_drawn(home):
    _, outcome = home
    page = (outcome.run_folder / NAMED).read_text()
    assert not re.search(r'(?:src|href)="(?!#|data:)', page) and "url(http" not in page  # nothing is fetched
    figures = re.findall(r"<figure aria-label=\"([^\"]+)\">(.*?)</figure>", page, re.S)
    assert len(figures) == 10
    for title, drawn in figures:
        assert title and drawn.count("<path") + drawn.count("<use") > 10, title
    assert outcome.results["verdict"]["sentence"] in unescape(page)
    assert "whoever knew each reader" in page.replace("\n", " ")
    assert f"{outcome.results['data']['fingerprint'][:16]}" in page


def test_the_learning_curve_is_of_the_users_own_rows(home):
    _, outcome = home
    points = outcome.results["curves"]["cls-u"]
    assert [point["rows"] for point in points] == [0, *CURVE, None]
    assert points[0]["points"] == 0  # cls is the reference
    assert points[-1]["points"] == outcome.results["methods"]["cls-u"]["gain"]["points"]
    assert set(outcome.results["methods"]) == {"user-prior", "cls", "cls-u", "cls-u~shuffled-users", "routed"}
    kept = {file.name for file in (outcome.run_folder / "methods" / "cls-u~5-rows").iterdir()}
    assert kept == {"done.json"}


def test_the_one_without_names_has_none_and_is_what_mlflow_gets(home):
    _, outcome = home
    nameless = (outcome.run_folder / NAMELESS).read_text()
    users = sorted(set(outcome.test.user_ids))
    assert users[0] in (outcome.run_folder / NAMED).read_text()
    assert not [user for user in users if user in nameless]
    texts = {text for text in outcome.test.texts if len(text) > 20}
    assert not [text for text in texts if text in nameless]
    artifacts = client().list_artifacts(outcome.results["mlflow"]["run_id"], "report")
    assert [each.path for each in artifacts] == [f"report/{NAMELESS}"]


def test_who_is_erased_is_in_no_report(home, tmp_path, monkeypatch):
    folder, outcome = home
    shutil.copytree(folder, tmp_path / "home")
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "home"))
    run = tmp_path / "home" / "runs" / outcome.run_folder.name
    page = (run / NAMED).read_text()
    user = next(user for user in sorted(set(outcome.test.user_ids)) if user in page)
    erase_everywhere(user)
    assert user not in (run / NAMED).read_text()


def test_a_run_that_did_not_end_has_no_report(home, tmp_path, monkeypatch):
    _, outcome = home
    shutil.copytree(outcome.run_folder, tmp_path / "runs" / "broken")
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path))
    (tmp_path / "runs" / "broken" / "results.json").unlink()
    for command in ("report", "compare"):
        done = CliRunner().invoke(app, [command, "broken"])
        assert done.exit_code == 2 and "Run" in done.stderr and done.stderr.count("\n") == 1

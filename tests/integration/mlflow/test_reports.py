"""A run's report: complete, equal to what is printed, without names where none belong, and gone with the user."""

from __future__ import annotations

import io
import json
import re
import shutil
from html import unescape

import pytest
from house import settings
from rich.console import Console
from typer.testing import CliRunner
from worlds import home_with_a_run

from beholder.cli.console import gain_table
from beholder.cli.main import app
from beholder.evaluation.run_results import RunResults
from beholder.lifecycle.erase import erase_everywhere
from beholder.report import groups
from beholder.report.page import NAMED, NAMELESS
from beholder.tracking.client import client

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
        "cls-u": {"init_from": "cls", "controls": ["shuffled-users"], "curve": CURVE, "bank": bank},
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


def cells_of(page: str, head: str, by: str = "arm") -> dict[str, dict[str, str]]:
    """Rows of the first table of a page that has a column `head`, by the column `by`: column -> what is shown."""
    for table in re.findall(r"<table>.*?</table>", page, re.S):
        heads, *rows = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in table.split("<tr")[1:])
        if head in heads:
            shown = [dict(zip(heads, map(unescape, row), strict=True)) for row in rows]
            return {row[by]: row for row in shown}
    raise AssertionError(f"no table has a column {head}")


def interval(gain: dict, ends: str = "") -> str:
    return f"{gain[f'{ends}low']:+.1f} to {gain[f'{ends}high']:+.1f}"


def test_report_compare_mlflow_console_and_json_say_the_same(home, tmp_path):
    """One measurement, five places: both intervals, the verdict, how many people and texts, the personal part."""
    _, outcome = home
    run = outcome.run_folder.name
    found = json.loads(said("report", run, "--json"))
    compared = json.loads(said("compare", run, "--html", tmp_path / "compared.html", "--json"))
    assert found["methods"] == json.loads((outcome.run_folder / "results.json").read_text())["methods"]
    tracked = client()
    parent = tracked.get_run(outcome.results.mlflow.run_id)
    children = tracked.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'", max_results=100
    )
    metrics = {child.data.tags["mlflow.runName"]: child.data.metrics for child in children}
    report, beside = (file.read_text() for file in (outcome.run_folder / NAMED, tmp_path / "compared.html"))
    page, other, by_measure = (
        cells_of(report, "beyond control"),
        cells_of(beside, "p (Holm)"),
        cells_of(report, "AUROC"),
    )
    written = io.StringIO()
    Console(file=written, width=160).print(gain_table(RunResults.from_json(found)))
    lines = [re.split(r" *│ *", line.strip("│ ")) for line in written.getvalue().splitlines() if "│" in line]
    printed = {row[0]: [*row, ""] for row in lines}
    assert len(found["methods"]) == len(compared["methods"]) == len(metrics) == 5
    for row in compared["methods"]:
        name = row["arm"]
        method, logged = found["methods"][name], metrics[name]
        gain, beyond = method["gain"], method["beyond_control"]
        assert {key: row[key] for key in gain} == gain
        assert (row["macro_f1"], row["beyond_control"], row["measures"]) == (
            method["macro_f1"],
            beyond,
            method["measures"],
        )
        assert (logged["macro_f1"], logged["gain_points"]) == (method["macro_f1"], gain["points"])
        assert (logged["gain_low"], logged["gain_high"]) == (gain["low"], gain["high"])
        assert (logged["gain_low_these_people"], logged["gain_high_these_people"]) == (
            gain["texts_low"],
            gain["texts_high"],
        )
        for measure, each in method["measures"].items():
            assert measure == "macro_f1" or (logged[measure], logged[f"{measure}_gain_low"]) == (
                each["value"],
                each["low"],
            )
        assert by_measure[name]["AUROC"] == f"{100 * method['measures']['auroc']['value']:.1f}"
        assert by_measure[name]["log-loss"] == f"{method['measures']['log_loss']['value']:.3f}"
        f1 = f"{100 * method['macro_f1']:.1f}"
        assert page[name]["macro-F1"] == other[name]["macro-F1"] == printed[name][1] == f1
        if name == found["reference"]:
            continue
        points = f"{gain['points']:+.1f}"
        assert page[name]["gain"] == other[name]["gain"] == printed[name][2] == points
        assert page[name]["people at large"] == other[name]["people at large"] == printed[name][3] == interval(gain)
        these = interval(gain, "texts_")
        assert page[name]["these people"] == other[name]["these people"] == printed[name][4] == these
        assert page[name]["better for"] == other[name]["better for"] == f"{method['users']['better']}"
        personal = "" if beyond is None else f"{beyond['points']:+.1f}"
        assert printed[name][5] == personal
        assert logged.get("gain_beyond_control") == (beyond and beyond["points"])
        assert logged.get("gain_beyond_control_low") == (beyond and beyond["low"])
        shown = beyond and f"{personal} ({interval(beyond)})"
        assert page[name]["beyond control"] == other[name]["beyond control"] == (shown or "")
    sentence = found["verdict"]["sentence"]
    assert sentence in unescape(report) and sentence in parent.data.tags["mlflow.note.content"]
    assert compared["verdict"]["answer"] == found["verdict"]["answer"] == parent.data.tags["verdict"]
    assert compared["verdict"]["sentence"] in unescape(beside)
    seen = f"{found['rows']} test judgements by {found['users']} people of {found['texts']} texts"
    assert seen in beside
    assert f"{found['rows']} test rows by {found['users']} people of {found['texts']} texts" in report
    assert (compared["test_rows"], compared["users"], compared["texts"]) == tuple(
        found[key] for key in ("rows", "users", "texts")
    )
    assert tuple(parent.data.metrics[key] for key in ("test_judgements", "people", "texts")) == tuple(
        found[key] for key in ("rows", "users", "texts")
    )


def test_groups_on_the_page_are_those_of_the_json(home, monkeypatch):
    _, outcome = home
    monkeypatch.setattr(groups, "FEWEST_ROWS", 5)  # there are few rows here
    found = json.loads(said("report", outcome.run_folder.name, "--json"))
    page, method = (outcome.run_folder / NAMED).read_text(), found["verdict"]["arm"]
    levels = [name for _, name in groups.LEVELS]
    assert found["groups"] and all(len(by["groups"]) > 1 for by in found["groups"])
    names = [group["name"] for group in found["groups"][0]["groups"]]
    assert found["groups"][0]["column"] == groups.AGREEMENT and names == sorted(names, key=levels.index)
    for by in found["groups"]:
        shown = cells_of(page, by["column"], by["column"])
        assert set(shown) == {group["name"] for group in by["groups"]}
        for group in by["groups"]:
            row = shown[group["name"]]
            assert row["judgements"] == f"{group['rows']:,}" and row["people"] == f"{group['users']:,}"
            assert row[found["reference"]] == f"{100 * group['reference']:.1f}"
            assert row[method] == f"{100 * group['score']:.1f}"
            assert row["gain"] == f"{group['points']:+.1f}" and row["interval"] == interval(group)
        assert (
            f"largest gap of macro-F1: {by['gap']:.1f} points, under {found['reference']} {by['reference_gap']:.1f}"
            in page
        )


def test_it_is_one_file_with_every_panel_drawn(home):
    _, outcome = home
    page = (outcome.run_folder / NAMED).read_text()
    assert not re.search(r'(?:src|href)="(?!#|data:)', page) and "url(http" not in page  # nothing is fetched
    figures = re.findall(r"<figure aria-label=\"([^\"]+)\">(.*?)</figure>", page, re.S)
    assert len(figures) == 10
    for title, drawn in figures:
        assert title and drawn.count("<path") + drawn.count("<use") > 10, title
    assert outcome.results.verdict.sentence in unescape(page)
    assert "the oracle, which knows every reader" in page.replace("\n", " ")
    assert f"{outcome.results.data.fingerprint[:16]}" in page


def test_the_learning_curve_is_of_the_users_own_rows(home):
    _, outcome = home
    points = outcome.results.curves["cls-u"]
    assert [point.rows for point in points] == [0, *CURVE, None]
    assert points[0].points == 0  # cls is the reference
    assert points[-1].points == outcome.results.methods["cls-u"].gain.points
    assert set(outcome.results.methods) == {"user-prior", "cls", "cls-u", "cls-u~shuffled-users", "routed"}
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
    artifacts = client().list_artifacts(outcome.results.mlflow.run_id, "report")
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

"""Graded judgements all the way: trained on, measured, tracked, registered, served, enrolled, refreshed, exported."""

from __future__ import annotations

import asyncio
import csv

import httpx
import numpy as np
import pytest
from graded import WORDS, graded_settings, graded_table
from house import MODEL, said
from inside import server
from typer.testing import CliRunner
from worlds import home_with_a_run

import beholder as bh
from beholder.cli.main import app
from beholder.evaluation.intervals import in_unit


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    table = graded_table(folder / "graded.csv")
    with home_with_a_run(folder, graded_settings(table)) as outcome:
        yield folder, outcome


@pytest.fixture
def outcome(ran, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(ran[0]))
    return ran[1]


def ask(app, method, path, **more):
    async def once():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, path, **more)

    return asyncio.run(once())


def test_numbers_are_the_same_wherever_they_are_shown(ran, outcome):
    from mlflow import MlflowClient

    results = outcome.results
    own, reference = results.methods["cls-u"], results.methods["cls"]
    assert results.metric == "F1 and scale accuracy" and own.macro_f1 is None
    assert own.score == pytest.approx(np.mean(list(own.per_label.values())))
    assert set(own.scales) == {"angry", "how", "slider"} and set(own.per_label) == {*own.scales, "rude"}
    angry = own.scales["angry"]
    assert own.per_label["angry"] == pytest.approx(1 - angry.mae.value / 4)
    assert angry.mae.gain == pytest.approx(reference.scales["angry"].mae.value - angry.mae.value)
    assert own.gain.points == pytest.approx(100 * (own.score - reference.score))
    page = (outcome.run_folder / "report.html").read_text(encoding="utf-8")
    assert "On the scale angry" in page and f"{100 * own.score:.1f}" in page and "angry (1 to 5)" in page
    assert f"<td>cls-u</td><td>{in_unit(angry.mae.value)}</td>" in page
    done = CliRunner().invoke(app, ["report", outcome.run_folder.name], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.stderr
    client = MlflowClient()
    runs = [
        client.get_run(each.info.run_id)
        for each in client.search_runs(
            [each.experiment_id for each in client.search_experiments()], "tags.mlflow.parentRunId != ''"
        )
    ]
    logged = next(run.data.metrics for run in runs if run.info.run_name == "cls-u")
    assert logged["score"] == pytest.approx(own.score) and logged["mae.angry"] == pytest.approx(angry.mae.value)
    assert logged["mae_gain_low.angry"] == pytest.approx(angry.mae.low)
    assert logged["coverage.slider"] == pytest.approx(own.scales["slider"].interval.coverage)
    compared = said("compare", outcome.run_folder.name)
    row = next(each for each in compared["methods"] if each["arm"] == "cls-u")
    assert row["score"] == pytest.approx(own.score) and row["points"] == pytest.approx(own.gain.points)
    assert compared["metric"] == results.metric


def test_it_learns_how_each_reader_uses_a_scale(outcome):
    model = bh.load_model(f"models:/{MODEL}@champion")
    assert model.task.scales[0].points == (1.0, 2.0, 3.0, 4.0, 5.0)
    texts = list(outcome.test.distinct_texts[0][:20])
    scores = model.perspectives(texts, [f"reader{each}" for each in range(6)]).scores
    means = model.task.scales[0].mean(scores[..., :4]).mean(axis=0)  # [users]
    assert means[-1] - means[0] > 0.3, means


def test_a_server_answers_on_the_scale_and_takes_answers_on_it(outcome):
    served, _ = server(MODEL)
    described = ask(served, "GET", "/v1/model").json()
    assert [scale["name"] for scale in described["scales"]] == ["angry", "how", "slider"]
    assert described["scales"][1]["words"] == list(WORDS)
    text = str(outcome.test.texts[0])
    answer = ask(served, "POST", "/v1/predict", json={"user_id": "reader5", "text": text}).json()["predictions"][0]
    angry = answer["scales"]["angry"]
    assert 1 <= angry["low"] <= angry["median"] <= angry["high"] <= 5
    assert angry["value"] == pytest.approx(np.dot(range(1, 6), angry["probabilities"]), abs=1e-5)
    assert sum(angry["probabilities"]) == pytest.approx(1) and len(angry["probabilities"]) == 5
    all_readers = ask(served, "POST", "/v1/perspectives", json={"text": text}).json()
    assert [spread["name"] for spread in all_readers["scales"]] == ["angry", "how", "slider"]
    assert len(all_readers["readers"][0]["values"]) == 3 and sum(all_readers["scales"][0]["histogram"]) == 6
    place = "/v1/users/newcomer/annotations"
    texts = [str(each) for each in outcome.test.distinct_texts[0][:8]]
    given = [{"text": each, "scales": {"angry": 5, "slider": 97.5}, "labels": {"rude": True}} for each in texts]
    stored = ask(served, "PUT", place, json={"judgements": given})
    assert stored.status_code == 200 and stored.json()["total"] == 8
    for wrong, message in (
        ({"scales": {"angry": 7}}, "7 is not on the scale 'angry', 1 to 5"),
        ({"scales": {"angry": 2.5}}, "2.5 is not on the scale 'angry'"),
        ({"scales": {"angri": 2}}, "unknown scale 'angri'"),
        ({"labels": {"angry": True}}, "'angry' is a scale"),
        ({"labels": {"angry>=3": True}}, "unknown label"),
        ({}, "at least one label or scale"),
    ):
        refused = ask(served, "PUT", place, json={"judgements": [{"text": "a", **wrong}]})
        assert refused.status_code in (400, 422) and message in refused.text, (wrong, refused.text)
    enrolled = ask(served, "POST", "/v1/users/newcomer/enrol")
    assert enrolled.status_code == 200, enrolled.text
    mine = ask(served, "POST", "/v1/predict", json={"user_id": "newcomer", "text": text}).json()["predictions"][0]
    other = ask(served, "POST", "/v1/predict", json={"user_id": "reader0", "text": text}).json()["predictions"][0]
    if enrolled.json()["helped"]:
        assert mine["scales"]["angry"]["value"] > other["scales"]["angry"]["value"]


def test_a_refresh_reads_answers_of_a_table(outcome, tmp_path):
    table = tmp_path / "new.csv"
    texts = [str(each) for each in outcome.test.distinct_texts[0][:9]]
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "user_id", "angry", "how", "slider", "rude"])
        for number, text in enumerate(texts):
            writer.writerow(
                [f"{text} again {number}", "reader9", 1 + number % 5, WORDS[number % 3], 10 * number, number % 2]
            )
    found = said("refresh", MODEL, "--annotations", table)
    assert (found["users"], found["rows"]["train"] + found["rows"]["valid"] > 0) == (1, True), found

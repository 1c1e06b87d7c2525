"""A run that trains every method several times: each training is a run of its own, and everything reports the means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from house import settings
from mlflow import MlflowClient
from typer.testing import CliRunner
from worlds import home_with_a_run

from beholder.cli.main import app
from beholder.evaluation.compare import compare
from beholder.evaluation.saved_run import recompute
from beholder.evaluation.scores_io import read_scores
from beholder.experiment.config import make_experiment
from beholder.registry.bundle import open_bundle
from beholder.workflows import run as pipeline

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
SEED, SEEDS = 42, 2


def written(**more) -> dict:
    made = settings(**{"evaluate": {"reference": "cls", "seeds": SEEDS}, "name": "again", "seed": SEED, **more})
    made["methods"] = {"prior": {}, **made["methods"]}
    made["methods"]["cls-u"] = {**made["methods"]["cls-u"], "controls": ["shuffled-users"], "curve": [5]}
    return made


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with home_with_a_run(folder, written()) as outcome:
        yield folder, outcome


@pytest.fixture
def outcome(ran, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(ran[0]))
    return ran[1]


def test_every_training_is_a_run_under_its_seed(outcome, tmp_path, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path))
    alone = written(seed=SEED + 1, evaluate={"reference": "cls"})
    del alone["register"]
    alone = pipeline.run(make_experiment(alone))
    for name in ("prior", "cls", "cls-u", "cls-u~shuffled-users", "cls-u~5-rows", "routed"):
        here = read_scores(outcome.run_folder / "scores" / f"{name}.parquet").arm.trainings[1]
        there = read_scores(alone.run_folder / "scores" / f"{name}.parquet").arm
        np.testing.assert_allclose(here.test_scores, there.test_scores, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(here.valid_scores, there.valid_scores, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(here.thresholds, there.thresholds)
    first = read_scores(outcome.run_folder / "scores" / "cls-u.parquet").arm
    assert np.abs(first.test_scores - first.repeats[0].test_scores).max() > 0.001  # they are two


def test_report_comparison_mlflow_console_and_json_say_the_same(outcome):
    found = json.loads(json.dumps(outcome.results.to_json()))
    assert found["seeds"] == [SEED, SEED + 1] and found["trainings"] == SEEDS
    again = recompute(outcome.run_folder).to_json()
    compared = compare([outcome.run_folder]).to_json()
    assert compared["trainings"] == SEEDS
    rows = {row["arm"]: row for row in compared["methods"]}
    tracker = MlflowClient(found["mlflow"]["uri"])
    experiment = tracker.get_experiment_by_name("again")
    logged = {run.info.run_name: run.data.metrics for run in tracker.search_runs([experiment.experiment_id])}
    for name, method in found["methods"].items():
        assert np.mean(method["macro_f1_of_trainings"]) == pytest.approx(method["macro_f1"])
        assert again["methods"][name] == method
        assert rows[name]["macro_f1"] == method["macro_f1"] and rows[name]["measures"] == method["measures"]
        assert (rows[name]["low"], rows[name]["high"]) == (method["gain"]["low"], method["gain"]["high"])
        if name in logged:
            assert logged[name]["macro_f1"] == pytest.approx(method["macro_f1"])
    assert "cls-u" in logged
    page = (outcome.run_folder / "report.html").read_text()
    assert "42, 43; scores and gains are means over 2 trainings" in page
    said = CliRunner().invoke(app, ["report", "again"])
    assert "means over 2 trainings" in said.output


def test_what_is_served_is_the_first_training(outcome):
    bundle = open_bundle(outcome.run_folder / "bundle")
    file = read_scores(outcome.run_folder / "scores" / "routed.parquet")
    test = outcome.test
    scores = bundle.predict(list(test.texts), list(test.user_ids)).scores
    np.testing.assert_allclose(scores, file.arm.test_scores, atol=1e-5)
    assert bundle.manifest["seed"] == SEED


def test_run_again_nothing_is_trained_again(outcome):
    lines: list[str] = []

    class Heard(pipeline.Silent):
        def say(self, line):
            lines.append(line)

    again = pipeline.run(make_experiment(written()), Heard())
    assert again.results.methods == outcome.results.methods
    assert len([line for line in lines if "kept" in line]) == 5 * SEEDS


def test_with_folds_every_fold_is_trained_as_often(tmp_path, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path))
    made = written(evaluate={"reference": "cls", "folds": 3, "seeds": 2})
    made["methods"] = {"prior": {}, "cls": made["methods"]["cls"]}
    del made["register"]
    outcome = pipeline.run(make_experiment(made))
    arm = read_scores(outcome.run_folder / "scores" / "cls.parquet").arm
    assert len(arm.trainings) == 2 and arm.repeats[0].thresholds.shape[0] == 3
    assert len(arm.test_scores) == len(arm.repeats[0].test_scores) == outcome.results.rows == 360
    assert {each.name for each in (outcome.run_folder / "methods").iterdir()} >= {"cls@1", "cls@seed-43@3", "cls"}


def test_an_erased_person_is_in_no_training(ran, outcome):
    user = sorted(set(outcome.test.user_ids))[0]
    answer = CliRunner().invoke(app, ["registry", "erase", "--user", user, "--json"])
    assert answer.exit_code == 0, answer.output
    for file in Path(ran[0]).rglob("*.parquet"):
        assert user.encode() not in file.read_bytes(), file.name
    assert len(read_scores(outcome.run_folder / "scores" / "cls-u.parquet").arm.trainings) == SEEDS

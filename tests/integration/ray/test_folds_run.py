"""A run with folds, for real: its scores are those of runs of their own, and what is served has learned from all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from house import settings
from typer.testing import CliRunner
from worlds import home_with_a_run

from beholder.cli.main import app
from beholder.cluster.config import Cluster
from beholder.cluster.runtime import cpus_each, side_by_side
from beholder.cluster.trainer import FitJob
from beholder.data.annotations import Annotations
from beholder.data.folds import parts_of
from beholder.evaluation.compare import compare
from beholder.evaluation.saved_run import recompute
from beholder.evaluation.scores_io import read_scores
from beholder.execution.arm import ArmJob
from beholder.experiment.config import make_experiment
from beholder.methods.base import load_fitted
from beholder.models.model_ref import ModelRef
from beholder.registry.bundle import open_bundle
from beholder.util.errors import ExperimentError
from beholder.workflows import run as pipeline
from beholder.workflows.cross_fitting import refitted

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
FOLDS = 3


def written(**more) -> dict:
    made = settings(evaluate={"reference": "cls", "folds": FOLDS}, name="folded", **more)
    made["methods"] = {"prior": {}, **made["methods"]}
    made.setdefault("cluster", {"workers": 0})
    made["methods"]["cls-u"] = {**made["methods"]["cls-u"], "controls": ["shuffled-users"], "curve": [5]}
    return made


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with home_with_a_run(folder, written(cluster={})) as outcome:
        yield folder, outcome


@pytest.fixture
def outcome(ran, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(ran[0]))
    return ran[1]


def rows_of(outcome) -> Annotations:
    return Annotations.read_parquet(outcome.run_folder / "annotations.parquet")


def test_every_judgement_has_one_score_by_a_model_that_never_saw_its_text(outcome):
    rows, arms = rows_of(outcome), outcome.results.to_json()["methods"]
    assert set(arms) == {"prior", "cls", "cls-u", "cls-u~shuffled-users", "routed"}
    for name in (*arms, "cls-u~5-rows"):
        file = read_scores(outcome.run_folder / "scores" / f"{name}.parquet")
        judged = list(zip(file.test.text_ids, file.test.user_ids, strict=True))
        assert len(set(judged)) == len(judged) == len(rows) == outcome.results.rows
        assert file.arm.test_fold is not None
        for fold in range(FOLDS):
            learned = {key for part in ("train", "valid") for key in parts_of(rows, fold)[part].text_keys}
            assert not learned & set(file.test.texts[file.arm.test_fold == fold])


@pytest.mark.parametrize("arm", ["cls", "cls-u"])
def test_a_folds_scores_are_those_of_the_model_it_fitted(outcome, arm):
    file = read_scores(outcome.run_folder / "scores" / f"{arm}.parquet")
    for fold in range(FOLDS):
        fitted = load_fitted(outcome.run_folder / "methods" / f"{arm}@{fold + 1}", "tiny-bert")
        test = parts_of(rows_of(outcome), fold)["test"]
        scores = fitted.score(list(test.texts), list(test.user_ids))
        np.testing.assert_allclose(file.arm.test_scores[file.arm.test_fold == fold], scores, atol=1e-5)
        np.testing.assert_array_equal(file.arm.thresholds[fold], fitted.thresholds)


def nodes(monkeypatch, *each) -> None:
    alive = [{"Alive": True, "Resources": {"memory": 64e9, **resources}} for resources in each]
    monkeypatch.setattr(ray, "nodes", lambda: [*alive, {"Alive": False, "Resources": {"CPU": 99, "memory": 1e12}}])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": sum(one.get("GPU", 0) for one in each)})


@pytest.mark.parametrize(
    ("there", "fits", "cluster", "memory", "workers", "cpus"),
    [
        ([{"CPU": 2}], 1, {}, 1e9, 1, 2),
        ([{"CPU": 2}], 5, {}, 1e9, 2, 1),
        ([{"CPU": 16}], 5, {}, 1e9, 5, 3),
        ([{"CPU": 16}], 5, {}, 30e9, 2, 8),
        ([{"CPU": 16}], 5, {}, 90e9, 1, 16),
        ([{"CPU": 8}, {"CPU": 8}], 5, {}, 1e9, 5, 2),  # 3 CPUs each would leave room for 4
        ([{"CPU": 8}, {"CPU": 8}], 3, {}, 1e9, 3, 4),
        ([{"CPU": 4}] * 4, 9, {"cpus_per_worker": 3}, 1e9, 4, 3),
        ([{"CPU": 4, "GPU": 1}], 5, {"gpus_per_worker": 0.2}, 1e9, 4, 1),
        ([{"CPU": 16, "GPU": 2}], 5, {"gpus_per_worker": 0.6}, 1e9, 2, 8),
        ([{"CPU": 16, "GPU": 2}], 5, {"use_gpu": False}, 1e9, 5, 3),
        ([{"CPU": 4}], 5, {"use_gpu": True}, 1e9, 1, 4),  # the node with a GPU is still to come
        ([{}], 5, {}, 1e9, 1, 1),
    ],
)
def test_there_is_a_worker_for_each_fold_as_long_as_nodes_have_room(
    there, fits, cluster, memory, workers, cpus, monkeypatch
):
    nodes(monkeypatch, *there)
    asked = Cluster(**cluster)
    assert side_by_side(fits, asked, memory) == workers
    assert cpus_each(workers, asked.cpus_per_worker) == cpus


def test_an_endpoint_is_asked_by_one_worker():
    written = {"endpoint": "http://127.0.0.1:9/v1", "model": "m"}
    assert FitJob("", (), ModelRef.of(written).to_json(), 0, Cluster(), fits=5).side_by_side == 1
    assert FitJob("", (), "tiny-bert", 0, Cluster(), fits=5).side_by_side == 5


def test_folds_of_earlier_versions_noted_their_course_alone(outcome, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(outcome.run_folder / "methods", folder / "methods")
    jobs = [ArmJob("cls", {}, None, "key"), ArmJob("prior", {}, None, "key")]
    found = refitted(jobs, {"cls", "prior"}, FOLDS, folder)
    for file in folder.rglob("done.json"):
        noted = json.loads(file.read_text())
        del noted["training"]["epochs"]
        file.write_text(json.dumps(noted))
    assert refitted(jobs, {"cls", "prior"}, FOLDS, folder) == found
    assert [job.epochs for job in found] == [found[0].epochs, None] and found[0].epochs


def test_a_fold_is_a_run_of_its_own(outcome, tmp_path, monkeypatch):
    """The same scores where a column of a table says what the fold does; in one process, where folds had two."""
    fold = 1
    table = rows_of(outcome)
    used = [{"l": "train", "v": "valid", "t": "test"}[letters[fold]] for letters in table.column("fold_uses")]
    made = written(split={"by": "column", "column": "split"})
    del made["register"]
    made["evaluate"] = {"reference": "cls"}
    labels = list(table.task.labels)
    file = tmp_path / "rows.parquet"
    keys = {"text_id": "text_id", "user": "user_id", "repeats": "keep", "split_column": "split"}
    made["source"] = {"name": "table", "path": str(file), "labels": labels, **keys}
    columns = {name: [int(value) for value in table.labels[:, place]] for place, name in enumerate(labels)}
    ids = {"text": table.texts.tolist(), "text_id": table.text_ids.tolist(), "user_id": table.user_ids.tolist()}
    pq.write_table(pa.table({**ids, **columns, "split": used}), file)
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "home"))
    alone = pipeline.run(make_experiment(made))
    for name in ("cls", "cls-u", "cls-u~shuffled-users", "cls-u~5-rows"):
        here = read_scores(outcome.run_folder / "scores" / f"{name}.parquet").arm
        there = read_scores(alone.run_folder / "scores" / f"{name}.parquet").arm
        np.testing.assert_allclose(here.test_scores[here.test_fold == fold], there.test_scores, atol=1e-6)
        np.testing.assert_array_equal(here.thresholds[fold], there.thresholds)


def test_what_is_served_has_learned_from_every_judgement_and_says_so(outcome):
    rows = rows_of(outcome)
    assert set(rows.column("part")) == {"train", "valid"}
    bundle = open_bundle(outcome.run_folder / "bundle")
    assert bundle.manifest["folds"] == FOLDS
    assert bundle.manifest["evaluation"]["macro_f1"] == outcome.results.methods["routed"].macro_f1
    saved = read_scores(outcome.run_folder / "scores" / "cls@all.parquet")
    valid = parts_of(rows)["valid"]
    routes = bundle.predict(list(valid.texts), list(valid.user_ids))
    of_all = [row for row, route in enumerate(routes.routes) if route == "cls"]
    np.testing.assert_allclose(routes.scores[of_all], saved.arm.test_scores[of_all], atol=1e-5)
    assert {"cls-u"} & set(routes.routes)
    assert not (outcome.run_folder / "methods" / "prior").exists()  # nobody is served it


def test_what_is_served_was_trained_for_as_long_as_folds_found_best(outcome):
    def training(name: str) -> dict:
        return json.loads((outcome.run_folder / "methods" / name / "done.json").read_text())["training"]

    best = []
    for fold in range(FOLDS):
        found = training(f"cls@{fold + 1}")
        best.append(max(found["history"], key=lambda epoch: (epoch["valid_macro_f1"], -epoch["epoch"]))["epoch"])
        assert found["epochs"] == best[-1]
    served = training("cls")
    assert served["epochs"] == len(served["history"]) == sorted(best)[FOLDS // 2]


def test_results_report_and_comparison_say_the_same(outcome):
    found = json.loads(json.dumps(outcome.results.to_json()))
    each = found["split"]["folds"]
    assert len(each) == FOLDS and sum(fold["test"] for fold in each) == found["rows"]
    again = recompute(outcome.run_folder).to_json()
    compared = {row["arm"]: row for row in compare([outcome.run_folder]).to_json()["methods"]}
    for name, method in found["methods"].items():
        assert again["methods"][name]["gain"] == method["gain"]
        assert again["methods"][name]["valid_macro_f1"] == method["valid_macro_f1"]
        assert compared[name]["macro_f1"] == method["macro_f1"]
        assert compared[name]["measures"] == method["measures"]
    page = (outcome.run_folder / "report.html").read_text()
    assert f"{FOLDS} folds; each judgement is tested once" in page


def test_run_again_nothing_is_fitted_again(outcome):
    lines: list[str] = []

    class Heard(pipeline.Silent):
        def say(self, line):
            lines.append(line)

    again = pipeline.run(make_experiment(written()), Heard())
    assert again.results.methods == outcome.results.methods
    kept = [line for line in lines if "kept" in line]
    assert len(kept) == 5 * FOLDS + 2  # arms and a point of a curve in each fold, and the two that are served


def test_an_erased_person_is_in_no_fold(ran, outcome):
    user = sorted(set(outcome.test.user_ids))[0]
    answer = CliRunner().invoke(app, ["registry", "erase", "--user", user, "--json"])
    assert answer.exit_code == 0, answer.output
    for file in Path(ran[0]).rglob("*.parquet"):
        assert user.encode() not in file.read_bytes(), file.name
    assert len(recompute(outcome.run_folder).test.labels) == len(rows_of(outcome))


def test_what_is_measured_of_one_model_is_not_measured_of_folds():
    forgetting = {"source": {"name": "simulated", "texts": "templates"}}
    with pytest.raises(ExperimentError, match="forgetting: it is measured on one model, not on folds"):
        make_experiment(written(forgetting=forgetting))

"""The whole way through on a real Ray and a real MLflow: run, resume, report, refuse."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from experiments import EXPERIMENTS, SHORT
from needs import missing
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.experiment.config import make_experiment
from beholder.registry import versions as registry
from beholder.registry.bundle import open_bundle, verify
from beholder.util.errors import BeholderError, ClusterError, RegistryError
from beholder.workflows import run as pipeline
from beholder.workflows.find_runs import find_run
from beholder.workflows.run_report import redraw_report

pytestmark = pytest.mark.cluster
ARMS = {"prior", "user-prior", "cls", "cls-p", "cls-p~shuffled-users", "cls-u", "cls-u~shuffled-users"}


def small(**more) -> dict:
    return {
        "name": "small",
        "source": {"name": "simulated", "texts": "templates", "users": 6, "rows_per_user": 60, "distinct_texts": 90},
        "base": "tiny-bert",
        "methods": {
            "prior": {},
            "user-prior": {},
            "cls": {"epochs": 1, "max_tokens": 48},
            "cls-p": {"extends": "cls", "controls": ["shuffled-users"]},
            "cls-u": {"init_from": "cls", "bank": {"epochs": 3, "block_users": 4}, "controls": ["shuffled-users"]},
        },
        "evaluate": {"reference": "cls"},
        "register": {"name": "small-model"},
        **more,
    }


class Heard:
    def __init__(self):
        self.lines, self.steps = [], []

    def say(self, line):
        self.lines.append(line)

    def step(self, arm, done, total, note, unit="steps"):
        self.steps.append((arm, done, total, note, unit))


def finished_run() -> dict:
    """`small`, of readers so different that their own adapters win."""
    settings = small(source={**small()["source"], "effect": 4.0, "noise": 0.0})
    settings["methods"]["cls-u"]["bank"] = {
        "top_layers": 1,
        "epochs": 10,
        "step_size": 0.3,
        "prior": {"rank": 2, "steps": 10},
        "block_users": 4,
    }
    return settings


@pytest.fixture(scope="module")
def first(tmp_path_factory, ray_once):
    """A run that several tests look at: its home folder, its outcome, what was heard of it."""
    folder, heard = tmp_path_factory.mktemp("home"), Heard()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)  # where MLflow left the store of a test before
        yield folder, pipeline.run(make_experiment(finished_run()), heard), heard


@pytest.fixture
def finished(first, monkeypatch):
    """The outcome of the first run, in its home folder."""
    monkeypatch.setenv("BEHOLDER_HOME", str(first[0]))
    return first[1]


def test_a_run_trains_measures_tracks_registers_and_resumes(first, finished):
    from mlflow import MlflowClient

    heard, results = first[2], finished.results.to_json()
    assert set(results["methods"]) == {*ARMS, "routed"}
    for method in results["methods"].values():
        assert 0 <= method["macro_f1"] <= 1
        assert method["gain"].keys() >= {"points", "relative", "headroom", "low", "high"}
        assert set(method["per_label"]) == set(results["data"]["labels"])
        assert method["seconds"] > 0 or method["method"] == "routed"
    assert results["methods"]["cls"]["gain"]["points"] == 0
    assert {arm for arm, *_ in heard.steps} == ARMS
    assert not (finished.run_folder / "unfinished").exists()  # nothing more to go on from
    json.dumps(results)

    # MLflow: one finished parent, one finished child per method, comparable by metrics and parameters.
    tracker = MlflowClient(results["mlflow"]["uri"])
    experiment = tracker.get_experiment_by_name("small")
    runs = {run.info.run_name: run for run in tracker.search_runs([experiment.experiment_id])}
    assert set(runs) >= {finished.run_folder.name, *results["methods"]}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    child = runs["cls-p"]
    assert child.data.metrics["macro_f1"] == pytest.approx(results["methods"]["cls-p"]["macro_f1"])
    assert child.data.params["epochs"] == "1" and child.data.tags["split_hash"] == results["split"]["hash"]
    artifacts = {item.path for item in tracker.list_artifacts(results["mlflow"]["run_id"])}
    assert artifacts >= {"figures", "models", "experiment"} and "scores" not in artifacts

    # The champion, read back from the registry, scores as it did when it was evaluated.
    version = registry.find("small-model")
    assert version.number == 1 and set(version.aliases) == {"champion", "candidate"}
    bundle = registry.open_version(version)
    test = finished.test
    again = bundle.predict(list(test.texts), list(test.user_ids))
    from beholder.evaluation.scores_io import read_scores

    saved = read_scores(finished.run_folder / "scores" / f"{results['registered']['best']}.parquet").arm
    np.testing.assert_allclose(again.scores, saved.test_scores, atol=1e-5)
    assert bundle.predict(["hello"], ["a stranger"]).routes == [results["registered"]["global"]]

    # Run again: nothing is trained, nothing is registered twice; a change trains only what it touches.
    heard = Heard()
    same = pipeline.run(make_experiment(finished_run()), heard)
    assert not heard.steps and same.results.registered.version == 1
    assert same.results.methods == finished.results.methods
    shutil.rmtree(finished.run_folder / "methods" / "cls")
    heard = Heard()
    refitted = pipeline.run(make_experiment(finished_run()), heard).results.to_json()
    assert {arm for arm, *_ in heard.steps} == {"cls"}
    assert refitted["methods"]["cls"]["macro_f1"] == results["methods"]["cls"]["macro_f1"]
    assert refitted["methods"]["cls-u"] == results["methods"]["cls-u"]

    # Report recomputes the same numbers from the saved scores alone.
    shutil.rmtree(finished.run_folder / "figures")
    recomputed = redraw_report(find_run("small")).to_json()
    assert recomputed["methods"] == refitted["methods"]
    assert list((finished.run_folder / "figures").glob("*.png"))
    users = pq.read_table(finished.run_folder / "users.parquet")
    assert users["user_id"].to_pylist() == finished.test.users
    assert {"rows", "macro_f1.cls-p", "gain_points.cls-p"} <= set(users.column_names)


def test_a_user_of_the_champion_is_exported_for_plain_peft(first, finished, tmp_path):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    assert finished.results.registered.best == "cls-u"
    index = pq.read_table(finished.run_folder / "bundle" / "personal" / "bank" / "index.parquet").to_pandas()
    user = index[index.status == "own"].user_id.iloc[0]

    folder = tmp_path / "exported"
    command = ("registry", "export", "small-model", "--user", user, "--format", "peft", "--to", folder)
    done = called(*command, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(folder) and user not in done.stdout + done.stderr
    about = json.loads((folder / "beholder.json").read_text())
    head = load_file(str(folder / "head.safetensors"))
    base = first[0] / "bases" / "tiny-bert"
    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(folder)).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = list(finished.test.texts[:5])
    expected = finished.bundle.predict(texts, [user] * 5)
    assert set(expected.routes) == {"cls-u"}
    for text, scores in zip(texts, expected.scores, strict=True):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=about["max_tokens"])
        with torch.no_grad():
            hidden = plain(**inputs).last_hidden_state[0]
        said = torch.sigmoid(head["weight"] @ hidden.mean(dim=0) + head["bias"])
        np.testing.assert_allclose(said, scores, atol=1e-5)

    for wrong, message in (
        (command, "there is something already"),
        ((*command[:4], "nobody", "--to", tmp_path / "b"), "no adapter"),
        ((*command[:6], "gguf"), "unknown format 'gguf'"),
    ):
        refused = called(*wrong)
        assert refused.exit_code == 2 and message in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "b").exists()


def test_a_worse_version_and_another_split_are_not_promoted_unless_forced(finished):
    champion, run_id = registry.find("small-model"), finished.results.mlflow.run_id
    bundle = finished.run_folder / "bundle"
    assert registry.publish("contest", bundle, run_id, champion.tags, "").number == 1
    registry.promote("contest", 1)
    worse = {"methods": {"prior": {}}, "evaluate": {"reference": "prior"}}
    heard = Heard()
    second = pipeline.run(make_experiment({**finished_run(), **worse, "register": {"name": "contest"}}), heard)
    assert second.results.registered.aliases == ["candidate"]
    assert any("not promoted" in line and "worse on validation" in line for line in heard.lines)
    registry.publish("contest", bundle, run_id, {**champion.tags, "split_hash": "another"}, "")
    with pytest.raises(RegistryError, match="different splits"):
        registry.promote("contest", 3)
    assert registry.find("contest").number == 1
    registry.promote("contest", 2, force=True)
    assert registry.find("contest").number == 2


def test_a_damaged_bundle_is_named_and_never_opened(finished, tmp_path):
    folder = shutil.copytree(finished.run_folder / "bundle", tmp_path / "bundle")
    verify(folder)
    file = folder / "global" / "classifier.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b" ")
    with pytest.raises(RegistryError, match=r"classifier\.json: altered"):
        open_bundle(folder)
    file.unlink()
    with pytest.raises(RegistryError, match=r"classifier\.json: missing"):
        open_bundle(folder)
    file.write_bytes(whole)
    manifest = json.loads((folder / "beholder.json").read_text())
    (folder / "beholder.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(RegistryError, match="newer"):
        open_bundle(folder)
    (folder / "beholder.json").write_text(json.dumps({**manifest, "base": {**manifest["base"], "checksum": "0"}}))
    with pytest.raises(RegistryError, match="another base"):
        open_bundle(folder)


def test_what_was_forgotten_and_in_which_words_was_asked_are_on_record(home, ray_once):
    from mlflow import MlflowClient

    few = {**small()["source"], "users": 4, "rows_per_user": 25, "distinct_texts": 50}
    settings = small(
        source=few,
        base="tiny-llama",
        methods={
            "query": {},
            "lm": {"epochs": 1, "prompt": {"wording": "brief"}},
            "cls": {"epochs": 1, "max_tokens": 48},
        },
        forgetting={"source": {**few, "seed": 9}, "rows": 12},
    )
    del settings["register"]
    heard = Heard()
    outcome = pipeline.run(make_experiment(settings), heard)
    found = outcome.results.to_json()["forgetting"]
    assert set(found["arms"]) == {"lm", "cls"} and found["rows"] == {"valid": 12, "test": 12}
    assert all(measures["perplexity"] > 1 for measures in (found["before"], *found["arms"].values()))
    assert found["arms"]["lm"]["perplexity"] != found["before"]["perplexity"]
    assert {"forgetting, base", "forgetting, lm", "forgetting, cls"} <= {arm for arm, *_ in heard.steps}
    assert "base rates alone" in called("report", "small").stdout

    tracker = MlflowClient(outcome.results.mlflow.uri)
    experiment = tracker.get_experiment_by_name("small")
    runs = {run.info.run_name: run.data for run in tracker.search_runs([experiment.experiment_id])}
    for arm in ("lm", "cls"):
        assert runs[arm].metrics["forgetting.perplexity"] == pytest.approx(found["arms"][arm]["perplexity"])
        assert "forgetting.macro_f1" in runs[arm].metrics
    assert runs["query"].tags["prompt"] == "wording-plain" and runs["lm"].tags["prompt"] == "wording-brief"
    assert tracker.get_prompt_version("wording-brief", int(runs["lm"].tags["prompt_version"])) is not None
    assert "prompt" not in runs["cls"].tags


def test_a_failing_method_is_one_error_and_finished_ones_are_kept(home, ray_once):
    broken = small()
    broken["methods"]["cls"] = {"epochs": 1, "max_tokens": 48, "lora": {"targets": ["nowhere"]}}
    with pytest.raises(BeholderError, match="targets does not fit") as refused:
        pipeline.run(make_experiment(broken))
    assert not isinstance(refused.value, ClusterError)
    run = next((home / "runs").iterdir())
    assert (run / "methods" / "user-prior" / "done.json").exists()
    assert not (run / "results.json").exists() and not (home / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        pytest.param("brighter", ["subsample.rows=1500", SHORT], marks=pytest.mark.slow),
        pytest.param("rottger", ["subsample.rows=2000", SHORT], marks=pytest.mark.slow),
        pytest.param("convabuse", ["subsample.rows=1500", SHORT], marks=pytest.mark.slow),
        pytest.param("babe", ["subsample.rows=1500", SHORT], marks=pytest.mark.slow),
        pytest.param("hatexplain", ["subsample.rows=1500", SHORT], marks=pytest.mark.slow),
        pytest.param("multitask", ["subsample.rows=2500"], marks=pytest.mark.slow),
        ("simulated", ["source.users=8", "source.rows_per_user=60", SHORT]),
    ],
)
def test_the_experiments_that_ship_run_to_the_end(name, more, ray_once):
    from beholder.datasets import locate
    from beholder.experiment.config import load_experiment

    short = ["methods.cls.epochs=1", "methods.cls-u.bank.epochs=2", "base=tiny-bert"]
    short += [] if name == "simulated" else ["cluster.workers=0"]  # others show that Ray Train does the same
    experiment = load_experiment(EXPERIMENTS / f"{name}.yaml", [*more, *short])
    tasks = getattr(experiment.source, "sources", {})
    for data in [*tasks] or [name]:
        if name != "simulated" and locate(data) is None:
            missing("data", data)
    results = pipeline.run(experiment).results.to_json()
    arms = {arm.name for arm in experiment.arms}
    assert set(results["methods"]) - {"routed"} == arms >= {"prior", "user-prior", "cls", "cls-u"}
    assert all(set(method.get("per_task", {})) == set(tasks) for method in results["methods"].values())
    assert results["registered"]["version"] == 1


def called(*arguments) -> Result:
    """The command line, in this process and on its Ray."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])

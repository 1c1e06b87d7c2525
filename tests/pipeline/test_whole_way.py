"""The whole way through on a real Ray and a real MLflow: run, resume, report, refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result
from needs import missing
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.evaluation.saved_run import read_results
from beholder.experiment.config import make_experiment
from beholder.registry import versions as registry
from beholder.registry.bundle import open_bundle, verify
from beholder.util.errors import BeholderError, ClusterError, RegistryError
from beholder.workflows import run as pipeline
from beholder.workflows.find_runs import find_run

pytestmark = pytest.mark.cluster
EXPERIMENTS = Path(__file__).parents[2] / "experiments"
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
            "cls-u": {"from": "cls", "bank": {"epochs": 3, "block_users": 4}, "controls": ["shuffled-users"]},
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


@pytest.fixture(scope="module")
def ray_once():
    """One Ray for the module: each run joins it instead of starting its own."""
    from beholder.cluster.runtime import on_ray

    with on_ray():
        yield


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

    heard, results = first[2], finished.results
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
    assert not heard.steps and same.results["registered"]["version"] == 1
    assert same.results["methods"] == results["methods"]
    shutil.rmtree(finished.run_folder / "methods" / "cls")
    heard = Heard()
    refitted = pipeline.run(make_experiment(finished_run()), heard).results
    assert {arm for arm, *_ in heard.steps} == {"cls"}
    assert refitted["methods"]["cls"]["macro_f1"] == results["methods"]["cls"]["macro_f1"]
    assert refitted["methods"]["cls-u"] == results["methods"]["cls-u"]

    # Report recomputes the same numbers from the saved scores alone.
    shutil.rmtree(finished.run_folder / "figures")
    recomputed = pipeline.draw_report(find_run("small"), read_results(find_run("small")))
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

    assert finished.results["registered"]["best"] == "cls-u"
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
    champion, run_id = registry.find("small-model"), finished.results["mlflow"]["run_id"]
    bundle = finished.run_folder / "bundle"
    assert registry.publish("contest", bundle, run_id, champion.tags, "").number == 1
    registry.promote("contest", 1)
    worse = {"methods": {"prior": {}}, "evaluate": {"reference": "prior"}}
    heard = Heard()
    second = pipeline.run(make_experiment({**finished_run(), **worse, "register": {"name": "contest"}}), heard)
    assert second.results["registered"]["aliases"] == ["candidate"]
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
    found = outcome.results["forgetting"]
    assert set(found["arms"]) == {"lm", "cls"} and found["rows"] == {"valid": 12, "test": 12}
    assert all(measures["perplexity"] > 1 for measures in (found["before"], *found["arms"].values()))
    assert found["arms"]["lm"]["perplexity"] != found["before"]["perplexity"]
    assert {"forgetting, base", "forgetting, lm", "forgetting, cls"} <= {arm for arm, *_ in heard.steps}
    assert "base rates alone" in called("report", "small").stdout

    tracker = MlflowClient(outcome.results["mlflow"]["uri"])
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


SHORT = "methods.cls-u.curve=[5]"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("brighter", ["limits.rows=1500", SHORT]),
        ("rottger", ["limits.rows=2000", SHORT]),
        ("convabuse", ["limits.rows=1500", SHORT]),
        ("babe", ["limits.rows=1500", SHORT]),
        ("hatexplain", ["limits.rows=1500", SHORT]),
        ("multitask", ["limits.rows=2500"]),
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
    results = pipeline.run(experiment).results
    arms = {arm.name for arm in experiment.arms}
    assert set(results["methods"]) - {"routed"} == arms >= {"prior", "user-prior", "cls", "cls-u"}
    assert all(set(method.get("per_task", {})) == set(tasks) for method in results["methods"].values())
    assert results["registered"]["version"] == 1


def called(*arguments) -> Result:
    """The command line, in this process and on its Ray."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def beholder(*arguments, cwd) -> subprocess.CompletedProcess:
    """The command line, as a process of its own."""
    command = [sys.executable, "-m", "beholder.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def write_table(file: Path, rows=240) -> None:
    rng = np.random.default_rng(0)
    words = ["great", "awful", "fine", "rude", "kind", "slow"]
    lines = ["text,user_id,rude"]
    for i in range(rows):
        text = f"{words[i % 6]} service number {i % 60}"
        user = (i // 60) % 4
        lines.append(f"{text},{user},{int(rng.random() < (0.8 if i % 6 in (1, 3) else 0.1 + 0.1 * user))}")
    file.write_text("\n".join(lines) + "\n")


def test_your_own_table_from_the_command_line_with_a_bad_row_kept_aside(tmp_path):
    write_table(tmp_path / "mine.csv")
    with (tmp_path / "mine.csv").open("a") as stream:
        stream.write("odd,9,maybe\n")
    sets = ["source.path=mine.csv", "base=tiny-bert", "methods.cls.epochs=1", "methods.cls-p.epochs=1"]
    flags = [part for each in sets for part in ("--set", each)]
    done = beholder("run", EXPERIMENTS / "table.yaml", *flags, "--on-bad-rows", "skip", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["methods"]["cls-p"]["gain"].keys() >= {"points", "low", "high"}
    assert results["data"]["users"] == 4 and results["data"]["refused_rows"] == 1
    assert "maybe" in (tmp_path / "mine.csv.refused.csv").read_text()
    assert json.loads(called("registry", "ls", "--json").stdout)[0]["aliases"] == ["candidate", "champion"]
    report = called("report", "table")
    assert report.exit_code == 0 and "cls-p~shuffled-users" in report.stdout


BAD_TABLES = {
    "missing file": (None, [], "no such file"),
    "missing column": ("texts,user_id,rude\na,1,0\n", [], "text"),
    "null": ("text,user_id,rude\nhello,1,0\n,2,1\n", [], "row 2"),
    "label out of range": ("text,user_id,rude\nhello,1,0\nbye,2,3\n", [], "row 2"),
    "word as label": ("text,user_id,rude\nhello,1,maybe\n", [], '"maybe" is not a label'),
    "duplicate": ("text,user_id,rude\nhello,1,0\nhello,1,1\n", [], "row 2"),
    "not UTF-8": (b"text,user_id,rude\nh\xe9llo,1,0\n", [], "UTF-8"),
    "empty split": ("text,user_id,rude\nhello,1,1\n", [], "no rows are left for"),
    "no positive": ("".join(["text,user_id,rude\n", *(f"t{i},1,0\n" for i in range(99))]), [], "no positive"),
    "unknown base": ("text,user_id,rude\nhello,1,1\n", ["base=minilm"], "Did you mean 'minilm-l6'"),
    "unknown key": ("text,user_id,rude\nhello,1,1\n", ["source.txt=a"], "Did you mean 'text'"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_input_is_one_line_and_leaves_nothing_behind(case, tmp_path, monkeypatch):
    content, sets, message = BAD_TABLES[case]
    file = tmp_path / "mine.csv"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    flags = [part for each in (f"source.path={file}", *sets) for part in ("--set", each)]
    monkeypatch.chdir(tmp_path)
    done = called("run", EXPERIMENTS / "table.yaml", *flags)
    assert done.exit_code == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], done.stderr
    assert not done.stdout and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("runs")) and not list(tmp_path.rglob("mlflow.db"))


def test_a_truncated_parquet_file_is_one_line(tmp_path):
    import pandas as pd

    file = tmp_path / "mine.parquet"
    pd.DataFrame({"text": ["a", "b"], "user_id": ["1", "2"], "rude": [0, 1]}).to_parquet(file)
    file.write_bytes(file.read_bytes()[:-20])
    done = beholder("run", EXPERIMENTS / "table.yaml", "--set", f"source.path={file}", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "mine.parquet" in done.stderr


def test_doctor_reports_what_is_here():
    done = called("doctor", "--json")
    facts = json.loads(done.stdout)
    assert facts["packages"]["ray"].startswith("2.") and facts["ray"]["auth mode"] == "disabled"
    assert facts["mlflow"]["state"] == "reachable" and facts["machine"]["free disk, GB"] > 0
    assert facts.keys() >= {"home", "data", "bases", "problems"}
    assert done.exit_code == (1 if facts["problems"] else 0)


def test_without_data_the_demo_says_so_and_simulates(tmp_path, monkeypatch, ray_once):
    monkeypatch.setenv("BEHOLDER_DATA", "")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    short = {
        "base": "tiny-bert",
        "source": {"name": "simulated", "texts": "templates", "users": 8, "rows_per_user": 60},
    }
    file = tmp_path / "experiments" / "demo" / "simulated.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **short}))
    sets = ["--set", "methods.cls.epochs=1", "--set", SHORT]
    done = called("demo", *sets)
    assert done.exit_code == 0, done.stderr
    assert "simulated population" in done.stderr
    for expected in ("macro-F1", "registered: simulated-minilm v1", "A held-out text", "beholder ui", "beholder serve"):
        assert expected in done.stdout

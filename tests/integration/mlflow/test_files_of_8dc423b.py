"""Files that commit 8dc423b wrote open with this code and predict the same: see tests/data/8dc423b/README.md."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sqlite3
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from house import said
from inside import server
from project import ROOT

from beholder.experiment.config import load_experiment
from beholder.methods import load_fitted
from beholder.registry import versions as registry
from beholder.tracking.client import client

FOLDER = ROOT / "tests" / "data" / "8dc423b"
RUNS = ("classifiers", "full", "writers", "prompts", "tasks", "classes")
VERSIONS = ("classifiers/1", "classifiers/2", "full/1", "writers/1")
SAME = ("method", "control_of", "macro_f1", "valid_macro_f1", "per_label", "subset_accuracy", "ece", "seconds")
"""What is reported of an arm as it was. Intervals, and what follows from them, come from another method now."""
TOLERANCE, STEEP = 1e-6, 1e-4
"""Of scores on another machine, whose last bits differ; `query` multiplies differences by a slope fitted to them."""


def _make() -> Any:
    described = importlib.util.spec_from_file_location("make_8dc423b", FOLDER / "make.py")
    assert described is not None and described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


make = _make()


@pytest.fixture(scope="module")
def machine():
    threads = torch.get_num_threads()
    yield make.machine()
    torch.set_num_threads(threads)


@pytest.fixture
def old(tmp_path, monkeypatch, machine):
    """The files, unpacked and set as the home folder; `alike` compares scores, to the bit where this machine can."""
    with tarfile.open(FOLDER / "files.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    home = tmp_path / "home"
    move(home / "mlflow.db", str(make.HOME), str(home))
    monkeypatch.setenv("BEHOLDER_HOME", str(home))
    monkeypatch.setenv("BEHOLDER_STORE", str(home / "store"))
    about = json.loads((home / "reference.json").read_text())

    def alike(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
        if machine == about["machine"]:
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)

    with np.load(home / "reference.npz") as arrays:
        numbers = dict(arrays)
    return SimpleNamespace(home=home, about=about, numbers=numbers, alike=alike)


def move(database: Path, before: str, after: str) -> None:
    """Replace a folder wherever it is named: MLflow keeps absolute places of artifacts."""
    with sqlite3.connect(database) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                    connection.execute(
                        f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)',
                        (before, after, before),
                    )


@pytest.mark.parametrize("run", RUNS)
def test_every_fitted_method_scores_as_it_did(old, run):
    of_run = old.about["runs"][run]
    tolerance = STEEP if run == "prompts" else TOLERANCE
    assert of_run["arms"]
    for arm in of_run["arms"]:
        fitted = load_fitted(old.home / "runs" / of_run["folder"] / "methods" / arm, of_run["base"])
        numbers = {
            name.removeprefix(f"{run}/{arm}/"): values
            for name, values in old.numbers.items()
            if name.startswith(f"{run}/{arm}/")
        }
        np.testing.assert_array_equal(fitted.thresholds, numbers.pop("thresholds"))
        scores, everybody = fitted.score(*make.pairs(of_run["users"])), fitted.score_all(make.TEXTS, of_run["users"])
        if arm in ("prior", "user-prior"):  # counts, the same on every machine
            np.testing.assert_array_equal(scores, numbers["scores"])
        old.alike(scores, numbers.pop("scores"), tolerance)
        old.alike(everybody, numbers.pop("all"), tolerance)
        adapters = {name.removeprefix("bank/"): values for name, values in numbers.items()}
        taken = fitted.bank.take(of_run["known"]) if adapters else {}
        assert set(taken) == set(adapters)
        for name, values in adapters.items():
            own = values.any(axis=tuple(range(1, values.ndim)))  # [users]
            some = own if name.endswith(".down") else slice(None)  # others' are multiplied by an `up` of zeros
            np.testing.assert_array_equal(taken[name].numpy()[some], values[some])


def test_a_classifier_and_a_users_head_are_what_their_files_hold(old):
    """Scored without beholder: by transformers, peft and the tensors of the heads."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    of_run = old.about["runs"]["classifiers"]
    folder, base = old.home / "runs" / of_run["folder"] / "methods" / "cls", old.home / "bases" / "tiny-bert"
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(folder / "adapter")).eval()
    tokenizer, head = AutoTokenizer.from_pretrained(base), load_file(folder / "head.safetensors")
    first = {
        name: torch.from_numpy(old.numbers[f"classifiers/cls-u-head/bank/head.{name}"][0])
        for name in ("weight", "bias")
    }
    assert first["weight"].any() and of_run["known"][0] == of_run["users"][0]
    for at, text in enumerate(make.TEXTS):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=48)
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state[0].mean(dim=0)
        logits = head["head.weight"] @ hidden + head["head.bias"]
        own = logits + first["weight"] @ hidden + first["bias"]
        for arm, found in (("cls", logits), ("cls-u-head", own)):
            expected = old.numbers[f"classifiers/{arm}/all"][at, 0]
            np.testing.assert_allclose(found.sigmoid(), expected, rtol=0, atol=TOLERANCE)


def points_of(curves: dict[str, Any]) -> dict[str, list[tuple[Any, float]]]:
    return {arm: [(each["rows"], each["points"]) for each in curve] for arm, curve in curves.items()}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_is_evaluated_as_it_was(old, run):
    folder = old.home / "runs" / old.about["runs"][run]["folder"]
    before, users = json.loads((folder / "results.json").read_text()), pq.read_table(folder / "users.parquet")
    after = said("report", folder.name)
    assert list(after["methods"]) == list(before["methods"])
    for arm, was in before["methods"].items():
        now = after["methods"][arm]
        assert {key: now[key] for key in SAME} == {key: was[key] for key in SAME}, arm
        assert now.get("per_task") == was.get("per_task")
        assert now["gain"]["points"] == pytest.approx(was["gain"]["points"])
    assert points_of(after["curves"]) == {
        arm: [(rows, pytest.approx(points)) for rows, points in curve]
        for arm, curve in points_of(before["curves"]).items()
    }
    for key in ("experiment", "run", "base", "seed", "data", "split", "reference", "rows", "users", "registered"):
        assert after[key] == before[key], key
    assert after.get("forgetting") == before.get("forgetting")
    again = pq.read_table(folder / "users.parquet")
    for column in users.column_names:
        assert again[column].equals(users[column]), column
    assert (folder / "report.html").is_file()


def test_runs_are_compared(old):
    folders = [old.home / "runs" / old.about["runs"][run]["folder"] for run in ("classifiers", "full")]
    found = {(each["run"], each["arm"]): each["macro_f1"] for each in said("compare", *folders)["methods"]}
    for folder in folders:
        for arm, was in json.loads((folder / "results.json").read_text())["methods"].items():
            assert found[folder.name, arm] == was["macro_f1"]


@pytest.mark.parametrize("key", VERSIONS)
def test_a_version_predicts_as_it_did(old, key):
    import mlflow

    model, number = key.split("/")
    was = old.about["versions"][key]
    version = registry.find(model, number)
    assert list(version.aliases) == was["aliases"]
    bundle = registry.open_version(version)
    assert bundle.users == was["users"]
    users = [*bundle.users[:3], "a stranger"]
    found = make.predicted(bundle, users)
    assert found["routes"] == was["routes"]
    old.alike(found["scores"], old.numbers[f"{key}/scores"])
    np.testing.assert_array_equal(found["decisions"], old.numbers[f"{key}/decisions"])
    client()
    texts, users = make.pairs(users)
    loaded = mlflow.pyfunc.load_model(f"models:/{key}").predict(pd.DataFrame({"user_id": users, "text": texts}))
    assert list(loaded.pop("route")) == was["routes"]
    old.alike(loaded.to_numpy(dtype=np.float32), old.numbers[f"{key}/mlflow"])


@pytest.mark.parametrize("model", ["classifiers", "full", "writers"])
def test_a_server_answers_as_it_did(old, model):
    was, app = old.about["served"][f"{model}/1"], server(model)[0]

    async def ask(method: str, path: str, content: Any = None) -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as asked:
            return (await asked.request(method, path, json=content)).raise_for_status().json()

    for user, expected in was["predict"]:
        found = asyncio.run(ask("POST", "/v1/predict", {"user_id": user, "texts": list(make.TEXTS)}))["predictions"]
        for now, then in zip(found, expected, strict=True):
            old.alike(list(now["scores"].values()), list(then["scores"].values()))
            assert (now["decisions"], now["route"]) == (then["decisions"], then["route"])
    found = asyncio.run(ask("POST", "/v1/perspectives", {"text": make.TEXTS[0]}))
    assert [each["user_id"] for each in found["readers"]] == [
        each["user_id"] for each in was["perspectives"]["readers"]
    ]
    for now, then in zip(found["readers"], was["perspectives"]["readers"], strict=True):
        old.alike(now["scores"], then["scores"])
        assert now["route"] == then["route"] and now["decisions"] == then["decisions"]


def test_the_newcomer_who_was_enrolled_is_so_still(old):
    core = server("classifiers")[1]
    now = core.user("newcomer")
    assert now["enrolled"] and now == old.about["served"]["classifiers/1"]["newcomer"]


def test_the_store_is_whole_and_goes_on(old):
    assert said("registry", "verify")["problems"] == []
    before = make.predicted(registry.open_version(registry.find("classifiers")), ["reader3", "a stranger"])
    found = said("refresh", "classifiers", "--annotations", old.home / "new.csv")
    assert found["version"] == 3 and found["users"] == 2
    after = make.predicted(registry.open_version(registry.find("classifiers", "3")), ["reader3", "a stranger"])
    np.testing.assert_array_equal(after["scores"], before["scores"])
    assert after["routes"] == before["routes"]


def test_experiment_files_are_valid(old):
    files = sorted((old.home.parent / "experiments").rglob("*.yaml"))
    assert len(files) == 17
    for file in files:
        experiment = load_experiment(file)
        assert experiment.arms

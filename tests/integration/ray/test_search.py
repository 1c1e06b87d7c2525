"""A search on a real Ray, Optuna and MLflow: killed and gone on with, stopped early, tracked, written back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from beholder.experiment.config import load_experiment, make_experiment
from beholder.workflows import run as pipeline
from beholder.workflows import search as tuning

pytestmark = pytest.mark.cluster


def small(**more) -> dict:
    return {
        "name": "small",
        "source": {"name": "simulated", "texts": "templates", "users": 6, "rows_per_user": 60, "distinct_texts": 90},
        "base": "tiny-bert",
        "methods": {
            "cls": {"epochs": 1, "max_tokens": 48},
            "cls-u": {"init_from": "cls", "bank": {"epochs": 3, "prior": {"steps": 10}}},
        },
        "evaluate": {"reference": "cls"},
        "cluster": {"workers": 0},  # what trials start from is fitted without a Ray Train job
        **more,
    }


def optuna_trials(folder) -> dict[int, tuple[str, list[float] | None]]:
    """What Optuna's storage holds: number -> (state, values)."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder / 'optuna.db'}")
    return {trial.number: (trial.state.name, trial.values) for trial in study.trials}


@pytest.mark.slow
def test_kill_9_loses_no_finished_trial_and_tells_optuna_of_none_twice(home, tmp_path):
    from mlflow import MlflowClient

    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(small()))
    command = [sys.executable, "-m", "beholder.cli.main", "search", str(file), "--method", "cls-u", "--trials", "4"]
    process = subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while len(list(home.glob("searches/*/trials/*.json"))) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    folder = next((home / "searches").iterdir())
    records = {record.name: record.read_bytes() for record in folder.glob("trials/*.json")}
    told = {number: each for number, each in optuna_trials(folder).items() if each[0] == "COMPLETE"}
    assert 2 <= len(records) < 4 and not (folder / "search.json").exists()
    fitted = (folder / "methods" / "cls" / "done.json").read_bytes()

    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    after = optuna_trials(folder)
    finished = {number: values for number, (state, values) in after.items() if state == "COMPLETE"}
    assert found["trials"] == len(finished) == 4  # those finished before count, and none is there twice
    assert all((folder / "trials" / name).read_bytes() == record for name, record in records.items())
    assert all(after[number] == each for number, each in told.items())
    recorded = {int(each.stem): json.loads(each.read_text()) for each in folder.glob("trials/*.json")}
    assert {int(name.removesuffix(".json")) for name in records} <= set(finished)
    assert finished == {number: [recorded[number]["valid_macro_f1"]] for number in finished}
    interrupted = [number for number, (state, _) in after.items() if state == "FAIL"]
    assert all(recorded[number] == {"interrupted": True} for number in interrupted)
    assert set(after) == {*finished, *interrupted, *(n for n, (state, _) in after.items() if state == "WAITING")}
    assert (folder / "methods" / "cls" / "done.json").read_bytes() == fitted and not (folder / "unfinished").exists()
    assert set(pq.read_table(folder / "annotations.parquet")["part"].to_pylist()) == {"train", "valid"}

    best, default = found["best"], found["default"]
    assert default["settings"]["bank.epochs"] == 3 and default["settings"]["bank.head"] == "full"
    assert best["valid_macro_f1"] >= default["valid_macro_f1"] > 0
    assert best["valid_macro_f1"] == max(values[0] for values in finished.values())
    tuned = load_experiment(folder / "small-tuned.yaml")
    assert tuned.name == "small-tuned" and pipeline.prepare(tuned).jobs

    # MLflow: a parent, and a child for each trial with its settings as parameters; each once, whatever is run again.
    def runs():
        tracker = MlflowClient(found["mlflow"]["uri"])
        experiment = tracker.get_experiment_by_name("small")
        return {run.info.run_name: run for run in tracker.search_runs([experiment.experiment_id])}, tracker

    again = tuning.search(load_experiment(file), "cls-u", trials=4)
    assert {**again, "seconds": 0} == {**found, "seconds": 0} and again["seconds"] < 10
    named, tracker = runs()
    assert set(named) == {folder.name, *(f"trial-{number:03d}" for number in finished)} and len(named) == 5
    assert len(tracker.search_runs([named[folder.name].info.experiment_id])) == 5
    parent, child = named[folder.name], named[f"trial-{best['number']:03d}"]
    assert parent.data.metrics["valid_macro_f1"] == child.data.metrics["valid_macro_f1"] == best["valid_macro_f1"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id == found["mlflow"]["run_id"]
    assert child.data.params == {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in best["settings"].items()
    }
    assert set(child.data.metrics) == {"valid_macro_f1", "seconds", "parameters"}
    assert {run.info.status for run in named.values()} == {"FINISHED"}


def test_what_is_behind_is_stopped_what_fails_is_said_and_what_was_measured_is_not_measured_again():
    from beholder.cluster.runtime import on_ray

    space = {"learning_rate": [1e-3, 1.0, 1e30]}  # of which the second learns worse than nothing
    settings = small(
        methods={"cls": {"epochs": 4, "patience": 4, "max_tokens": 48, "learning_rate": 1e-3}},
        search={"cls": {"trials": 6, "space": space}},
    )
    two = small(
        methods={"cls": {"epochs": 1, "max_tokens": 48}},
        search={"cls": {"trials": 3, "objective": ["macro_f1", "parameters"], "space": {"lora.rank": [1, 2, 16]}}},
    )
    with on_ray():
        found = tuning.search(make_experiment(settings))
        costed = tuning.search(make_experiment(two))
    assert found["trials"] == 6 == sum(found["states"].values())
    assert min(found["states"].values()) >= 1
    score = found["default"]["valid_macro_f1"]
    tried = json.loads((Path(found["folder"]) / "search.json").read_text())["all"]
    for trial in tried:
        if trial["state"] == "failed":
            assert trial["settings"] == {"learning_rate": 1e30} and "Lower learning_rate" in trial["error"]
        if trial["state"] == "stopped":
            assert trial["settings"] == {"learning_rate": 1.0} and 0 < trial["valid_macro_f1"] < score
    same = [trial for trial in tried if trial["settings"] == {"learning_rate": 1e-3}]
    assert len({trial["seconds"] for trial in same}) == 1

    assert costed["cost"] == "parameters" and costed["states"]["finished"] == 3
    costs = [trial["parameters"] for trial in costed["front"]]
    assert costs == sorted(costs) and costed["best"]["number"] == costed["front"][-1]["number"]

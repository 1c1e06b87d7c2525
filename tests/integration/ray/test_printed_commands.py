"""Every command of README and docs runs: on less data, on a smaller base, with real names for MODEL or U."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from house import MODEL, settings, table_of
from needs import reason
from printed import ROOT, printed_commands
from servers import answers, free_port, running
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.cluster.runtime import on_ray
from beholder.datasets import locate
from beholder.experiment.config import make_experiment
from beholder.models import resolve
from beholder.registry.feedback import Feedback
from beholder.util.paths import home as home_folder
from beholder.workflows import run as pipeline

FOUND = locate("convabuse")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(FOUND is None, reason=reason("data", "convabuse")),
]
DATA = FOUND.resolve().parent if FOUND else ""
RUN_ELSEWHERE = {
    "demo": ("tests/integration/ray/test_command_line.py", '"demo"'),
    "serve": ("tests/integration/serve/test_serve.py", '"serve"'),
    "submit": ("tests/integration/ray/test_jobs.py", '"submit"'),
    "jobs": ("tests/integration/ray/test_jobs.py", '"jobs"'),
    "gain": ("tests/unit/cli/test_gain.py", '"gain"'),
    "submit-format": ("tests/unit/workflows/test_submit_format.py", '"submit-format"'),
    "run experiments/lewidi.yaml": ("tests/integration/ray/test_lewidi_run.py", "lewidi.yaml"),
    "run experiments/endpoint.yaml": ("tests/integration/ray/test_endpoint_runs.py", '"run"'),
}
WITHOUT_A_TEST = {"models pull": "asks a hub over the network"}
METHODS = "methods={prior: {}, cls: {epochs: 1, max_tokens: 48}, cls-p: {extends: cls}}"
TO_SEARCH = "methods={cls: {epochs: 1, max_tokens: 48}, cls-u: {init_from: cls, bank: {epochs: 3}}}"


def elsewhere(command: str) -> bool:
    return command in RUN_ELSEWHERE or command.split()[0] in RUN_ELSEWHERE


def first_what_others_need() -> list[str]:
    """Each command once: tables and runs first, the rest in the order of the pages."""
    commands = list(dict.fromkeys(command for _, command in printed_commands()))
    mine = [each for each in commands if not elsewhere(each) and not each.startswith(tuple(WITHOUT_A_TEST))]
    mine.remove("ui")  # waits for Ctrl-C: a test of its own
    return sorted(mine, key=lambda each: ["init", "run", "search", each.split()[0]].index(each.split()[0]))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a table, the shipped experiments, and a registered model of two versions; who reads there."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("BEHOLDER_HOME", str(folder / ".beholder"))
        patch.setenv("BEHOLDER_DATA", str(DATA))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (folder / "experiments").symlink_to(ROOT / "experiments")
        with on_ray():
            rows = pipeline.run(make_experiment(settings())).test
            readers = sorted(set(rows.user_ids.tolist()))
            table_of(rows, readers[:3], folder / "new.parquet")
            again = {"evaluate": {"reference": "cls", "worthwhile": 2}}  # as good, so it may be promoted
            pipeline.run(make_experiment(settings(**again)))
            label = rows.task.labels[0]
            judged = [(f"{text} indeed", {label: bool(number % 2)}) for number, text in enumerate(rows.texts[:8])]
            Feedback().put(MODEL, readers[1], judged)
            for name in ("mine.csv", "ratings.csv"):
                table().to_csv(folder / name, index=False)
            yield readers


@pytest.fixture(autouse=True)
def at_home(place, home, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(Path.cwd() / ".beholder"))


def table() -> pd.DataFrame:
    """400 judgements by eight people, who differ in how much they take for rude."""
    rng = np.random.default_rng(5)
    person, words = rng.integers(8, size=400), rng.integers(200, size=400)
    rude = rng.random(400) < (person + words % 5) / 12
    texts = [f"comment {word} says {'please' if word % 5 < 2 else 'never'} again" for word in words]
    return pd.DataFrame({"comment": texts, "annotator": [f"p{each}" for each in person], "rude": rude.astype(int)})


def as_here(command: str, readers: list[str], token: str) -> list[str]:
    """The command's words, with names of here for those that stand for something, and settings that make it small."""
    runs = [
        each.name
        for each in sorted((home_folder() / "runs").glob("convabuse-*"), key=lambda each: each.stat().st_ctime)
    ]
    names = {"MODEL": MODEL, "VERSION": "2", "U": readers[0], "FOLDER": "adapter", "TOKEN": token}
    names |= {"NAME": "convabuse", "RUN1": runs[0], "RUN2": runs[-1]} if runs else {}
    command = re.sub(r"\b(RUN[12])\b", lambda found: names[found[1]], command)
    words = [
        names.get(word, word) for word in shlex.split(command.replace("/path/to/folder", str(resolve("minilm-l6"))))
    ]
    sets = []
    if words[0] in ("run", "search") and "--dry-run" not in words:
        sets += [TO_SEARCH if words[0] == "search" else METHODS, "cluster.workers=0", "evaluate.reference=cls"]
        sets += [] if "base=" in command else ["base=tiny-bert"]
        sets += [] if "subsample.rows" in command else ["subsample.rows=400"]
    if words[0] == "search":
        words += ["--trials", "2"]
    return words + [part for each in sets for part in ("--set", each)]


def test_every_printed_command_runs(place):
    """In one folder, one after the other, as a person would: each leaves with 0 and says something."""
    token, said_by = "", {}
    for command in first_what_others_need():
        words = as_here(command, place, token)
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"beholder {shlex.join(words)}\n{done.stderr[-2000:]}\n{done.exception!r}"
        assert done.stdout.strip(), command
        said_by[command] = done.stdout
        if "--json" in words:
            assert json.loads(done.stdout)
        if words[:2] == ["token", "issue"]:
            token = done.stdout.split()[-1]

    assert Path("mine.yaml").exists() and Path("runs.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert Path("adapter/adapter_model.safetensors").exists()
    assert "macro-F1" in said_by["run mine.yaml"] and "report" in said_by["report mine"]
    assert MODEL in said_by["registry ls"] and "erased" in said_by["registry erase --user U"]


def test_what_is_not_run_here_is_run_elsewhere():
    printed = {command for _, command in printed_commands()}
    for start, (file, word) in RUN_ELSEWHERE.items():
        assert any(command.startswith(start) for command in printed), f"{start}: no page prints it any more"
        assert word in (ROOT / file).read_text(encoding="utf-8")
    for start in WITHOUT_A_TEST:
        assert any(command.startswith(start) for command in printed)


def test_the_ui_shows_runs_until_it_is_stopped(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "beholder.cli.main", "ui", "--port", url.rpartition(":")[2]]
    with running(command, tmp_path / "ui.log", answers(f"{url}/health"), stop=signal.SIGINT):
        found = httpx.post(f"{url}/api/2.0/mlflow/experiments/search", json={"max_results": 100}, timeout=30)
        assert "house" in {each["name"] for each in found.json()["experiments"]}

"""A run killed half-way keeps what it finished, and the same command goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import ROOT

from beholder.cluster.runtime import on_ray
from beholder.experiment.config import load_experiment
from beholder.workflows import run as pipeline

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
EXPERIMENT = ROOT / "experiments" / "simulated.yaml"
BANK = "{init_from: cls, bank: {block_users: 2, top_layers: 1, epochs: 8, prior: {rank: 0, steps: 2, strength: 0.25}}}"
SETS = (
    "base=tiny-bert",
    "source={name: simulated, texts: templates, users: 24, rows_per_user: 60}",
    "cluster.workers=2",
)


def methods(long_epochs: int) -> str:
    """`long`, on one worker, outlasts the first blocks of `cls-u` on the other."""
    long = f"{{method: cls-p, epochs: {long_epochs}, patience: {long_epochs}}}"
    return f"methods={{prior: {{}}, cls: {{epochs: 1}}, long: {long}, cls-u: {BANK}}}"


def shards(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (run / "methods" / "cls-u" / "bank").glob("shard-*")}


class Heard:
    def __init__(self):
        self.lines, self.arms = [], set()

    def say(self, line):
        self.lines.append(line)

    def step(self, arm, done, total, note, unit="steps"):
        self.arms.add(arm)


def test_kill_9_keeps_what_is_finished_and_a_rerun_ends_as_an_undisturbed_run(home, tmp_path, monkeypatch):
    sets = (*SETS, methods(long_epochs=30))
    flags = [part for each in sets for part in ("--set", each)]
    command = [sys.executable, "-m", "beholder.cli.main", "run", str(EXPERIMENT), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not list(home.glob("runs/*/unfinished/bank-*/block-*.parquet")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    run = next((home / "runs").iterdir())
    finished = {file.parent.name: file.read_bytes() for file in run.glob("methods/*/done.json")}
    assert set(finished) == {"prior", "cls"}  # killed while `long` was trained, between two blocks of `cls-u`
    blocks = {file: file.stat().st_mtime_ns for file in run.glob("unfinished/bank-*/block-*.parquet")}
    assert 0 < len(blocks) < 12
    assert not (run / "results.json").exists() and not (home / "mlflow.db").exists()

    with on_ray(workers=2):
        heard = Heard()
        rerun = pipeline.run(load_experiment(EXPERIMENT, sets), heard)
        assert rerun.run_folder == run and heard.arms == {"long", "cls-u"}
        assert "cls: finished before with the same inputs, kept" in heard.lines
        assert all((run / "methods" / name / "done.json").read_bytes() == whole for name, whole in finished.items())
        assert rerun.results.registered.version == 1 and not (run / "unfinished").exists()
        again = Heard()
        pipeline.run(load_experiment(EXPERIMENT, sets), again)
        assert not again.arms  # nothing was left to do

    # In one process, on one thread as each of the two workers; `cls-u` has nothing to do with `long`.
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "b"))
    alone = (*SETS[:-1], methods(long_epochs=1), "cluster={workers: 0, cpus_per_worker: 1}")
    undisturbed = pipeline.run(load_experiment(EXPERIMENT, alone))
    assert len(shards(run)) >= 4 and shards(run) == shards(undisturbed.run_folder)
    mine, other = (outcome.results.methods["cls-u"] for outcome in (rerun, undisturbed))
    assert mine.macro_f1 == other.macro_f1 and mine.gain == other.gain


def heed_ctrl_c():
    """Also where these tests run in a shell's background, whose commands ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(
    "send, number", [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)], ids=["Ctrl-C", "TERM"]
)
def test_an_interrupted_run_says_that_finished_methods_are_kept(home, tmp_path, send, number):
    long = "methods={prior: {}, cls: {epochs: 1}, cls-p: {epochs: 100, patience: 100}}"
    flags = [part for each in (*SETS[:-1], long) for part in ("--set", each)]
    command = [sys.executable, "-m", "beholder.cli.main", "run", str(EXPERIMENT), *flags]
    said = tmp_path / "said.txt"
    with said.open("w") as heard:
        process = subprocess.Popen(command, stdout=heard, stderr=heard, start_new_session=True, preexec_fn=heed_ctrl_c)
    try:
        deadline = time.monotonic() + 300
        while "cls-p: epoch" not in said.read_text():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        send(process.pid, number)
        assert process.wait(60) == 130
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    *before, last = said.read_text().splitlines()
    assert last == "interrupted: finished methods are kept; run the same command to resume."
    assert not any(word in line for line in before for word in ("Traceback", "SIGTERM", "error")), before
    assert {file.parent.name for file in home.glob("runs/*/methods/*/done.json")} == {"prior", "cls"}


def test_a_home_that_cannot_be_written_is_one_line(tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    env = {**os.environ, "BEHOLDER_HOME": str(blocked / "home"), "BEHOLDER_DATA": ""}
    quick = ("methods={prior: {}}", "evaluate.reference=prior")
    flags = [part for each in ("source.texts=templates", *quick) for part in ("--set", each)]
    line = [sys.executable, "-m", "beholder.cli.main", "run", str(EXPERIMENT), *flags]
    done = subprocess.run(line, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "BEHOLDER_HOME" in last and "Traceback" not in done.stderr

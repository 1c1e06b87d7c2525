"""A run killed half-way keeps what it finished, and the same command goes on from there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster
EXPERIMENT = Path(__file__).parents[2] / "experiments" / "simulated.yaml"
SETS = (
    "base=tiny-bert",
    "source.texts=templates",
    "source.users=12",
    "source.rows_per_user=120",
    "methods.cls.epochs=1",
    "methods.cls-p.epochs=40",
    "methods.cls-p.patience=40",
    "evaluate.bootstrap=50",
)


def command(*more: str) -> list[str]:
    flags = [part for each in (*SETS, *more) for part in ("--set", each)]
    return [sys.executable, "-m", "beholder.cli.main", "run", str(EXPERIMENT), *flags, "--json"]


def test_kill_9_while_training_keeps_finished_methods_and_a_rerun_goes_on(home):
    process = subprocess.Popen(command(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list(home.glob("runs/*/methods/cls/done.json")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    run = next((home / "runs").iterdir())
    finished = {file.parent.name: file.read_bytes() for file in run.glob("methods/*/done.json")}
    assert "cls" in finished and "cls-p~shuffled-users" not in finished
    assert not (run / "results.json").exists() and not (home / "mlflow.db").exists()

    done = subprocess.run(command(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert all((run / "methods" / name / "done.json").read_bytes() == whole for name, whole in finished.items())
    assert "cls: finished before with the same inputs, kept" in done.stderr
    results = json.loads(done.stdout)
    assert set(results["methods"]) >= {"prior", "user-prior", "cls", "cls-p", "cls-p~shuffled-users", "cls-u"}
    assert results["registered"]["version"] == 1


BANK = (
    "methods={cls: {epochs: 1}, cls-u: {from: cls, bank: {block_users: 2, top_layers: 1, epochs: 60, patience: 60}}}",
    "register.name=by-user",
)


def bank_command() -> list[str]:
    flags = [part for each in (*(s for s in SETS if "cls" not in s), *BANK) for part in ("--set", each)]
    return [sys.executable, "-m", "beholder.cli.main", "run", str(EXPERIMENT), *flags, "--json"]


def shards(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (run / "methods" / "cls-u" / "bank").glob("shard-*")}


def test_kill_9_between_blocks_then_a_rerun_gives_the_shards_of_an_undisturbed_run(home, tmp_path):
    process = subprocess.Popen(
        bank_command(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not list(home.glob("runs/*/unfinished/bank-*/block-*.parquet")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    run = next((home / "runs").iterdir())
    finished = {file: file.stat().st_mtime_ns for file in run.glob("unfinished/bank-*/block-*.parquet")}
    assert 0 < len(finished) < 6 and not (run / "methods" / "cls-u").exists()

    done = subprocess.run(bank_command(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "cls: finished before" in done.stderr and not (run / "unfinished").exists()
    undisturbed = subprocess.run(
        bank_command(),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "BEHOLDER_HOME": str(tmp_path / "b")},
    )
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected = shards(next((tmp_path / "b" / "runs").iterdir()))
    assert len(expected) >= 4 and shards(run) == expected
    mine, other = (json.loads(each.stdout)["methods"]["cls-u"] for each in (done, undisturbed))
    assert mine["macro_f1"] == other["macro_f1"] and mine["gain"] == other["gain"]


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

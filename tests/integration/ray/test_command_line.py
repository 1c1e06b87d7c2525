"""From the command line, as a new user would: an own table, bad input, the doctor, the demo."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import Result
from experiments import EXPERIMENTS, SHORT
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.cli.run import DEMO

pytestmark = pytest.mark.cluster


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
    shutil.copytree(DEMO, tmp_path / "demo")
    short = {
        "base": "tiny-bert",
        "source": {"name": "simulated", "texts": "templates", "users": 8, "rows_per_user": 60},
    }
    file = tmp_path / "demo" / "simulated.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **short}))
    sets = ["--set", "methods.cls.epochs=1", "--set", SHORT]
    done = called("demo", "--folder", tmp_path / "demo", *sets)
    assert done.exit_code == 0, done.stderr
    assert "simulated population" in done.stderr
    for expected in ("macro-F1", "registered: simulated-minilm v1", "A held-out text", "beholder ui", "beholder serve"):
        assert expected in done.stdout

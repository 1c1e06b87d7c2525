"""`beholder init` on exports, on several tables, on tables without a header, and on standard input."""

from __future__ import annotations

import json

import pytest
from exports import PEOPLE, TEXTS, lines, pairs, rude, table
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.datasets import load
from beholder.experiment.config import load_experiment


def init(*arguments, **more):
    return CliRunner().invoke(app, ["init", *map(str, arguments), "--yes"], **more)


def rows():
    return [{"text": TEXTS[text], "annotator": PEOPLE[person], "rude": rude(text, person)} for text, person in pairs()]


def examples():
    return [
        {"text": TEXTS[text], "label": "RUDE", "answer": ["reject", "accept"][rude(text, person)],
         "_view_id": "classification", "_annotator_id": PEOPLE[person], "_session_id": PEOPLE[person]}
        for text, person in pairs()
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def annotations(file="experiment.yaml"):
    return load(load_experiment(file).source).annotations


def test_the_recognised_format_is_written_and_the_export_read_again(tmp_path):
    path = lines(tmp_path / "tone.jsonl", examples())
    done = init(path, "--out", "experiment.yaml", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["source"]["format"] == "prodigy"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["experiment.yaml", "tone.jsonl"]
    assert len(annotations()) == len(pairs()) and annotations().task.labels == ("RUDE",)
    done = init(path, "--out", "named.yaml", "--format", "prodigy")
    assert done.exit_code == 0 and "export of Prodigy" in done.stdout
    done = init(path, "--out", "other.yaml", "--format", "prodgy")
    assert done.exit_code == 2 and "Did you mean 'prodigy'?" in done.stderr and done.stderr.count("\n") == 1


def test_several_tables_and_patterns(tmp_path):
    half = len(pairs()) // 2
    paths = [table(tmp_path / "a.csv", rows()[:half]), table(tmp_path / "b.csv", rows()[half:])]
    for where in (paths, ["*.csv"]):
        done = init(*where, "--out", "experiment.yaml", "--force")
        assert done.exit_code == 0, done.stderr
        assert len(annotations()) == len(pairs())


def test_a_table_without_a_header(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("".join(f'"{each["text"]}",{each["annotator"]},{each["rude"]}\n' for each in rows()))
    done = init(path)
    assert done.exit_code == 2 and "--no-header" in done.stderr and done.stderr.count("\n") == 1
    named = ["--text", "column1", "--user", "column2", "--labels", "column3"]
    done = init(path, "--no-header", *named, "--out", "experiment.yaml")
    assert done.exit_code == 0, done.stderr
    assert len(annotations()) == len(pairs()) and load_experiment("experiment.yaml").source.header is False


def test_standard_input_is_kept_beside(tmp_path):
    contents = table(tmp_path / "t.csv", rows()).read_bytes()
    done = init("-", "--out", "experiment.yaml", input=contents)
    assert done.exit_code == 0, done.stderr
    (kept,) = tmp_path.glob("stdin-*.csv")
    assert f"standard input is kept in {kept.name}" in done.stdout + done.stderr and len(annotations()) == len(pairs())
    assert init("-", "t.csv", input=contents).exit_code == 2
    done = init("-", "--out", "empty.yaml", input=b"")
    assert done.exit_code == 2 and "standard input is empty" in done.stderr

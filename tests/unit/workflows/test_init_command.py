"""`beholder init` as a command: what it writes, prints, asks and refuses."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from judged_tables import drawn, long, pairs, sentences, written
from typer.testing import CliRunner

from beholder.cli import init as command
from beholder.cli.main import app
from beholder.experiment.config import load_experiment
from beholder.workflows import run as pipeline

JUDGED = pairs()
RUDE = long(JUDGED, rude=drawn((0, 1)))


def init(file: Path, *more: str):
    return CliRunner().invoke(app, ["init", str(file), *more])


@pytest.mark.parametrize(
    "name", ["2024-03-01", "2024", "1.5", "true", "on", "null", "no", "1e3", "plain", "a b", "ünï"]
)
def test_every_name_of_a_file_is_a_name_in_the_experiment(name, tmp_path):
    out = tmp_path / f"{name}.yaml"
    assert init(written(tmp_path / f"{name}.csv", RUDE), "--yes", "--out", str(out)).exit_code == 0
    experiment = load_experiment(out)
    assert isinstance(yaml.safe_load(out.read_text())["name"], str) and experiment.name
    assert len(pipeline.prepare(experiment).annotations) == len(JUDGED)


def test_the_folder_of_the_file_is_made_and_commands_are_quoted(tmp_path):
    out = tmp_path / "a b" / "c" / "x y.yaml"
    done = init(written(tmp_path / "mine.csv", RUDE), "--yes", "--out", str(out))
    assert done.exit_code == 0 and out.is_file()
    (line,) = [line for line in done.stdout.splitlines() if "beholder run" in line]
    assert shlex.split(line) == ["beholder", "run", str(out)]
    assert f"#   beholder run {shlex.quote(str(out))}" in out.read_text()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = init(written(tmp_path / "mine.csv", RUDE), "--yes", "--out", str(tmp_path / "file" / "x.yaml"))
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and "--out FILE" in done.stderr


def test_json_has_why_and_how_sure_and_what_was_left_out(tmp_path):
    table = long(
        JUDGED, rude=drawn((0, 1)), when=lambda text, user, row: f"2024-03-01 10:{row % 60:02d}:{row // 60:02d}"
    )
    table = {name: [*cells, *cells[:5], ""] for name, cells in table.items()}
    done = init(written(tmp_path / "mine.csv", table), "--json", "--out", str(tmp_path / "x.yaml"))
    found = json.loads(done.stdout)
    assert found["guesses"]["text"] == {"column": "text", "sureness": 1.0, "why": found["guesses"]["text"]["why"]}
    assert found["guesses"]["labels.rude"]["column"] == "rude" and found["left_out"] == {"when": "dates or times"}
    assert found["dropped"] == [
        {"rows": 1, "why": "nothing in the row"},
        {"rows": 5, "why": "equal to an earlier row"},
    ]
    printed = init(written(tmp_path / "mine.csv", table), "--yes", "--force", "--out", str(tmp_path / "x.yaml")).stdout
    assert 'not used "when": dates or times' in printed and "dropped  5 rows" in printed


def test_a_reader_that_stops_reading_stops_nothing(tmp_path):
    file = written(tmp_path / "mine.csv", RUDE)
    shell = f"{shlex.quote(sys.executable)} -m beholder.cli.main init {file} --yes --out {tmp_path}/x.yaml | head -n 1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=dict(os.environ), check=True)
    assert (tmp_path / "x.yaml").is_file() and "Traceback" not in done.stderr and done.stdout.count("\n") == 1


def test_the_original_file_is_read_again_by_a_run(tmp_path):
    texts = sentences(30)
    table = {"text": texts, **{f"rater{n}": [(row * n + row) % 2 for row in range(30)] for n in (1, 2, 3)}}
    file = written(tmp_path / "wide.csv", table)
    assert init(file, "--yes", "--out", str(tmp_path / "x.yaml")).exit_code == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["wide.csv", "x.yaml"]
    table["rater3"] = [1 - given for given in table["rater3"]]
    written(file, table)
    rows = pipeline.prepare(load_experiment(tmp_path / "x.yaml")).annotations
    given = dict(zip(zip(rows.texts, rows.user_ids, strict=True), rows.labels[:, 0], strict=True))
    assert all(given[text, "rater3"] == table["rater3"][row] for row, text in enumerate(texts))


def test_parts_without_validation_take_it_from_training(tmp_path):
    texts = sorted({text for text, _ in JUDGED})
    table = long(JUDGED, rude=drawn((0, 1)), part=lambda text, user, row: ["train", "test"][texts.index(text) % 3 == 0])
    done = init(written(tmp_path / "mine.csv", table), "--json", "--out", str(tmp_path / "x.yaml"))
    assert json.loads(done.stdout)["guesses"]["split"]["why"] == "marks rows for train, test"
    prepared = pipeline.prepare(load_experiment(tmp_path / "x.yaml"))
    parts = {name: set(prepared.annotations.texts[rows]) for name, rows in prepared.split.parts.items()}
    assert parts["test"] == {text for text in texts if texts.index(text) % 3 == 0}
    assert parts["valid"] and parts["train"] and not parts["valid"] & parts["train"]


def test_what_is_not_sure_is_asked_in_a_terminal(tmp_path, monkeypatch):
    table = {"text": sentences(30), **{name: [row % 2 for row in range(30)] for name in ("Anna", "Ben", "Cleo")}}
    table["Ben"] = [row % 3 % 2 for row in range(30)]
    file = written(tmp_path / "mine.csv", table)
    refused = init(file, "--yes", "--out", str(tmp_path / "x.yaml"))
    assert refused.exit_code == 2 and "--users Anna,Ben,Cleo" in refused.stderr and refused.stderr.count("\n") == 1
    assert not (tmp_path / "x.yaml").exists()

    class Terminal:
        def isatty(self) -> bool:
            return True

    asked: list[str] = []
    monkeypatch.setattr(command.sys, "stdin", Terminal())
    monkeypatch.setattr(command.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(command.typer, "prompt", lambda text, default=None: asked.append(text) or default)
    monkeypatch.setattr(command.typer, "confirm", lambda text, default: True)
    command.init_command([str(file)], out=tmp_path / "x.yaml")
    written_source = yaml.safe_load((tmp_path / "x.yaml").read_text())["source"]
    assert asked and written_source["reshape"] == {"users": ["Anna", "Ben", "Cleo"]}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--scale=4..0", "expected its lowest and highest step"),
        ("--scale=x", "expected its lowest and highest step"),
        ("--labels=rude,rude", "'rude' is named twice"),
        ("--users=rude", "two people or more"),
        ("--labels=mood", "no column 'mood' for --labels"),
        ("--text=mood", "no column 'mood' for --text"),
    ],
)
def test_options_that_cannot_be(option, message, tmp_path):
    done = init(written(tmp_path / "mine.csv", RUDE), "--yes", option)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_bad_rows_can_be_skipped_by_validate(tmp_path):
    table = {name: list(cells) for name, cells in RUDE.items()}
    table["rude"][7] = "x"
    out = tmp_path / "x.yaml"
    assert init(written(tmp_path / "mine.csv", table), "--yes", "--out", str(out)).exit_code == 0
    assert "--on-bad-rows skip" in out.read_text()
    refused = CliRunner().invoke(app, ["validate", str(out)])
    assert refused.exit_code == 2 and "row 8" in refused.stderr
    done = CliRunner().invoke(app, ["validate", str(out), "--on-bad-rows", "skip", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["bad_rows"] == 1
    done = CliRunner().invoke(app, ["validate", str(out), "--on-bad-rows", "skip"])
    assert "1 bad rows left out" in done.stdout


def test_names_too_long_for_stores_are_refused_before_the_fit(tmp_path):
    long_name = "How rude is this? " * 15
    table = {**RUDE, long_name: RUDE["rude"]}
    source = {"name": "table", "path": str(written(tmp_path / "mine.csv", table)), "user": "annotator"}
    experiment = {"name": "x", "methods": {"prior": {}}, "evaluate": {"reference": "prior"}}
    out = tmp_path / "x.yaml"
    out.write_text(yaml.safe_dump({**experiment, "source": {**source, "labels": [long_name]}}))
    refused = CliRunner().invoke(app, ["validate", str(out)])
    assert refused.exit_code == 2 and "Rename it under source.labels" in refused.stderr
    out.write_text(yaml.safe_dump({**experiment, "source": {**source, "labels": {"rude": {"column": long_name}}}}))
    assert CliRunner().invoke(app, ["validate", str(out)]).exit_code == 0


def test_texts_that_are_none_are_a_warning_of_a_run(tmp_path):
    table = {
        **RUDE,
        "text": [f"2024-03-{1 + row % 28:02d} 10:{row % 60:02d}:{row // 60:02d}" for row in range(len(JUDGED))],
    }
    source = {"name": "table", "path": str(written(tmp_path / "mine.csv", table)), "user": "annotator"}
    experiment = {"name": "x", "methods": {"prior": {}}, "evaluate": {"reference": "prior"}}
    out = tmp_path / "x.yaml"
    out.write_text(yaml.safe_dump({**experiment, "source": {**source, "labels": ["rude"]}}))
    notes = pipeline.prepare(load_experiment(out)).notes
    assert any("the texts look like dates or times" in note for note in notes)

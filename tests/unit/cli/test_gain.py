"""`beholder gain`: any two files of predictions, compared; what is not comparable is refused in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.evaluation.gains import gains

pytestmark = pytest.mark.long

BINARY = ["--user", "who", "--text", "text", "--label", "angry", "--score", "p"]


def columns(rows=400, strength=0.5, seed=0, users=8) -> dict[str, list]:
    """People and texts crossed, so that nobody judges a text twice; how good the scores are is `strength`."""
    rng = np.random.default_rng(0)
    user, text = np.arange(rows) % users, np.arange(rows) // users
    gold = rng.random(rows) < 0.4
    noise = np.random.default_rng(seed).random(rows)
    return {
        "who": [f"person {each}" for each in user],
        "text": [f"a text numbered {each}" for each in text],
        "angry": gold.astype(int).tolist(),
        "p": (strength * gold + (1 - strength) * noise).round(4).tolist(),
    }


def write(file: Path, made: dict[str, list], order=None) -> Path:
    table = pa.table(made)
    table = table if order is None else table.take(order)
    if file.suffix == ".parquet":
        pq.write_table(table, file)
    else:
        rows = [",".join(table.column_names), *(",".join(map(str, row.values())) for row in table.to_pylist())]
        file.write_text("\n".join(rows) + "\n")
    return file


def gain(*arguments) -> dict:
    done = CliRunner().invoke(app, ["gain", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def refused(*arguments) -> str:
    done = CliRunner().invoke(app, ["gain", *map(str, arguments)])
    assert done.exit_code == 2 and not done.stdout, done.stdout
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_the_numbers_are_those_of_the_library_whatever_the_format_and_the_order(tmp_path):
    one, other = columns(strength=0.3), columns(strength=0.5, seed=1)
    files = write(tmp_path / "a.parquet", one), write(tmp_path / "b.parquet", other)
    found = gain(*files, *BINARY)
    labels = np.asarray(one["angry"], dtype=float)[:, None]
    decisions = {name: np.asarray(made["p"])[:, None] >= 0.5 for name, made in (("one", one), ("other", other))}
    users, texts = (np.asarray(one[name], dtype=object) for name in ("who", "text"))
    expected = gains(decisions, "one", labels, texts, users)["other"].to_json()
    assert found["gain"] == pytest.approx(expected)
    assert found["gain"]["low"] > 0 and found["rows"] == 400 and (found["users"], found["texts"]) == (8, 50)
    assert found["measures"]["macro_f1"]["gain"] == pytest.approx(expected["points"] / 100)
    assert {"auroc", "log_loss", "brier", "user_accuracy"} <= found["measures"].keys()
    assert found["better"] + found["worse"] + found["same"] == 8
    order = np.random.default_rng(3).permutation(400)
    shuffled = gain(files[0], write(tmp_path / "b.csv", other, order), *BINARY)
    assert shuffled["gain"] == pytest.approx(found["gain"]) and shuffled["measures"] == {
        name: pytest.approx(each) for name, each in found["measures"].items()
    }
    back = gain(files[1], files[0], *BINARY)
    assert back["gain"]["points"] == pytest.approx(-found["gain"]["points"])


def test_thresholds_and_several_labels_some_of_them_not_asked(tmp_path):
    one, other = columns(strength=0.3), columns(strength=0.5, seed=1)
    for made in (one, other):
        made["rude"] = [None if row % 5 == 0 else value for row, value in enumerate(made["angry"])]
        made["p2"] = made["p"][::-1]
    files = write(tmp_path / "a.parquet", one), write(tmp_path / "b.parquet", other)
    both = [*BINARY, "--label", "rude", "--score", "p2"]
    found = gain(*files, *both, "--threshold", "0.5", "--threshold", "0.2")
    assert found["per_label"].keys() == {"angry", "rude"}
    assert found["per_label"]["angry"]["points"] == pytest.approx(gain(*files, *BINARY)["gain"]["points"])
    assert found["gain"]["points"] != pytest.approx(gain(*files, *both)["gain"]["points"])


def test_predicted_classes(tmp_path):
    one, other = columns(), columns()
    said = ["calm", "angry", "sad"]
    for made, wrong in ((one, 3), (other, 9)):
        made["said"] = [said[row % 3] for row in range(400)]
        made["told"] = [said[(row + (row % wrong == 0)) % 3] for row in range(400)]
    files = write(tmp_path / "a.parquet", one), write(tmp_path / "b.csv", other)
    found = gain(*files, "--user", "who", "--text", "text", "--label", "said", "--prediction", "told")
    assert found["per_label"].keys() == set(said)
    assert found["measures"].keys() == {"macro_f1", "accuracy", "user_accuracy"}
    assert found["measures"]["accuracy"]["value"] == pytest.approx(1 - 45 / 400)
    assert found["measures"]["accuracy"]["reference"] == pytest.approx(1 - 134 / 400)


def printed(*files, columns: int) -> str:
    """The output at a width of so many columns, from a new process, as the width is read at import."""
    done = subprocess.run(
        [sys.executable, "-m", "beholder.cli.main", "gain", *map(str, files), *BINARY],
        env=os.environ | {"COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("width", [80, 140])
def test_what_people_read(tmp_path, width):
    files = write(tmp_path / "a.csv", columns(strength=0.3)), write(tmp_path / "b.csv", columns(strength=0.5, seed=1))
    shown = printed(*files, columns=width)
    assert "400 judgements by 8 people of 50 texts" in shown
    row = next(line for line in shown.splitlines() if "log loss" in line)
    assert re.search(r"│ +0\.\d{3} │ +0\.\d{3} │ +\+0\.\d{3} │ +\+0\.\d{3} to ", row), shown
    assert "…" not in shown
    assert re.search(r"b\.csv is \d+\.\d points of macro-F1 above a\.csv; the interval .* does not hold zero", shown)


def test_of_one_person_how_sure_is_unknown(tmp_path):
    alone = columns(users=1)
    shown = printed(write(tmp_path / "c.csv", alone), write(tmp_path / "d.csv", alone), columns=140)
    assert "unknown" in shown and "no interval is possible with one person or one text" in shown


def changed(name, row, value):
    made = columns()
    made[name] = [value if place == row else each for place, each in enumerate(made[name])]
    return made


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (changed("p", 7, float("nan")), 'row 8, column "p": empty. Expected a number from 0 to 1'),
        (changed("p", 7, 1.5), 'row 8, column "p": not a score'),
        ({**columns(), "p": columns()["text"]}, 'row 1, column "p": not a score'),
        ({**columns(), "angry": columns()["text"]}, 'row 1, column "angry": not a label'),
        (changed("angry", 7, 2), 'row 8, column "angry": not a label'),
        (changed("who", 7, None), 'row 8, column "who": empty. Every judgement needs a value'),
        (changed("who", 7, "person 6"), "row 8: the same user and text as row 7"),
        (changed("text", 7, "another"), "1 of the 400 judgements of"),
        ({name: values[:-3] for name, values in columns().items()}, "3 of the 400 judgements of"),
        ({name: values[:0] for name, values in columns().items()}, "there is no row to compare"),
        ({"who": ["a"], "text": ["b"], "angry": [1]}, "column 'p'"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, other, said):
    table = pa.table(other) if other["text"] else pa.table(columns()).slice(0, 0)
    pq.write_table(table, tmp_path / "b.parquet")
    line = refused(write(tmp_path / "a.parquet", columns()), tmp_path / "b.parquet", *BINARY)
    assert said in line and "b.parquet" in line
    assert "a text numbered" not in line and "another" not in line


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    file = write(tmp_path / "a.csv", columns())
    gone = tmp_path / "gone.csv"
    assert f"{gone}: no such file or folder. Fix its path." in refused(file, gone, *BINARY)


def test_labels_that_differ_are_refused(tmp_path):
    one, other = columns(), columns()
    other["angry"][7] = 1 - other["angry"][7]
    order = list(range(400))[::-1]
    line = refused(write(tmp_path / "a.csv", one), write(tmp_path / "b.csv", other, order), *BINARY)
    assert "row 393: its label is not that of" in line and "row 8" in line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--label", "angry"], "--score"),
        (["--label", "angry", "--score", "p", "--prediction", "p"], "--score"),
        (["--label", "angry", "--label", "angry", "--score", "p"], "2 label columns and 1 score columns"),
        (["--label", "angry", "--label", "text", "--prediction", "p"], "one --label column"),
        (["--label", "angry", "--score", "p", "--threshold", "0.1", "--threshold", "0.2"], "--threshold"),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(tmp_path, given, said):
    file = write(tmp_path / "a.csv", columns())
    assert said in refused(file, file, "--user", "who", "--text", "text", *given)

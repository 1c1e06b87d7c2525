"""Tables of many shapes become experiments that can be run, or one clear refusal."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from judged_tables import WORDS
from needs import missing
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.datasets import locate
from beholder.experiment.config import load_experiment
from beholder.workflows import run as pipeline

pytestmark = pytest.mark.long


def sentences(count: int, words=WORDS, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{number} {' '.join(rng.choice(words, 6))}." for number in range(count)]


def judgements(texts: int = 60, users: int = 8, each: int = 30, seed: int = 0) -> list[tuple[str, str, int]]:
    """(text, user, number 0..99) in no order; a user leans high or low."""
    rng = np.random.default_rng(seed)
    written, lean = sentences(texts), rng.integers(0, 60, users)
    rows = [
        (written[place], f"p{user:03d}", int(lean[user] + rng.integers(0, 40)))
        for user in range(users)
        for place in rng.choice(texts, each, replace=False)
    ]
    return [rows[place] for place in rng.permutation(len(rows))]


def written(file: Path, header: list[str], rows, delimiter: str = ",") -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return file


def zero_one(folder: Path) -> tuple[Path, dict]:
    rows = [(i, t, u, int(n > 50), int(n > 20)) for i, (t, u, n) in enumerate(judgements())]
    file = written(folder / "long.csv", ["row", "Comment", "Rater", "rude", "funny"], rows)
    return file, {"text": "Comment", "user": "Rater", "labels": {"rude": {}, "funny": {}}}


def words(folder: Path) -> tuple[Path, dict]:
    rows = [(u, "Yes" if n > 50 else "No", t) for t, u, n in judgements(users=5)]
    file = written(folder / "five people.tsv", ["annotator id", "offensive?", "tweet"], rows, "\t")
    return file, {"user": "annotator id", "labels": {"offensive?": {"values": {"No": 0, "Yes": 1}}}}


def scale(folder: Path) -> tuple[Path, dict]:
    rows = [(t, u, 1 + n // 20, 20 + int(u[1:]) % 3) for t, u, n in judgements()]
    file = written(folder / "scale.csv", ["sentence", "worker", "politeness", "age"], rows)
    return file, {"labels": {"politeness": {"kind": "ordinal", "range": [1, 5]}}, "context": ["age"]}


def classes(folder: Path) -> tuple[Path, dict]:
    rows = [(u, t, ["joy", "anger", "none"][n // 34]) for t, u, n in judgements()]
    file = written(folder / "classes.csv", ["coder", "text", "emotion"], rows)
    return file, {"kind": "multiclass", "label_column": "emotion"}


def with_gaps(folder: Path) -> tuple[Path, dict]:
    rows = [(t, u, "" if n % 3 == 0 else int(n > 50), int(n > 20)) for t, u, n in judgements()]
    file = written(folder / "gaps.csv", ["text", "user", "sad", "glad"], rows)
    return file, {"labels": {"sad": {}, "glad": {}}, "allow_missing": True}


def one_each(folder: Path) -> tuple[Path, dict]:
    texts = sentences(300)
    rows = [{"body": text, "reviewer": f"r{n % 6}", "helpful": n % 6 > n % 4} for n, text in enumerate(texts)]
    (folder / "once.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "once.jsonl", {"text": "body", "user": "reviewer", "labels": {"helpful": {}}}


def many_people(folder: Path) -> tuple[Path, dict]:
    rng = np.random.default_rng(0)
    user, texts = np.repeat(np.arange(50_000), 2), np.asarray(sentences(5_000), dtype=object)
    text = rng.integers(0, 5_000, len(user))
    text[1::2] = (text[::2] + 1) % 5_000
    columns = {"user_id": user, "post": texts[text], "toxic": rng.random(len(user)) < 0.4}
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), folder / "many.parquet")
    return folder / "many.parquet", {"user": "user_id", "text": "post", "labels": {"toxic": {}}}


def russian(folder: Path) -> tuple[Path, dict]:
    text = dict(zip(sentences(60), sentences(60, ["солнце", "дождь", "чай", "поезд", "собака", "письмо"]), strict=True))
    rows = [(text[t], u, int(n > 50), ["train", "dev", "test"][len(t) % 3]) for t, u, n in judgements()]
    file = written(folder / "russian.csv", ["текст", "participant", "грубо", "split"], rows, ";")
    return file, {"text": "текст", "labels": {"грубо": {}}, "split_column": "split"}


def wide(folder: Path) -> tuple[Path, dict]:
    given: dict[str, dict[str, int]] = {}
    for text, user, number in judgements():
        given.setdefault(text, {})[user] = int(number > 50)
    people = [f"p{user:03d}" for user in range(8)]
    rows = [(text, *(by.get(person, "") for person in people)) for text, by in given.items()]
    file = written(folder / "wide.csv", ["statement", *(f"rater_{n}" for n in range(1, 9))], rows)
    return file, {"text": "statement", "user": "user", "labels": {"judgement": {}}}


SHAPES = (zero_one, words, scale, classes, with_gaps, one_each, many_people, russian, wide)


def init(file: Path, *more: str) -> dict:
    out = file.with_suffix(".yaml")
    done = CliRunner().invoke(app, ["init", str(file), "--yes", "--json", "--out", str(out), *more])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_table_becomes_an_experiment_that_runs_as_it_is(shape, tmp_path):
    file, expected = shape(tmp_path)
    said = init(file)
    assert {key: said["source"][key] for key in expected} == expected
    if shape is scale:
        said = init(file, "--force", "--at-least", "4")
        assert said["source"]["labels"] == {"politeness": {"at_least": 4, "range": [1, 5]}}
    experiment = load_experiment(Path(said["file"]))
    prepared = pipeline.prepare(experiment)
    assert experiment.subsample.rows or len(prepared.annotations) == said["rows"]
    assert not list(tmp_path.glob("*.refused.csv"))
    assert [arm.name for arm in experiment.arms] == [
        "prior",
        "user-prior",
        "cls",
        "cls+",
        "cls-e",
        "cls-e~shuffled-users",
        "cls-u",
        "cls-u~shuffled-users",
    ]


@pytest.mark.parametrize(
    ("name", "renamed", "labels"),
    [
        ("rottger", {"text": "post", "annotator_id": "rater", "hateful": "is_hateful"}, {"is_hateful"}),
        ("convabuse", {"annotator_id": "judge", "text": "turn"}, {"severity"}),
        ("brighter", {"annotator_id": "worker", "text": "satz"}, {"anger", "joy"}),
    ],
)
def test_real_tables_under_other_names(name, renamed, labels, tmp_path):
    file = locate(name)
    if file is None:
        missing("data", name)
    table = pq.read_table(file).slice(0, 20_000)
    wanted = [column for column in table.column_names if column != "id_status"]
    table = table.select(wanted).rename_columns([renamed.get(column, column) for column in wanted])
    cells = [["" if value is None else value for value in row.values()] for row in table.to_pylist()]
    said = init(written(tmp_path / f"{name}.csv", table.column_names, cells))
    assert said["source"]["user"] in renamed.values() and said["source"]["text"] in renamed.values()
    assert labels <= set(said["source"]["labels"])
    pipeline.prepare(load_experiment(Path(said["file"])), "skip" if said["bad_rows"] else "refuse")


def refusal(file: Path, *more: str) -> str:
    done = CliRunner().invoke(app, ["init", str(file), "--yes", *more])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
    assert not list(file.parent.glob("*.yaml"))
    return done.stderr


def test_what_cannot_be_used_is_one_line_with_a_remedy(tmp_path):
    rows = judgements()
    nobody = written(tmp_path / "nobody.csv", ["text", "rude"], [(t, int(n > 50)) for t, _, n in rows])
    assert "no column identifies the user" in refusal(nobody) and "--user COLUMN" in refusal(nobody)
    alone = written(tmp_path / "alone.csv", ["text", "user", "rude"], [(t, "me", int(n > 50)) for t, _, n in rows])
    assert "names one person only" in refusal(alone)
    once = written(
        tmp_path / "once.csv", ["text", "user", "rude"], [(t, f"u{i}", n % 2) for i, (t, _, n) in enumerate(rows)]
    )
    assert "another person in almost every row" in refusal(once)
    unlabelled = written(tmp_path / "bare.csv", ["text", "user"], [(t, u) for t, u, _ in rows])
    assert "no column holds judgements" in refusal(unlabelled)
    assert "no column 'mood' for --labels" in refusal(zero_one(tmp_path)[0], "--labels", "mood")
    assert "no such file" in refusal(tmp_path / "gone.csv")


def test_what_was_said_is_not_guessed_and_nothing_is_written_over(tmp_path):
    file, _ = zero_one(tmp_path)
    said = init(file, "--labels", "funny")
    assert list(said["source"]["labels"]) == ["funny"]
    again = CliRunner().invoke(app, ["init", str(file), "--yes", "--out", said["file"]])
    assert again.exit_code == 2 and "is there already" in again.stderr
    assert CliRunner().invoke(app, ["init", str(file), "--yes", "--force", "--out", said["file"]]).exit_code == 0


def test_it_says_whether_there_is_anything_to_learn(tmp_path):
    leaning = init(zero_one(tmp_path)[0])
    assert leaning["agreement"]["rude"] < 0.5 and leaning["user_offset"]["rude"] > 0.2
    texts = sentences(60)
    alike = [(text, f"p{user}", place % 2) for place, text in enumerate(texts) for user in range(6)]
    said = init(written(tmp_path / "alike.csv", ["text", "user", "rude"], alike), "--labels", "rude")
    assert said["agreement"]["rude"] == pytest.approx(1.0)
    assert "little for personalisation to gain" in said["words"][0]

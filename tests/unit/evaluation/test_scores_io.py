"""Scores as files: everything reported is computed again from them, and nothing from damaged or foreign ones."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.evaluation.arm_scores import ArmScores, Judgements
from beholder.evaluation.metrics import fit_thresholds
from beholder.evaluation.results import evaluate
from beholder.evaluation.saved_run import recompute
from beholder.evaluation.scores_io import read_scores, write_scores
from beholder.report.figures import write_figures
from beholder.util.errors import DataError

pytestmark = pytest.mark.long


def arm(name, strength, annotations, control_of=None, seed=0):
    rng = np.random.default_rng(seed)
    gold = np.nan_to_num(annotations.labels)
    scores = np.clip(strength * gold + (1 - strength) * rng.random(gold.shape), 0, 1).astype(np.float32)
    thresholds = fit_thresholds(scores, annotations.labels, "multilabel")
    return ArmScores(name, "cls", thresholds, scores, scores, 1.5, control_of)


def annotations(rows=240):
    rng = np.random.default_rng(0)
    texts = [f"text {i // 4}" for i in range(rows)]
    labels = (rng.random((rows, 3)) < [0.5, 0.3, 0.2]).astype(float)
    labels[::11, 1] = np.nan
    users = [f"user-{i % 4}" for i in range(rows)]
    return Annotations.from_columns(
        Task(("angry", "rude", "a label with a long name")), text=texts, user_id=users, labels=labels
    )


def three_arms(rows):
    return [
        arm("cls", 0.3, rows, seed=1),
        arm("cls-p", 0.7, rows, seed=2),
        arm("cls-p~shuffled-users", 0.3, rows, control_of="cls-p", seed=3),
    ]


def test_a_method_wins_only_if_its_control_does_not():
    rows = annotations()
    of = Judgements.of(rows)

    def wins(arms):
        found = evaluate(arms, of, of, rows.task, "cls")
        return found.to_json()["methods"]["cls-p"]["wins"]

    first, second, control = three_arms(rows)
    assert wins([first, second, control])
    assert not wins([first, second, arm(control.name, 0.7, rows, control_of="cls-p", seed=4)])
    assert not wins([first, arm("cls-p", 0.3, rows, seed=5)])


def test_several_controls_are_held_against_as_their_mean():
    rows = annotations()
    first, second, control = three_arms(rows)
    other = arm("cls-p~other", 0.5, rows, control_of="cls-p", seed=7)
    of = Judgements.of(rows)

    def beyond(*controls):
        arms = [first, second, *controls]
        return evaluate(arms, of, of, rows.task, "cls").beyond["cls-p"].points

    assert beyond(control, other) == pytest.approx((beyond(control) + beyond(other)) / 2)


def test_everything_reported_is_computed_again_from_the_saved_scores(tmp_path):
    rows = annotations()
    arms, of = three_arms(rows), Judgements.of(annotations())
    original = evaluate(arms, of, of, rows.task, "cls")
    for each in arms:
        write_scores(tmp_path / "scores" / f"{each.name}.parquet", each, rows, rows)
    settings = {"reference": "cls", "arms": [each.name for each in arms]}
    (tmp_path / "evaluation.json").write_text(json.dumps(settings))
    again = recompute(tmp_path)
    assert again.to_json() == original.to_json()
    json.loads(json.dumps(again.to_json(), allow_nan=False))
    table = again.user_table()
    assert table["user_id"].to_pylist() == [f"user-{i}" for i in range(4)]
    assert {"macro_f1.cls-p", "gain_points.cls-p", "log_loss_gain.cls-p", "rows"} <= set(table.column_names)
    figures = write_figures(tmp_path / "figures", tmp_path / "of-users", again)
    assert {file.name for file in figures} >= {"gain.png", "gain-per-label-cls-p.png", "gain-per-user-cls-p.png"}
    assert all(file.read_bytes()[:4] == b"\x89PNG" and file.stat().st_size > 5000 for file in figures)


def test_a_scores_file_comes_back_as_it_was_and_a_damaged_one_is_named(tmp_path):
    rows = annotations()
    file, written = tmp_path / "cls.parquet", three_arms(rows)[2]
    write_scores(file, written, rows, rows)
    found = read_scores(file)
    assert (found.arm.name, found.arm.control_of, found.task.labels) == (written.name, "cls-p", rows.task.labels)
    np.testing.assert_array_equal(found.arm.test_scores, written.test_scores)
    np.testing.assert_array_equal(found.arm.thresholds, written.thresholds)
    np.testing.assert_array_equal(found.valid.labels, rows.labels)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cls\.parquet: no readable scores"):
        read_scores(file)
    with pytest.raises(DataError, match="no readable settings"):
        recompute(tmp_path)


def test_no_flipped_bit_in_a_scores_file_goes_unseen(tmp_path):
    rows = annotations(40)
    file, written = tmp_path / "cls.parquet", arm("cls", 0.5, rows)
    write_scores(file, written, rows, rows)
    whole, refused = file.read_bytes(), 0
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        try:
            found = read_scores(file)
        except DataError as error:
            refused += "\n" not in str(error)
            continue
        np.testing.assert_array_equal(found.arm.test_scores, written.test_scores)
        np.testing.assert_array_equal(found.arm.thresholds, written.thresholds)
        np.testing.assert_array_equal(found.valid.labels, rows.labels)
        np.testing.assert_array_equal(found.test.user_ids, rows.user_ids)
    assert refused > len(whole) / 3 / 2


def test_another_table_and_a_newer_scores_file_are_refused(tmp_path):
    rows, file = annotations(40), tmp_path / "cls.parquet"
    rows.write_parquet(file)
    with pytest.raises(DataError, match="not a scores file of beholder"):
        read_scores(file)
    write_scores(file, arm("cls", 0.5, rows), rows, rows)
    table = pq.read_table(file)
    pq.write_table(table.drop_columns(["user_id"]), file)
    with pytest.raises(DataError, match="column 'user_id' is missing"):
        read_scores(file)
    described = {**json.loads(table.schema.metadata[b"beholder_scores"]), "format": 5}
    metadata = {**table.schema.metadata, b"beholder_scores": json.dumps(described).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), file)
    with pytest.raises(DataError, match="format 5 is newer"):
        read_scores(file)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{", "no readable settings"),
        ("[]", "no readable settings"),
        ('{"seed": 0}', "no readable settings .KeyError: 'reference'"),
        ('{"reference": "clss", "draws": 5, "seed": 0}', "Did you mean 'cls'"),
        ('{"reference": "cls", "draws": 5, "seed": 0, "arms": ["cls", "gone"]}', r"gone\.parquet: no readable scores"),
    ],
)
def test_settings_that_cannot_be_used_are_named(tmp_path, written, message):
    rows = annotations(40)
    write_scores(tmp_path / "scores" / "cls.parquet", arm("cls", 0.5, rows), rows, rows)
    (tmp_path / "evaluation.json").write_text(written)
    with pytest.raises(DataError, match=message):
        recompute(tmp_path)


def test_without_a_list_of_arms_every_scores_file_is_one(tmp_path):
    rows = annotations()
    for each in three_arms(rows):
        write_scores(tmp_path / "scores" / f"{each.name}.parquet", each, rows, rows)
    settings = {"reference": "cls", "draws": 30, "seed": 1, "level": 0.5}
    (tmp_path / "evaluation.json").write_text(json.dumps(settings))
    narrow = recompute(tmp_path)
    assert [each.name for each in narrow.arms] == ["cls", "cls-p", "cls-p~shuffled-users"]
    (tmp_path / "evaluation.json").write_text(json.dumps({**settings, "level": 0.95}))
    assert recompute(tmp_path).gains["cls-p"].low < narrow.gains["cls-p"].low


@pytest.mark.parametrize("part", ["valid", "test"])
def test_arms_held_against_other_judgements_of_the_same_texts_are_refused(tmp_path, part):
    rows = annotations()
    others = rows.replace_users([f"user-{(i + 1) % 4}" for i in range(len(rows))])
    first, second, _ = three_arms(rows)
    write_scores(tmp_path / "scores" / "cls.parquet", first, rows, rows)
    parts = {"valid": rows, "test": rows} | {part: others}
    write_scores(tmp_path / "scores" / "cls-p.parquet", second, **parts)
    settings = {"reference": "cls", "draws": 20, "seed": 0, "arms": ["cls", "cls-p"]}
    (tmp_path / "evaluation.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="other rows"):
        recompute(tmp_path)


def test_arms_scored_on_other_rows_are_refused(tmp_path):
    rows = annotations()
    first, second, _ = three_arms(rows)
    write_scores(tmp_path / "scores" / "cls.parquet", first, rows, rows)
    fewer = rows.select(range(100))
    short = ArmScores("cls-p", "cls", second.thresholds, second.valid_scores[:100], second.test_scores[:100], 1.0)
    write_scores(tmp_path / "scores" / "cls-p.parquet", short, fewer, fewer)
    settings = {"reference": "cls", "draws": 20, "seed": 0, "arms": ["cls", "cls-p"]}
    (tmp_path / "evaluation.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="other rows"):
        recompute(tmp_path)

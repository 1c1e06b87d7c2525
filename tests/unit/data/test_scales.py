"""Answers on scales as nested labels: nothing is lost, and distributions come back from scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from beholder.data.annotations import Annotations
from beholder.data.label_rules import LabelRule, RefusedValueError
from beholder.data.scales import Scale
from beholder.data.task import Task, tasks_of
from beholder.util.errors import DataError

POINTS = st.lists(st.integers(-50, 50), min_size=2, max_size=9, unique=True).map(
    lambda some: tuple(map(float, sorted(some)))
)
SCORES = st.integers(1, 8).flatmap(
    lambda labels: st.lists(st.lists(st.floats(0, 1), min_size=labels, max_size=labels), min_size=1, max_size=5)
)


@given(POINTS, st.data())
def test_ordinal_answers_come_back_and_their_labels_are_nested(points, data):
    scale = Scale("q", points)
    answers = np.asarray(data.draw(st.lists(st.sampled_from(points), min_size=1, max_size=8)))
    labels = scale.encode(answers)
    assert labels.shape == (len(answers), len(scale.labels)) and set(labels.ravel()) <= {0, 1}
    assert (np.diff(labels, axis=1) <= 0).all()
    assert np.allclose(scale.decode(labels), answers)
    assert [int(row.sum()) for row in labels] == [points.index(answer) for answer in answers]


@given(st.floats(-1e3, 1e3), st.floats(0.1, 1e3), st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(2, 40))
def test_answers_of_a_slider_come_back_without_loss(low, length, places, cuts):
    scale = Scale.continuous("q", low, low + length, cuts)
    answers = low + length * np.asarray(places)
    assert np.allclose(scale.decode(scale.encode(answers)), answers, atol=1e-6 * (1 + abs(low) + length))


@given(SCORES, st.sampled_from(["ordinal", "continuous"]))
def test_probabilities_add_up_and_quantiles_rise(scores, kind):
    found = np.asarray(scores)
    scale = Scale("q", tuple(map(float, range(found.shape[1] + 1))), kind)
    shares = scale.probabilities(found)
    assert np.allclose(shares.sum(axis=-1), 1) and (shares >= -1e-12).all()
    quantiles = np.stack([scale.quantile(found, share) for share in np.linspace(0.02, 0.98, 25)])
    assert (np.diff(quantiles, axis=0) >= -1e-9).all()
    assert ((quantiles >= 0) & (quantiles <= found.shape[1])).all()
    if kind == "ordinal":
        points = np.arange(found.shape[1] + 1)
        below = np.cumsum(shares, axis=-1)
        low, high = scale.interval(found)
        inside = ((points >= low[:, None]) & (points <= high[:, None])) * shares
        assert (inside.sum(axis=-1) >= 0.9 - 1e-9).all()
        median = scale.median(found)
        assert all(below[row, int(median[row])] >= 0.5 - 1e-9 for row in range(len(found)))
        error = (shares[:, None, :] * np.abs(points[:, None] - points[None, :])[None]).sum(axis=-1)
        assert np.allclose(error[np.arange(len(found)), median.astype(int)], error.min(axis=1))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95), st.floats(0.5, 8))
def test_intervals_of_a_slider_hold_what_they_claim_where_scores_are_the_truth(seed, mean, size):
    random = np.random.default_rng(seed)
    answers = random.beta(size * mean, size * (1 - mean), 4_000) * 100
    scale = Scale.continuous("q", 0, 100)
    low, high = scale.interval(scale.encode(answers).mean(axis=0))
    within = ((answers >= low) & (answers <= high)).mean()
    heaped = low == 0 and high == 100  # at both ends, more than the tails hold
    assert (0.88 <= within <= 0.93 or heaped) and np.isclose(
        scale.mean(scale.encode(answers).mean(axis=0)), answers.mean()
    )


def test_a_task_of_labels_and_scales_knows_its_questions_and_comes_back():
    task = Task.of(["rude", Scale("polite", (1.0, 2.0, 3.0)), Scale("mood", (0.0, 1.0), words=("no", "yes"))])
    assert task.labels == ("rude", "polite>=2", "polite>=3", "mood>=yes")
    assert [question.name for question in task.questions] == ["rude", "polite", "mood"]
    assert task.scaled.tolist() == [False, True, True, True]
    assert Task.from_json(task.to_json()) == task
    assert tasks_of(Task.of([Scale("slider", (0.5, 1.5, 2.5))]).labels) == {}


@pytest.mark.parametrize("points", [(1.0,), (2.0, 1.0), (1.0, 1.0)])
def test_a_scale_without_a_range_is_refused(points):
    with pytest.raises(DataError, match=r"source.labels.q: a scale needs at least two points, lowest first"):
        Scale("q", points)


def test_annotations_of_scales_are_written_and_read_again(tmp_path):
    task = Task.of([Scale.continuous("warm", 0, 100), "rude", Scale("polite", (1.0, 2.0, 3.0, 4.0))])
    answers = np.asarray([0.0, 12.5, 100.0])
    labels = np.concatenate(
        [task.scales[0].encode(answers), [[1], [0], [np.nan]], task.scales[1].encode(np.asarray([1, 4, np.nan]))],
        axis=1,
    )
    rows = Annotations.from_columns(task, text=["a", "b", "c"], user_id=["u", "u", "v"], labels=labels)
    rows.write_parquet(tmp_path / "rows.parquet")
    again = Annotations.read_parquet(tmp_path / "rows.parquet")
    assert again.task == task and again.fingerprint == rows.fingerprint
    assert np.allclose(task.scales[0].decode(again.labels[:, :20]), answers, atol=1e-4)


@pytest.mark.parametrize(
    ("rule", "value", "answer"),
    [
        ({"kind": "ordinal", "range": [1, 5]}, "4", 4),
        ({"kind": "ordinal", "range": [0, 3]}, 0, 0),
        ({"kind": "ordinal", "steps": ["no", "some", "much"]}, "much", 2),
        ({"kind": "ordinal", "steps": [1, 2, 4]}, "4", 4),
        ({"kind": "ordinal", "range": [1, 5], "values": {"n/a": None}}, "n/a", np.nan),
        ({"kind": "continuous", "range": [0, 100]}, "12.5", 12.5),
        ({"kind": "soft"}, "0.25", 0.25),
        ({"kind": "soft", "range": [0, 100]}, 25, 0.25),
    ],
)
def test_rules_of_scales_read_answers(rule, value, answer):
    found = LabelRule(**rule).read(value, missing=False)
    assert found == answer or (np.isnan(found) and np.isnan(answer))


def test_answers_heaped_at_the_ends_are_predicted_there():
    scale = Scale.continuous("q", 0, 100)
    for answers, median in (([100.0] * 9, 100), ([0.0] * 9, 0), ([100.0] * 6 + [0.0] * 4, 100)):
        assert scale.median(scale.encode(np.asarray(answers)).mean(axis=0)) == median


def test_mean_and_distribution_agree_where_steps_differ_and_scores_cross():
    scale = Scale("q", (0.0, 1.0, 10.0))
    scores = np.asarray([0.2, 0.8])
    assert scale.mean(scores) == pytest.approx(scale.probabilities(scores) @ np.asarray(scale.points))


@pytest.mark.parametrize("library", ["arrow", "pandas"])
def test_answers_go_to_another_library_and_come_back(library):
    words, slider = Scale("how", (0.0, 1.0, 2.0), words=("no", "some", "much")), Scale.continuous("s", 0.7, 0.9)
    task = Task.of([words, slider, "rude"])
    labels = np.column_stack(
        [words.encode(np.asarray([0, 2, np.nan])), slider.encode(np.asarray([0.7, 0.9, 0.81])), [1, 0, 1]]
    )
    rows = Annotations.from_columns(task, text=["a", "b", "c"], user_id=["u", "u", "v"], labels=labels)
    rules = {
        "how": {"kind": "ordinal", "steps": ["no", "some", "much"]},
        "s": {"kind": "continuous", "range": [0.7, 0.9]},
        "rude": {},
    }
    out = getattr(rows, f"to_{library}")()
    back = getattr(Annotations, f"from_{library}")(out, labels=rules, text_id="text_id", allow_missing=True)
    assert back.task == task
    np.testing.assert_allclose(back.labels, rows.labels, atol=1e-3)


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "ordinal", "range": [1, 5], "values": {"often": 7}},
        {"kind": "ordinal", "range": [1, 5], "values": {"often": 2.5}},
        {"kind": "continuous", "range": [0, 1], "values": {"often": 7}},
    ],
)
def test_a_word_cannot_stand_for_what_is_not_on_the_scale(rule):
    with pytest.raises(RefusedValueError):
        LabelRule(**rule).read("often", missing=False)


def test_a_word_stands_for_its_place_on_a_scale_of_probabilities():
    rule = LabelRule(kind="soft", range=(0, 100), values={"sure": 100})
    assert rule.read("sure", missing=False) == 1


@pytest.mark.parametrize("steps", [(1, 2, "many"), ("low", "mid", "low")])
def test_steps_that_are_no_scale_are_refused(steps):
    with pytest.raises(ValidationError, match=r"steps (are all names or all numbers|has one twice)"):
        LabelRule(kind="ordinal", steps=steps)

"""Predictions as callers have them: labels by name, answers on scales with their intervals, in frames and tables."""

from __future__ import annotations

import numpy as np
import pytest
from crowd import crowd
from hypothesis import given
from hypothesis import strategies as st

import beholder as bh
from beholder.data.scales import Scale
from beholder.data.task import Task
from beholder.workflows.predictions import Perspectives, UserPredictions

WORDS = Scale("mood", (0.0, 1.0, 2.0), words=("calm", "cross", "furious"))
SLIDER = Scale.continuous("warmth", 0, 100, 4)
TASK = Task.of(["rude", WORDS, "kind", SLIDER])


def predictions(task: Task = TASK, rows: int = 3, seed: int = 0) -> UserPredictions:
    scores = np.random.default_rng(seed).random((rows, len(task.labels)), dtype=np.float32)
    texts, users = [f"text {row}" for row in range(rows)], [f"user {row}" for row in range(rows)]
    return UserPredictions(texts, users, task, scores, scores >= 0.5, ["cls-u"] * rows, np.ones(rows, dtype=bool))


def perspectives(texts: int, users: int) -> Perspectives:
    scores = np.random.default_rng(1).random((texts, users, len(TASK.labels)), dtype=np.float32)
    names = [f"text {each}" for each in range(texts)], [f"user {each}" for each in range(users)]
    return Perspectives(*names, TASK, scores, scores >= 0.5)


def test_a_scale_has_a_value_and_an_interval_in_place_of_its_labels():
    found = predictions()
    frame = found.to_pandas()
    assert list(frame) == [
        *("text", "user_id", "score.rude", "score.kind", "given.rude", "given.kind"),
        *("value.mood", "low.mood", "high.mood", "value.warmth", "low.warmth", "high.warmth", "route", "known"),
    ]
    assert found.labels == TASK.labels and set(found.values) == {"mood", "warmth"} == set(found.intervals)
    assert np.allclose(found.values["mood"], found.scores[:, 1:3].sum(axis=1))
    assert np.allclose(frame["value.warmth"], 25 * found.scores[:, 4:].sum(axis=1))
    assert (frame["score.kind"] == found.scores[:, 3]).all() and frame["given.rude"].dtype == bool
    assert set(frame["low.mood"]) <= {0.0, 1.0, 2.0}


@given(st.integers(0, 3), st.integers(1, 4))
def test_values_of_perspectives_are_those_of_their_rows(texts, users):
    every = perspectives(texts, users)
    assert every.values["mood"].shape == (texts, users) == every.intervals["warmth"][0].shape
    frame = every.to_pandas()
    assert len(frame) == texts * users
    for name in ("mood", "warmth"):
        low, high = every.intervals[name]
        assert (low <= high).all()
        assert (frame[f"value.{name}"].to_numpy().reshape(texts, users) == every.values[name]).all()
        assert (frame[f"high.{name}"].to_numpy().reshape(texts, users) == high).all()
    if texts:
        row = UserPredictions(
            every.texts[:1] * users, every.users, TASK, every.scores[0], every.decisions[0], ["a"] * users,
            np.ones(users, dtype=bool),
        )  # fmt: skip
        assert (row.values["warmth"] == every.values["warmth"][0]).all()


def test_tables_show_scales_and_not_the_labels_they_are_in():
    rows, every = repr(predictions()), repr(perspectives(2, 3))
    value, (low, high) = predictions().values["mood"][0], predictions().intervals["mood"]
    assert f"{value:.2f} ({low[0]:g} to {high[0]:g})" in rows and "90 %" in rows
    for shown in (rows, every, predictions()._repr_html_()):
        assert "warmth" in shown and "rude" in shown and ">=" not in shown and "text 0" not in shown
    assert "predicted" not in repr(predictions(Task.of([WORDS])))
    assert "more rows" in repr(predictions(rows=30))
    assert repr(perspectives(0, 2)) and len(predictions(rows=0)) == 0 and repr(predictions(rows=0)) == ""


def test_labels_alone_are_as_they_were():
    found = predictions(Task(("rude", "kind")))
    assert found.values == {} == found.intervals and "scales" not in repr(found)
    assert list(found.to_pandas())[2:6] == ["score.rude", "score.kind", "given.rude", "given.kind"]


@pytest.mark.parametrize("kind", ["ordinal", "continuous"])
def test_a_fitted_model_predicts_on_the_scale_of_its_task(kind):
    rows = crowd(kind=kind)
    model = bh.fit("user-prior", rows, rows, base="nowhere")
    scale = rows.task.scales[0]
    found = model.predict(rows.texts[:5], rows.user_ids[:5])
    assert ((scale.points[0] <= found.values["rude"]) & (found.values["rude"] <= scale.points[-1])).all()
    every = model.perspectives(rows.texts[0], users=["u0", "u1", "u2", "u3"])
    assert every.values["rude"].shape == (1, 4)
    assert every.values["rude"][0, 3] > every.values["rude"][0, 0]  # who answers higher is predicted higher
    assert "rude, 1 to 4" in model._repr_html_() and ">=" not in model._repr_html_()
    assert model.predict([], []).values["rude"].shape == (0,)

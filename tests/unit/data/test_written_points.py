"""One ordinal scale as a choice among its points, and back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beholder.data.annotations import Annotations
from beholder.data.scales import Scale
from beholder.data.task import Task
from beholder.data.written_points import scores_of_points, written_rows, written_task

SCALE = Scale("polite", (1.0, 2.0, 3.0, 4.0))
TASK = Task.of([SCALE])


def rows_of(answers) -> Annotations:
    labels = SCALE.encode(np.asarray(answers, dtype=float))
    texts = [f"text {row}" for row in range(len(answers))]
    return Annotations.from_columns(TASK, text=texts, user_id=["u"] * len(answers), labels=labels)


@given(st.lists(st.sampled_from(SCALE.points), min_size=1, max_size=9))
def test_every_answer_is_the_point_of_its_name(answers):
    written = written_rows(rows_of(answers))
    assert written.task == Task(("1", "2", "3", "4"), "multiclass")
    names = [written.task.labels[place] for place in written.labels.argmax(axis=1)]
    assert names == [f"{answer:g}" for answer in answers] and (written.labels.sum(axis=1) == 1).all()
    np.testing.assert_array_equal(scores_of_points(TASK, written.labels), rows_of(answers).labels)


@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
def test_likelihoods_of_points_are_the_distribution(weights):
    shares = np.asarray([weights], dtype=np.float32)
    scores = scores_of_points(TASK, shares)
    expected = shares[0] / shares[0].sum()
    np.testing.assert_allclose(SCALE.probabilities(scores)[0], expected, atol=1e-5)
    np.testing.assert_allclose(SCALE.mean(scores)[0], expected @ np.asarray(SCALE.points), atol=1e-5)


def test_other_tasks_stay_as_they_are():
    for task in (
        Task(("rude",)),
        Task(("a", "b"), "multiclass"),
        Task.of(["rude", SCALE]),
        Task.of([Scale.continuous("warm", 0, 1)]),
    ):
        assert written_task(task) == task

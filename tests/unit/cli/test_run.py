"""What `beholder run` shows of a held-out text whose users answered differently on a scale."""

from __future__ import annotations

import numpy as np
import pytest

from beholder.cli.run import most_telling_pair, scale_lines
from beholder.data.annotations import Annotations
from beholder.data.scales import Scale
from beholder.data.task import Task
from beholder.registry.bundle import Predictions

MOOD = Scale("mood", (0.0, 1.0, 2.0), words=("calm", "cross", "furious"))
WARMTH = Scale.continuous("warmth", 0, 100, 4)


@pytest.mark.parametrize(
    ("scale", "answers", "shown"),
    [
        (MOOD, (0, 2), ["Scale: mood, 0 calm to 2 furious", "  ann answered 0 ", "  bob answered 2 "]),
        (WARMTH, (10, 70.5), ["Scale: warmth, 0 to 100", "  ann answered 10 ", "  bob answered 70.5 "]),
    ],
)
def test_answers_and_their_intervals_are_in_the_unit_of_the_scale(scale, answers, shown):
    task = Task.of(["rude", scale])
    labels = np.column_stack([np.zeros(2), scale.encode(np.asarray(answers, dtype=float))])
    rows = Annotations.from_columns(task, text=["a", "a"], user_id=["ann", "bob"], labels=labels)
    scores = np.clip(rows.labels, 0.02, 0.98)
    found = Predictions(scores, scores >= 0.5, ["cls", "cls-u"])
    first, second, label = most_telling_pair(rows.texts, rows.labels, found.scores, found.decisions)
    question = next(each for each in task.questions if label in each.columns)
    lines = scale_lines(rows, found, question, (first, second))
    assert all(line.startswith(start) for line, start in zip(lines, shown, strict=True))
    value = scale.mean(scores[second, list(question.columns)])
    low, high = scale.interval(scores[second, list(question.columns)])
    assert lines[2].endswith(f"cls-u predicts {value:.2f} (90 % interval {low:.4g} to {high:.4g})")

"""Measures of scales: their values by definition, and their influences by moving a row's weight."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from beholder.data.scales import Scale
from beholder.data.task import Task
from beholder.evaluation.headline import answers, headline, metric_of, parts
from beholder.evaluation.scale_measures import scale_measures

SCALE = Scale("polite", (1.0, 2.0, 3.0, 4.0, 5.0))


def world(rows: int = 200, seed: int = 3):
    random = np.random.default_rng(seed)
    truth = random.integers(1, 6, rows).astype(float)
    centre = np.clip(truth + random.normal(0, 1, rows), 1, 5)
    scores = 1 / (1 + np.exp(-1.5 * (centre[:, None] - np.asarray(SCALE.points[1:]) + 0.5)))
    users = np.asarray([f"u{each}" for each in random.integers(0, 12, rows)], dtype=object)
    return truth, scores, users


def test_measures_are_what_their_names_say():
    truth, scores, users = world()
    found, facts = scale_measures(SCALE, scores, SCALE.encode(truth), users)
    median, mean = SCALE.median(scores), SCALE.mean(scores)
    assert found["mae"].value == pytest.approx(np.abs(truth - median).mean())
    assert found["rmse"].value == pytest.approx(np.sqrt(((truth - mean) ** 2).mean()))
    kappa = cohen_kappa_score(truth.astype(int), median.astype(int), weights="quadratic")
    assert found["quadratic_kappa"].value == pytest.approx(kappa)
    each = [spearmanr(truth[users == user], mean[users == user]).statistic for user in sorted(set(users))]
    assert found["spearman"].value == pytest.approx(np.mean(each))
    low, high = SCALE.interval(scores)
    assert facts["coverage"].value == pytest.approx(((truth >= low) & (truth <= high)).mean())


@pytest.mark.parametrize("name", ["mae", "rmse", "quadratic_kappa", "coverage", "width"])
def test_influences_are_derivatives(name):
    """A row that counts 1 + h times, by repeating all others 1/h times, moves the measure by h times its influence."""
    truth, scores, users = world(60)

    def measured(rows):
        found, facts = scale_measures(SCALE, scores[rows], SCALE.encode(truth[rows]), users[rows])
        return (found | facts)[name]

    once = measured(np.arange(60))
    assert once.influence.sum() == pytest.approx(0, abs=1e-9)
    times, row = 200, 7
    many = np.concatenate([np.repeat(np.arange(60), times), [row]])
    moved = measured(many)
    assert (moved.value - once.value) * times == pytest.approx(once.influence[row], rel=0.03, abs=1e-4)


def test_what_was_not_asked_does_not_count():
    truth, scores, users = world()
    truth[50:] = np.nan
    alone = scale_measures(SCALE, scores[:50], SCALE.encode(truth[:50]), users[:50])[0]
    beside = scale_measures(SCALE, scores, SCALE.encode(truth), users)[0]
    for name, each in alone.items():
        assert beside[name].value == pytest.approx(each.value) and (beside[name].influence[50:] == 0).all()


def test_the_headline_of_a_scale_is_one_less_its_normalised_error():
    truth, scores, users = world()
    task = Task.of([SCALE])
    predicted = answers(scores, np.full(4, 0.5), task)
    error = scale_measures(SCALE, scores, SCALE.encode(truth), users)[0]["mae"].value
    assert headline(predicted, SCALE.encode(truth), task) == pytest.approx(1 - error / 4)
    assert metric_of(task) == "scale accuracy"


def test_labels_beside_a_scale_keep_their_f1():
    truth, scores, _ = world()
    task = Task.of(["rude", SCALE])
    rude = (truth > 3).astype(float)
    both, labels = np.column_stack([1 - scores[:, 1], scores]), np.column_stack([rude, SCALE.encode(truth)])
    values, influence = parts(answers(both, np.full(5, 0.5), task), labels, task)
    said = both[:, 0] >= 0.5
    assert values[0] == pytest.approx(2 * (said & (rude == 1)).sum() / (said.sum() + rude.sum()))
    assert np.allclose(influence.sum(axis=0), 0) and metric_of(task) == "F1 and scale accuracy"

"""Metrics agree with scikit-learn where it has them, and keep their laws where it has not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, f1_score

from beholder.evaluation.metrics import (
    decide,
    expected_calibration_error,
    f1,
    f1_per_label,
    fit_thresholds,
    macro_f1,
    per_user,
    reliability,
    subset_accuracy,
)


def judged(seed=0, rows=400, labels=4):
    rng = np.random.default_rng(seed)
    gold = (rng.random((rows, labels)) < [0.5, 0.2, 0.05, 0.4][:labels]).astype(np.float32)
    scores = np.clip(gold * 0.3 + rng.random((rows, labels)) * 0.7, 0, 1).astype(np.float32)
    return scores, gold


@pytest.mark.parametrize("seed", range(5))
def test_f1_and_accuracy_are_scikit_learns(seed):
    scores, gold = judged(seed)
    decisions = decide(scores, np.full(4, 0.45, np.float32), "multilabel")
    np.testing.assert_allclose(f1_per_label(decisions, gold), f1_score(gold, decisions, average=None))
    assert macro_f1(decisions, gold) == pytest.approx(f1_score(gold, decisions, average="macro"))
    assert subset_accuracy(decisions, gold) == pytest.approx(accuracy_score(gold, decisions))


def test_multiclass_takes_the_highest_score():
    scores = np.asarray([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], dtype=np.float32)
    assert decide(scores, np.full(3, 0.5), "multiclass").tolist() == [[False, True, False], [True, False, False]]
    rng = np.random.default_rng(0)
    gold, said = rng.integers(0, 3, 200), rng.random((200, 3)).astype(np.float32)
    ours = macro_f1(decide(said, np.full(3, 0.5), "multiclass"), np.eye(3)[gold])
    assert ours == pytest.approx(f1_score(gold, said.argmax(axis=1), average="macro"))


def test_what_was_not_asked_does_not_count():
    scores, gold = judged()
    decisions = scores >= 0.45
    holes = gold.copy()
    holes[np.random.default_rng(1).random(gold.shape) < 0.3] = np.nan
    expected = [
        f1_score(gold[asked, label], decisions[asked, label])
        for label in range(4)
        for asked in [~np.isnan(holes[:, label])]
    ]
    np.testing.assert_allclose(f1_per_label(decisions, holes), expected)
    flipped = np.where(np.isnan(holes), ~decisions, decisions)
    assert macro_f1(flipped, holes) == macro_f1(decisions, holes)
    assert subset_accuracy(flipped, holes) == subset_accuracy(decisions, holes)


def test_a_label_without_a_positive_is_left_out_whatever_is_predicted():
    gold = np.asarray([[1.0, 0.0], [0.0, 0.0]])
    none, all_ = np.asarray([[True, False], [False, False]]), np.asarray([[True, True], [False, True]])
    assert macro_f1(none, gold) == macro_f1(all_, gold) == 1.0
    assert np.isnan(f1_per_label(none, gold)[1])
    assert np.isnan(macro_f1(none, np.zeros((2, 2))))


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 25), st.just(2)), elements=st.sampled_from([i / 8 for i in range(9)])
    ),
    st.randoms(use_true_random=False),
)
def test_no_other_threshold_does_better(scores, random):
    gold = np.asarray([[random.choice([0.0, 1.0, 1.0, np.nan]) for _ in range(2)] for _ in scores])
    thresholds = fit_thresholds(scores, gold, "multilabel")
    for label in range(2):
        column, truth = scores[:, [label]], gold[:, [label]]
        if not (truth == 1).any():
            assert thresholds[label] == 0.5
            continue
        reached = f1_per_label(column >= thresholds[label], truth)[0]
        tried = [f1_per_label(column >= cut, truth)[0] for cut in np.arange(-1, 18) / 16]
        assert reached == pytest.approx(max(tried))


@pytest.mark.parametrize("steps", range(4))
def test_thresholds_between_neighbouring_floats_still_part_them(steps):
    low = np.float32(0.7)
    for _ in range(steps):  # half-way rounds to the lower neighbour from every second float
        low = np.nextafter(low, np.float32(1))
    high = np.nextafter(low, np.float32(1))
    scores = np.asarray([[low], [high]] * 3, dtype=np.float32)
    gold = np.asarray([[0.0], [1.0]] * 3)
    thresholds = fit_thresholds(scores, gold, "multilabel")
    assert macro_f1(decide(scores, thresholds, "multilabel"), gold) == 1.0


def test_of_equally_good_thresholds_the_one_nearest_a_half_is_taken():
    scores = np.asarray([[0.1], [0.9], [0.95]], dtype=np.float32)
    assert fit_thresholds(scores, np.asarray([[0.0], [1.0], [1.0]]), "multilabel")[0] == pytest.approx(0.5)


def test_thresholds_part_scores_that_are_hardly_apart():
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = (np.float32(0.9) + rng.integers(0, 6, (12, 1)) * np.float32(6e-8)).astype(np.float32)
        gold = np.vstack([(rng.random((11, 1)) < 0.4), [[True]]]).astype(np.float32)
        best = max(f1_per_label(scores >= cut, gold)[0] for cut in np.unique(scores))
        reached = f1_per_label(scores >= fit_thresholds(scores, gold, "multilabel"), gold)[0]
        assert reached == pytest.approx(best)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(1, 9))
def test_f1_does_not_depend_on_the_scale_of_the_weights(true, false, missed, scale):
    parts = [np.asarray([float(part)]) for part in (true, false, missed)]
    np.testing.assert_allclose(f1(*parts), f1(*(scale * part for part in parts)))


def test_per_user_numbers_are_those_of_the_users_rows():
    scores, gold = judged(rows=300)
    users = np.asarray([f"u{i % 7}" for i in range(300)], dtype=object)
    decisions = scores >= 0.45
    found = per_user(decisions, gold, users)
    for place, user in enumerate(found.users):
        mine = users == user
        assert found.rows[place] == mine.sum()
        assert found.macro_f1[place] == pytest.approx(macro_f1(decisions[mine], gold[mine]), nan_ok=True)
        assert found.subset_accuracy[place] == pytest.approx(subset_accuracy(decisions[mine], gold[mine]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_the_order_of_rows_does_not_matter(seed):
    scores, gold = judged(seed, rows=60)
    order = np.random.default_rng(seed).permutation(60)
    np.testing.assert_array_equal(
        fit_thresholds(scores, gold, "multilabel"), fit_thresholds(scores[order], gold[order], "multilabel")
    )
    assert macro_f1(scores > 0.4, gold) == macro_f1(scores[order] > 0.4, gold[order])


def test_true_probabilities_are_calibrated_and_others_are_not():
    rng = np.random.default_rng(0)
    truth = rng.random((20_000, 2)).astype(np.float32)
    gold = (rng.random(truth.shape) < truth).astype(np.float32)
    assert expected_calibration_error(truth, gold) < 0.02
    assert expected_calibration_error(truth**3, gold) > 0.15
    bins = reliability(truth, gold, bins=10)
    np.testing.assert_allclose(bins.confidence, np.arange(0.05, 1, 0.1), atol=0.01)
    np.testing.assert_allclose(bins.frequency, bins.confidence, atol=0.03)
    assert bins.count.sum() == gold.size
    gold[0, 0] = np.nan
    assert reliability(truth, gold).count.sum() == gold.size - 1

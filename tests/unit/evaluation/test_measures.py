"""Measures agree with the field's own libraries, and influences are what a row adds."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sklearn
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.evaluation.gains import gains
from beholder.evaluation.intervals import Clusters
from beholder.evaluation.measures import MEASURES, MethodScores, differences, measure
from beholder.evaluation.metrics import decide, macro_f1


def answers(rows=300, labels=3, kind="multilabel", seed=0, ties=True, users=7) -> MethodScores:
    rng = np.random.default_rng(seed)
    if kind == "multiclass":
        gold = np.eye(labels)[rng.integers(0, labels, rows)]
    else:
        gold = (rng.random((rows, labels)) < 0.3).astype(float)
    scores = 0.4 * gold + 0.6 * rng.random((rows, labels))
    if ties:
        scores = np.round(scores, 1)
    if kind == "multilabel":
        gold[rng.random(gold.shape) < 0.1] = np.nan
    decisions = decide(scores, np.full(labels, 0.5), kind)
    names = np.asarray([f"u{each}" for each in rng.integers(0, users, rows) ** 2 // users], dtype=object)
    return MethodScores(scores, decisions, gold, names, kind)


def some(made: MethodScores, rows) -> MethodScores:
    return MethodScores(made.scores[rows], made.decisions[rows], made.labels[rows], made.users[rows], made.kind)


@pytest.mark.parametrize("ties", [True, False])
def test_values_are_those_of_scikit_learn(ties):
    made = answers(ties=ties)
    found = {name: each.value for name, each in measure(made).items()}
    asked = ~np.isnan(made.labels)
    by_label = [(made.labels[asked[:, k], k], made.scores[asked[:, k], k]) for k in range(3)]
    for name, theirs in (("auroc", sklearn.roc_auc_score), ("average_precision", sklearn.average_precision_score)):
        assert found[name] == pytest.approx(np.mean([theirs(*each) for each in by_label]))
    gold, score = made.labels[asked], np.clip(made.scores[asked], 1e-6, 1 - 1e-6)
    assert found["log_loss"] == pytest.approx(sklearn.log_loss(gold, score))
    assert found["brier"] == pytest.approx(sklearn.brier_score_loss(gold, made.scores[asked]))
    assert found["accuracy"] == pytest.approx(np.mean(made.decisions[asked] == (gold == 1)))
    assert found["macro_f1"] == pytest.approx(macro_f1(made.decisions, made.labels))


def test_of_classes_a_row_is_one_answer():
    made = answers(kind="multiclass")
    found = {name: each.value for name, each in measure(made).items()}
    gold, said = made.labels.argmax(axis=1), made.scores.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(gold, said))
    assert found["brier"] == pytest.approx(((made.scores - made.labels) ** 2).sum(axis=1).mean())
    of_users = [np.mean((gold == said)[made.users == user]) for user in np.unique(made.users)]
    assert found["user_accuracy"] == pytest.approx(np.mean(of_users))


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
@pytest.mark.parametrize("name", [name for name in MEASURES if name != "user_accuracy"])
def test_an_influence_is_what_a_row_adds(name, kind):
    """A row said once more adds its influence, to first order in one by the number of rows."""
    made = answers(rows=500, kind=kind, ties=name == "average_precision")
    found = MEASURES[name].of(made)
    assert found.influence.sum() == pytest.approx(0, abs=1e-9)
    rows = np.arange(500)
    more = np.asarray([MEASURES[name].of(some(made, np.append(rows, row))).value for row in range(0, 500, 9)])
    added, foretold = more - found.value, found.influence[::9]
    np.testing.assert_allclose(added, foretold, atol=0.05 * np.abs(foretold).max())


def test_of_users_accuracy_a_persons_influence_is_what_another_like_them_adds():
    made = answers(rows=2000, users=150)
    found = MEASURES["user_accuracy"].of(made)
    users = np.unique(made.users.astype(str))
    for user in users[::5]:
        rows = np.flatnonzero(made.users == user)
        more = some(made, np.append(np.arange(2000), rows))
        more.users[2000:] = "another"
        added = MEASURES["user_accuracy"].of(more).value - found.value
        assert added == pytest.approx(found.influence[rows].sum() * len(users) / (len(users) + 1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["multilabel", "multiclass"]))
def test_a_methods_gain_over_itself_is_nothing_and_over_another_the_other_way_round(seed, kind):
    one, other = answers(seed=seed, kind=kind), answers(seed=seed, kind=kind, ties=False)
    other = MethodScores(np.sqrt(other.scores), other.decisions, one.labels, one.users, kind)
    clusters = Clusters(one.users, np.arange(len(one.users)) % 40)
    for name, each in differences(measure(one), measure(one), clusters).items():
        assert each.gain == each.low == each.high == 0, name
    forth, back = (
        differences(*pair, clusters) for pair in ((measure(one), measure(other)), (measure(other), measure(one)))
    )
    assert forth.keys() == back.keys() == MEASURES.keys()
    for name, each in forth.items():
        assert each.gain == pytest.approx(-back[name].gain, abs=1e-12)
        assert (each.low, each.texts_high) == pytest.approx((-back[name].high, -back[name].texts_low), abs=1e-9)


def test_macro_f1_has_the_interval_of_gains():
    one, other = answers(), answers(seed=0, ties=False)
    texts = np.asarray([f"t{row % 60}" for row in range(300)], dtype=object)
    expected = gains({"a": one.decisions, "b": other.decisions}, "b", one.labels, texts, one.users)["a"]
    found = differences(measure(one), measure(other), Clusters(one.users, texts))["macro_f1"]
    assert (100 * found.low, 100 * found.high) == pytest.approx((expected.low, expected.high))


def test_without_scores_what_decisions_tell_and_without_answers_nothing():
    made = answers()
    bare = MethodScores(None, made.decisions, made.labels, made.users, "multilabel")
    assert measure(bare).keys() == {"macro_f1", "accuracy", "user_accuracy"}
    nobody = MethodScores(made.scores, made.decisions, np.full_like(made.labels, np.nan), made.users, "multilabel")
    assert all(np.isnan(each.value) and not each.influence.any() for each in measure(nobody).values())

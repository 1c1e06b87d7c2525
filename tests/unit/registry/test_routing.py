"""Who gets which method: laws of the shrinkage, and populations whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beholder.registry.routing import USERS, Population, route, row_losses

FLOATS = st.floats(-2, 2, allow_nan=False)


@given(
    mean=FLOATS,
    between=st.floats(0, 3),
    within=st.floats(0.01, 3),
    gain=FLOATS,
    rows=st.integers(0, 10_000),
)
def test_an_expectation_lies_between_the_users_own_gain_and_everybodys(mean, between, within, gain, rows):
    population = Population(mean, between, within)
    (expected,) = population.expected(np.array([gain]), np.array([rows]))
    assert min(mean, gain) - 1e-9 <= expected <= max(mean, gain) + 1e-9
    if rows == 0 or between == 0:
        assert expected == mean
    (more,) = population.expected(np.array([gain]), np.array([rows + 1]))
    assert abs(more - gain) <= abs(expected - gain) + 1e-9  # another row never moves it away from what was seen


def population(seed: int, users: int, rows: int, mean: float, between: float, within: float):
    """Users, losses of two arms, and each user's true gain."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(mean, np.sqrt(between), users)
    names = np.repeat([f"u{user}" for user in range(users)], rows)
    shared = np.full(users * rows, 1.0)
    personal = shared - np.repeat(truth, rows) - rng.normal(0, np.sqrt(within), users * rows)
    return dict.fromkeys(dict.fromkeys(names), rows), list(names), shared, personal, truth


def test_the_populations_moments_are_found():
    table, found = route(*population(1, 3_000, 8, 0.1, 0.04, 0.5)[:4])
    assert table.schema == USERS and len(table) == 3_000
    assert found.mean == pytest.approx(0.1, abs=0.02)
    assert found.between == pytest.approx(0.04, rel=0.2) and found.within == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("mean", [-0.05, 0.05])
def test_routes_by_shrunk_gains_do_better_than_either_arm_and_than_raw_gains(mean):
    known, users, shared, personal, truth = population(2, 2_000, 5, mean, 0.02, 0.5)
    table, _ = route(known, users, shared, personal)
    routed = np.asarray(table["route"].to_pylist()) == "personal"
    raw = np.asarray(table["gain"].to_pylist()) > 0
    worth = {"routed": truth[routed].sum(), "raw": truth[raw].sum(), "personal": truth.sum(), "global": 0.0}
    assert max(worth, key=worth.get) == "routed"


def test_where_users_do_not_differ_everybody_gets_what_is_better_for_all():
    for mean, expected in ((0.1, {"personal"}), (-0.1, {"global"})):
        known, users, shared, personal, _ = population(3, 400, 6, mean, 0.0, 0.2)
        table, found = route({**known, "newcomer": 2}, users, shared, personal)
        assert found.between < 0.007  # of a true 0: three standard errors, 0.2 / 6 * sqrt(2 / 400) each
        assert set(table["route"].to_pylist()) == expected
        assert table["route"].to_pylist()[-1] == expected.pop()
        assert table["gain"].to_pylist()[-1] is None and table["valid_rows"].to_pylist()[-1] == 0


def test_one_row_a_user_tells_nobody_from_chance():
    known, users, shared, personal, _ = population(4, 50, 1, 0.3, 0.5, 0.5)
    table, found = route(known, users, shared, personal)
    assert found.between == 0 and len(set(table["route"].to_pylist())) == 1
    assert route({}, [], np.zeros(0), np.zeros(0))[0].num_rows == 0


def test_rows_of_strangers_and_rows_without_labels_count_for_nobody():
    nan = np.nan
    table, _ = route({"a": 3, "b": 3}, ["a", "a", "x", "b"], np.array([1, nan, 9, 1]), np.array([0.5, nan, 0, 2]))
    assert table["valid_rows"].to_pylist() == [1, 1] and table["gain"].to_pylist() == [0.5, -1.0]


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=1, max_size=5))
def test_losses_are_those_of_the_labels_that_were_asked(pairs):
    scores, labels = (np.array([[pair[part] for pair in pairs]], dtype=np.float32) for part in (0, 1))
    (loss,) = row_losses(scores, labels, "multilabel")
    given = np.clip(np.where(labels > 0, scores, 1 - scores.astype(np.float64)), 1e-6, 1)
    assert loss == pytest.approx(-np.log(given).mean(), abs=1e-5)
    unasked = np.concatenate([labels, [[np.nan]]], axis=1)
    more = np.concatenate([scores, [[0.3]]], axis=1).astype(np.float32)
    assert row_losses(more, unasked, "multilabel")[0] == pytest.approx(loss)
    assert np.isnan(row_losses(scores, labels * np.nan, "multilabel"))[0]

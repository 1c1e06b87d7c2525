"""How far people agree, and how much of the rest is a matter of who judges."""

from __future__ import annotations

import hypothesis
import krippendorff
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from needs import missing

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.datasets.profile.agreement import agreement, offset_share
from beholder.datasets.profile.describe import describe
from beholder.training.memory import PeakMemory


def judged(labels: np.ndarray) -> Annotations:
    """One label from a table of texts x users, NaN = not judged."""
    text, user = np.nonzero(~np.isnan(labels))
    return Annotations.from_columns(
        Task(("rude",)),
        text=[f"text {each}" for each in text],
        user_id=[f"u{each}" for each in user],
        labels=labels[text, user][:, None],
    )


def test_alpha_is_that_of_krippendorffs_own_example():
    # Krippendorff 2011, section C: four observers, twelve units, five values; here value 1 against the others.
    given = np.asarray(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, np.nan, np.nan, np.nan],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, np.nan, 3],
            [np.nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, np.nan],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, np.nan],
        ]
    ).T
    ones = np.where(np.isnan(given), np.nan, (given == 1).astype(float))
    values = [ones[unit][~np.isnan(ones[unit])] for unit in range(12)]
    values = [each for each in values if len(each) > 1]
    # by hand: 1 - D_o / D_e from coincidences
    total = sum(len(each) for each in values)
    observed = sum(2 * each.sum() * (len(each) - each.sum()) / (len(each) - 1) for each in values) / total
    positive = sum(each.sum() for each in values)
    expected = 2 * positive * (total - positive) / (total * (total - 1))
    assert agreement(judged(ones))["rude"] == pytest.approx(1 - observed / expected)


def on_a_scale(given: np.ndarray, rule: dict) -> Annotations:
    """One scale from a table of texts x users, NaN = not judged."""
    text, user = np.nonzero(~np.isnan(given))
    columns = {"text": [f"text {each}" for each in text], "user_id": [f"u{each}" for each in user]}
    return Annotations.from_arrow(pa.table({**columns, "q": given[text, user]}), labels={"q": rule})


@settings(max_examples=40, deadline=None)
@hypothesis.given(st.integers(0, 999), st.sampled_from(["ordinal", "continuous"]), st.integers(2, 5))
def test_alpha_of_a_scale_is_that_of_the_package(seed, kind, users):
    random = np.random.default_rng(seed)
    given = np.clip(random.integers(1, 6, (12, 1)) + random.integers(-1, 2, (12, users)), 1, 5).astype(float)
    given[random.random(given.shape) < 0.2] = np.nan
    if np.isnan(given).all():
        return
    several = given[(~np.isnan(given)).sum(axis=1) > 1]
    level = "ordinal" if kind == "ordinal" else "interval"
    found = agreement(on_a_scale(given, {"kind": kind, "range": [1, 5]}))["q"]
    if len(np.unique(several[~np.isnan(several)])) < 2:
        assert found is None
    else:
        wanted = krippendorff.alpha(several.T, level_of_measurement=level)
        assert found == pytest.approx(wanted, abs=1e-6)


def test_a_scale_is_described_in_its_unit():
    rows = on_a_scale(np.asarray([[1.0, 5.0], [3.0, 4.0]]), {"kind": "ordinal", "range": [1, 5]})
    assert describe(rows)["scales"] == {"q": pytest.approx(3.25)} and describe(rows)["labels"] == {}
    assert set(offset_share(rows)) == {"q"}


def test_all_alike_is_one_and_what_nobody_judged_twice_is_not_known():
    alike = np.repeat(np.asarray([[0.0], [1.0], [1.0]]), 3, axis=1)
    assert agreement(judged(alike))["rude"] == pytest.approx(1.0)
    assert agreement(judged(np.where(np.eye(3) == 1, 1.0, np.nan)))["rude"] is None
    assert agreement(judged(np.ones((3, 3))))["rude"] is None  # always given: nothing to agree on


def test_an_offset_explains_all_where_users_say_the_same_always_and_nothing_where_they_toss_coins():
    always = np.tile(np.asarray([0.0, 1.0, 0.0, 1.0]), (40, 1))
    assert offset_share(judged(always))["rude"] == pytest.approx(1.0, abs=0.02)
    shares = [
        offset_share(judged(np.random.default_rng(seed).integers(0, 2, (60, 8)).astype(float)))["rude"]
        for seed in range(20)
    ]
    assert np.mean(shares) < 0.01 and max(shares) < 0.05  # type: ignore[type-var]


def test_the_peak_of_memory_is_of_what_was_held_since():
    peak = PeakMemory()
    before = peak.megabytes
    if before is None:
        missing("a system that reports peak memory")
    held = np.ones(100 * 2**17)  # 100 MB
    held_at = peak.megabytes
    del held
    assert held_at is not None and held_at > before + 80
    again = PeakMemory().megabytes
    assert again is not None and again < held_at - 80

"""Whose rows come when: every row once an epoch, and memory that one busy user does not blow up."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.adapters.fit import STEPS, BankTraining, _Schedule


@given(st.lists(st.integers(0, 700), min_size=1, max_size=6), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_every_row_of_every_user_comes_once_an_epoch_in_at_most_so_many_steps(rows, size):
    counts = np.asarray(rows, dtype=np.int64)
    users = [f"u{number}" for number in range(len(rows))]
    schedule = _Schedule(users, counts, BankTraining(batch_size=size), seed=0)
    seen = []
    for steps, (batch, moving) in enumerate(schedule.epoch(), 1):
        assert steps <= max(STEPS, 1) and batch.shape[0] == len(moving) and (batch >= 0).any(axis=1).all()
        for user, mine in zip(moving, batch, strict=True):
            first = int(counts[:user].sum())
            mine = mine[mine >= 0]
            assert ((mine >= first) & (mine < first + counts[user])).all()
        seen += batch[batch >= 0].tolist()
    assert sorted(seen) == list(range(int(counts.sum())))


def test_one_busy_user_among_many_costs_their_own_rows_and_no_more():
    counts = np.full(512, 30, dtype=np.int64)
    counts[7] = 200_000
    schedule = _Schedule([f"u{number}" for number in range(512)], counts, BankTraining(), seed=0)
    tracemalloc.start()
    for _ in schedule.epoch():
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * 2**20  # 756 MB where every user had a place for each row of the busiest

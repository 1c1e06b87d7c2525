"""The rate limit of access tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder_serve.rate_limit import RateLimit


@settings(max_examples=100, deadline=None)
@given(rate=st.floats(0.1, 50), burst=st.integers(1, 20), steps=st.lists(st.floats(0, 2), min_size=1, max_size=80))
def test_no_window_lets_through_more_than_its_share(rate, burst, steps):
    now = [0.0]
    limit = RateLimit(rate, burst, clock=lambda: now[0])
    allowed = []
    for step in steps:
        now[0] += step
        wait = limit.wait("one")
        if wait == 0:
            allowed.append(now[0])
        else:
            assert wait <= 1 / rate + 1e-6
    for first in range(len(allowed)):
        for last in range(first, len(allowed)):
            assert last - first + 1 <= burst + rate * (allowed[last] - allowed[first]) + 1e-6


def test_tokens_have_limits_of_their_own_and_few_are_remembered():
    now = [0.0]
    limit = RateLimit(1.0, 2, clock=lambda: now[0])
    assert [limit.wait("one") for _ in range(2)] == [0, 0] and limit.wait("one") == pytest.approx(1.0)
    assert limit.wait("other") == 0
    now[0] += 1.0
    assert limit.wait("one") == 0
    for number in range(RateLimit.MAX_BUCKETS + 10):
        limit.wait(str(number))
    assert len(limit._buckets) == RateLimit.MAX_BUCKETS

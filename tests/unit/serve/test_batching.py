"""Requests that wait together are computed together; nobody waits for more than what is under way."""

from __future__ import annotations

import asyncio
import contextvars

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder_serve.batching import Batcher


class Recorder:
    """Doubles numbers, and keeps what came together."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.batches: list[list[int]] = []
        self.seconds, self.now, self.most_at_once = seconds, 0, 0

    async def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        await asyncio.sleep(self.seconds)
        self.now -= 1
        if -13 in items:
            raise ValueError("thirteen")
        return [2 * item for item in items]


def test_what_comes_while_a_batch_is_computed_is_the_next_batch():
    compute = Recorder()

    async def run() -> list[int]:
        batcher = Batcher(compute, lambda item: 1, 100)
        first = asyncio.create_task(batcher(0))
        await asyncio.sleep(0.002)
        return [*await asyncio.gather(*(batcher(number) for number in range(1, 50))), await first]

    assert asyncio.run(run()) == [*range(2, 100, 2), 0]
    assert compute.batches == [[0], list(range(1, 50))] and compute.most_at_once == 1


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.integers(1, 30), min_size=1, max_size=40), most=st.integers(5, 40), at_once=st.integers(1, 3)
)
def test_batches_hold_what_they_may_in_the_order_of_coming(weights, most, at_once):
    compute = Recorder(0)

    async def run() -> list[int]:
        batcher = Batcher(compute, lambda item: weights[item - 100], most, max_concurrent=at_once)
        return await asyncio.gather(*(batcher(number + 100) for number in range(len(weights))))

    assert asyncio.run(run()) == [2 * (number + 100) for number in range(len(weights))]
    assert [item for batch in compute.batches for item in batch] == [n + 100 for n in range(len(weights))]
    assert compute.most_at_once <= at_once
    assert all(len(batch) == 1 or sum(weights[n - 100] for n in batch) <= most for batch in compute.batches)


def test_what_is_too_heavy_goes_alone():
    compute = Recorder()

    async def run() -> None:
        batcher = Batcher(compute, lambda item: item, 10)
        await asyncio.gather(*(batcher(item) for item in (4, 5, 50, 3, 3)))

    asyncio.run(run())
    assert compute.batches == [[4, 5], [50], [3, 3]]


def test_an_error_is_told_to_its_batch_only_and_those_who_left_are_left_out():
    compute = Recorder()

    async def run() -> list[object]:
        batcher = Batcher(compute, lambda item: 1, 100)
        bad = asyncio.create_task(batcher(-13))
        await asyncio.sleep(0.002)
        gone = asyncio.create_task(batcher(7))
        good = asyncio.create_task(batcher(8))
        await asyncio.sleep(0)
        gone.cancel()
        return await asyncio.gather(bad, good, return_exceptions=True)

    bad, good = asyncio.run(run())
    assert isinstance(bad, ValueError) and good == 16
    assert compute.batches == [[-13], [8]]
    with pytest.raises(ValueError, match="thirteen"):
        asyncio.run(Batcher(compute, lambda item: 1, 1)(-13))


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_request_that_arrives_in_the_step_in_which_the_last_batch_ends_is_answered(steps, at_once):
    """Otherwise it waits until another request arrives, which may never happen."""

    async def compute(items: list[int]) -> list[int]:
        return items

    async def run() -> list[int]:
        batcher = Batcher(compute, lambda item: 1, 100, max_concurrent=at_once)
        before = [asyncio.create_task(batcher(number)) for number in range(at_once)]
        for _ in range(steps):
            await asyncio.sleep(0)
        last = await asyncio.wait_for(batcher(7), 2)
        return [*await asyncio.gather(*before), last]

    assert asyncio.run(run()) == [*range(at_once), 7]


def test_a_batch_does_not_run_in_the_context_of_its_first_request():
    """Ray Serve cancels calls made in the context of a cancelled request; a batch has other callers as well."""
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="of nobody")
    seen = []

    async def compute(items: list[int]) -> list[int]:
        seen.append(request.get())
        return items

    async def run() -> None:
        request.set("of somebody")
        await Batcher(compute, lambda item: 1, 100)(1)

    asyncio.run(run())
    assert seen == ["of nobody"]


def test_if_a_computation_is_cancelled_no_caller_waits_for_ever():
    async def compute(items: list[int]) -> list[int]:
        if 0 in items:
            raise asyncio.CancelledError
        return items

    async def run() -> list[object]:
        batcher = Batcher(compute, lambda item: 1, 100)
        both = await asyncio.wait_for(asyncio.gather(batcher(0), batcher(1), return_exceptions=True), 2)
        return [*both, await asyncio.wait_for(batcher(2), 2)]

    one, other, after = asyncio.run(run())
    assert isinstance(one, asyncio.CancelledError) and isinstance(other, asyncio.CancelledError) and after == 2

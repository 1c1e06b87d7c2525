"""Long work runs a few at a time; requests beyond the queue, and second ones of a user, are refused at once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beholder_serve.concurrency import BusyError, ConcurrencyLimit


@given(
    allowed=st.integers(1, 4),
    waiting=st.integers(0, 5),
    names=st.lists(st.integers(0, 12), min_size=1, max_size=30),
    fails=st.booleans(),
)
def test_running_and_waiting_work_is_bounded_and_a_user_has_one_slot(allowed, waiting, names, fails):
    async def all_at_once() -> tuple[int, int, int]:
        limit, running, most, refused = ConcurrencyLimit(allowed, waiting), [], 0, 0
        done: list[int] = []

        async def work(name: int) -> None:
            nonlocal most, refused
            try:
                async with limit.slot(str(name), "enrolment"):
                    assert name not in running
                    running.append(name)
                    most = max(most, len(running))
                    await asyncio.sleep(0)
                    running.remove(name)
                    done.append(name)
                    if fails:
                        raise ValueError
            except BusyError:
                refused += 1
            except ValueError:
                pass

        await asyncio.gather(*(work(name) for name in names))
        await work(99)  # all slots are free again
        assert 99 in done
        return most, len(done) - 1, refused

    most, done, refused = asyncio.run(all_at_once())
    assert most == min(allowed, len(set(names))) and done + refused == len(names)
    assert done >= min(allowed + waiting, len(set(names)))


def test_refusals_do_not_contain_the_user():
    async def twice() -> None:
        limit = ConcurrencyLimit(1, 0)
        async with limit.slot("ada@example.org", "enrolment"):
            for name, message in (("ada@example.org", "is already running"), ("bob", "too many users are waiting")):
                with pytest.raises(BusyError, match=message) as refused:
                    async with limit.slot(name, "enrolment"):
                        pass
                assert name not in str(refused.value)

    asyncio.run(twice())

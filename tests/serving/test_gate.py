"""Long work is let through a few at a time; who finds no room, or asks twice, is refused at once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beholder_serve.gate import BusyError, Gate


@given(
    at_once=st.integers(1, 4),
    waiting=st.integers(0, 5),
    names=st.lists(st.integers(0, 12), min_size=1, max_size=30),
    fails=st.booleans(),
)
def test_never_more_at_once_nor_waiting_nor_twice_of_a_name(at_once, waiting, names, fails):
    async def all_at_once() -> tuple[int, int, int]:
        gate, running, most, refused = Gate(at_once, waiting), [], 0, 0
        done: list[int] = []

        async def work(name: int) -> None:
            nonlocal most, refused
            try:
                async with gate.passed(str(name), "enrolment"):
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
        await work(99)  # everybody is through: there is room again
        assert 99 in done
        return most, len(done) - 1, refused

    most, done, refused = asyncio.run(all_at_once())
    assert most == min(at_once, len(set(names))) and done + refused == len(names)
    assert done >= min(at_once + waiting, len(set(names)))


def test_who_is_waited_for_is_said_without_a_name():
    async def twice() -> None:
        gate = Gate(1, 0)
        async with gate.passed("ada@example.org", "enrolment"):
            for name, said in (("ada@example.org", "enrolment of this user is under way"), ("bob", "more users wait")):
                with pytest.raises(BusyError, match=said) as refused:
                    async with gate.passed(name, "enrolment"):
                        pass
                assert name not in str(refused.value)

    asyncio.run(twice())

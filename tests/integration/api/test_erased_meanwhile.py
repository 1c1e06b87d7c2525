"""Whoever is erased while they are enrolled stays erased; what is told of them later is refused."""

from __future__ import annotations

import asyncio
import threading

import pytest
import sqlalchemy as sa
from databases import database
from house import MODEL
from inside import LocalEngine, here

from beholder.lifecycle.erase import admit_again, erase_everywhere
from beholder.registry.feedback import Enrolment, Feedback
from beholder.util.errors import ErasedError, FeedbackError
from beholder_serve.concurrency import BusyError
from beholder_serve.model_server import ModelServer, ServedModel
from beholder_serve.user_service import UserService

__all__ = ["database"]
OWN = Enrolment(b"of them alone", {"route": "personal"})
TOLD = [("a text", {"rude": True})]


def everything(feedback: Feedback) -> str:
    """All that is in the tables."""
    with feedback._engine.connect() as connection:
        names = sa.inspect(feedback._engine).get_table_names()
        return "\n".join(str(connection.exec_driver_sql(f"SELECT * FROM {name}").all()) for name in names)


def test_nothing_of_an_erased_person_is_kept_until_they_are_admitted_again(database):
    feedback, other = Feedback(database), Feedback(database)
    for user in ("ada@example.org", "bob"):
        feedback.put("m", user, TOLD)
        feedback.enrol("m", "f", user, OWN)
    assert other.erase("ada@example.org") == 1
    for again in (
        lambda: feedback.put("m", "ada@example.org", TOLD),
        lambda: feedback.enrol("m", "f", "ada@example.org", OWN),
    ):
        with pytest.raises(ErasedError, match="was erased, so nothing of theirs is kept") as refused:
            again()
        assert "ada" not in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert "ada@example.org" not in everything(feedback) and set(feedback.enrolled("m", "f")) == {"bob"}
    assert feedback.put("m", "bob", [("another", {"rude": False})]) == 2
    assert feedback.erased(["bob", "ada@example.org", "cleo"]) == {"ada@example.org"}
    assert other.admit_again("ada@example.org") and not other.admit_again("ada@example.org")
    assert not other.admit_again("cleo") and feedback.erased(["ada@example.org"]) == set()
    assert feedback.put("m", "ada@example.org", TOLD) == 1


def test_of_an_erasure_and_an_enrolment_at_one_moment_the_erasure_stays(database):
    """Each pair meets at a gate; whichever is first, nothing of anybody is left."""
    one, other = Feedback(database), Feedback(database)
    one.erase("the first, which makes the key")
    refused = []
    for number in range(40):
        user, gate = f"user {number}", threading.Barrier(2)
        one.put("m", user, TOLD)

        def enrol(user=user, gate=gate):
            gate.wait()
            try:
                one.enrol("m", "f", user, OWN)
            except ErasedError:
                refused.append(user)

        thread = threading.Thread(target=enrol)
        thread.start()
        gate.wait()
        other.erase(user)
        thread.join()
    assert one.enrolled("m", "f") == {}
    assert one.erased([f"user {number}" for number in range(40)]) == {f"user {number}" for number in range(40)}


def test_changes_of_enrolments_are_counted_and_nothing_else_is(database):
    one, other = Feedback(database), Feedback(database)
    assert one.changes("m", "f") == 0
    one.enrol("m", "f", "ada", OWN)
    one.enrol("m", "f", "bob", OWN)
    one.enrol("m", "g", "ada", OWN)
    assert (other.changes("m", "f"), other.changes("m", "g"), other.changes("n", "f")) == (2, 1, 0)
    one.put("m", "ada", TOLD)
    other.erase("nobody who was enrolled")
    assert one.changes("m", "f") == 2
    one.enrol("m", "f", "ada", OWN)
    other.erase("ada")
    assert (one.changes("m", "f"), one.changes("m", "g")) == (4, 2) and set(one.enrolled("m", "f")) == {"bob"}


def test_changes_at_one_moment_are_all_counted(database):
    gate, _ = threading.Barrier(4, timeout=60), Feedback(database)  # which makes the tables

    def enrol(number):
        feedback = Feedback(database)
        gate.wait()
        for each in range(10):
            feedback.enrol("m", "f", f"user {number} {each}", OWN)

    threads = [threading.Thread(target=enrol, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Feedback(database).changes("m", "f") == len(Feedback(database).enrolled("m", "f")) == 40


def test_first_erasures_at_one_moment_make_one_key(database):
    gate, people = threading.Barrier(6), [f"user {number}" for number in range(6)]
    Feedback(database)

    def erase(user):
        mine = Feedback(database)
        gate.wait()
        mine.erase(user)

    threads = [threading.Thread(target=erase, args=(user,)) for user in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Feedback(database).erased([*people, "bob"]) == set(people)


def test_a_key_that_is_missing_is_one_line_and_nothing_is_kept(database):
    feedback = Feedback(database)
    feedback.erase("ada")
    with feedback._engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM keys")
    for refused in (
        lambda: feedback.put("m", "bob", TOLD),
        lambda: feedback.erased(["ada"]),
        lambda: feedback.erase("bob"),
    ):
        with pytest.raises(FeedbackError, match="the key of its tombstones is missing") as said:
            refused()
        assert len(str(said.value).splitlines()) == 1
    assert "a text" not in everything(feedback)


@pytest.fixture
def model_server(outcome):
    return ModelServer(ServedModel(model=MODEL))


def judgements(outcome, count: int = 20):
    labels = outcome.test.task.labels
    return [
        (f"{text} number {place}", {label: bool(value) for label, value in zip(labels, given, strict=True)})
        for place, (text, given) in enumerate(zip(outcome.test.texts[:count], outcome.test.labels[:count], strict=True))
    ]


def test_one_user_is_enrolled_once_at_a_time(model_server, outcome):
    feedback, users = model_server.feedback, [f"one of {number}" for number in range(3)]
    for user in users:
        feedback.put(MODEL, user, judgements(outcome))
    service = UserService(MODEL, LocalEngine(model_server), feedback, here)

    async def at_once() -> list:
        asked = [service.enrol(user) for user in (*users, *users)]
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(at_once())
    assert [each["train_rows"] for each in found[:3]] == [20] * 3
    assert all(isinstance(each, BusyError) and "is already running" in str(each) for each in found[3:])
    assert asyncio.run(service.enrol(users[0]))["train_rows"] == 20  # and again, once that is over


def test_an_erasure_is_finished_when_the_client_disconnects_and_no_second_one_starts_beside_it(model_server, outcome):
    feedback = model_server.feedback
    feedback.put(MODEL, "zoe@example.org", judgements(outcome))

    class Counting(LocalEngine):
        polls = 0

        async def poll(self) -> bool:
            self.polls += 1
            return await super().poll()

    async def all_of_it() -> None:
        begin, done = asyncio.Event(), asyncio.Event()

        async def run(function, *arguments):
            await begin.wait()
            found = await asyncio.to_thread(function, *arguments)
            done.set()
            return found

        engine = Counting(model_server)
        service = UserService(MODEL, engine, feedback, run)
        first = asyncio.create_task(service.erase("zoe@example.org"))
        await asyncio.sleep(0.05)
        first.cancel()  # as Ray Serve does when a client hangs up
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(BusyError, match="is already running"):
            await service.erase("zoe@example.org")
        begin.set()
        await asyncio.wait_for(done.wait(), 60)
        while not engine.polls:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert (await service.erase("zoe@example.org"))["judgements"] == 0  # all were erased before

    asyncio.run(asyncio.wait_for(all_of_it(), 120))
    assert feedback.count(MODEL, "zoe@example.org") == 0 and "zoe" not in everything(feedback)
    assert admit_again("zoe@example.org")


def test_somebody_erased_while_they_are_trained_is_not_enrolled(model_server, outcome):
    """Twenty judgements, an enrolment, and an erasure in its midst, as `DELETE` in another process does it."""
    feedback = model_server.feedback
    feedback.put(MODEL, "nell@example.org", judgements(outcome))
    trained = []

    async def run(function, *arguments):
        found = function(*arguments)
        trained.append(found)
        assert erase_everywhere("nell@example.org")["judgements"] == 20
        return found

    service = UserService(MODEL, LocalEngine(model_server), feedback, run)
    with pytest.raises(ErasedError):
        asyncio.run(service.enrol("nell@example.org"))
    assert trained and trained[0].tensors
    model_server.poll()
    assert not model_server.user("nell@example.org")["known"] and not model_server.user("nell@example.org").get(
        "enrolled"
    )
    assert "nell" not in everything(feedback)
    ((text, labels),) = judgements(outcome, 1)
    with pytest.raises(ErasedError):
        asyncio.run(service.put("nell@example.org", [(text, labels, {})]))
    assert admit_again("nell@example.org") and not admit_again("nell@example.org")
    assert asyncio.run(service.put("nell@example.org", [(text, labels, {})])) == 1
    erase_everywhere("nell@example.org")

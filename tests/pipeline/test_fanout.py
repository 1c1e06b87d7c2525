"""Dealing out arms and blocks: what is handed out when, and what is told of it."""

from __future__ import annotations

import pytest

from beholder.cluster.scheduler import WorkItem, WorkQueue
from beholder.execution.arm import ArmJob
from beholder.execution.forgetting import MeasureJob

pytestmark = pytest.mark.cluster


def job(name: str, method: str, after: str | None = None) -> ArmJob:
    return ArmJob(name, {"method": method, **({"from_": after} if after else {})}, None, "key", after)


def test_blocks_wait_for_the_shared_model_and_the_arm_for_its_blocks():
    board = WorkQueue([job("cls-u", "cls-u", "cls"), job("prior", "prior"), job("cls", "cls")])
    first, second = board.take(), board.take()
    assert (first, second) == (WorkItem("arm", "prior"), WorkItem("arm", "cls"))
    assert board.take() == "wait"  # cls-u has nothing to start from yet
    board.finished(second)
    opening = board.take()
    assert opening == WorkItem("open", "cls-u")
    assert board.take() == WorkItem("join", "cls-u")  # who has nothing else to do gets ready for its blocks
    assert board.take("cls-u") == "wait"
    board.opened("cls-u", [3, 2])
    blocks = [board.take(), board.take()]
    assert blocks == [WorkItem("block", "cls-u", 0), WorkItem("block", "cls-u", 1)]
    board.finished(blocks[1])
    assert board.take() == "wait"
    board.finished(blocks[0])
    assert board.take() == WorkItem("arm", "cls-u")
    board.finished(WorkItem("arm", "cls-u"))
    assert board.take() == "wait"  # the prior is still with somebody
    board.finished(first)
    assert board.take() == "end"


def test_who_has_read_a_folds_texts_takes_what_stands_on_it_after_all_that_others_wait_for():
    names = [f"cls@{fold}" for fold in (1, 2, 3)]
    on = [job(f"{kind}@{fold}", "cls+", f"cls@{fold}") for fold in (1, 2) for kind in ("a", "b")]
    board = Board([*(job(name, "cls") for name in names), *on])
    first, second = board.take(), board.take()
    board.finished(first)
    board.finished(second)
    assert board.take(near="cls@2") == Task("arm", "cls@3")  # the longest come first, and others wait for them
    assert board.take(near="cls@2") == Task("arm", "a@2")
    assert board.take(near="cls@1") == Task("arm", "a@1")
    assert board.take(near="cls@2") == Task("arm", "b@2")
    assert board.take(near="cls@2") == Task("arm", "b@1")
    assert board.take(near="cls@2") == "wait"


def test_what_workers_held_when_they_died_is_given_out_again_but_not_for_ever():
    board = WorkQueue([job("cls-u", "cls-u", "cls"), job("cls", "cls"), job("prior", "prior")], together=["cls"])
    assert board.joined("first", 2, "a") == board.joined("first", 2, "b") == ["cls"]
    assert board.take_news()[1] == ["2 workers on 2 nodes"]
    assert board.take() == WorkItem("arm", "prior")  # all fit `cls` together, which nobody takes
    board.died()
    assert board.joined("second", 1, "a") == ["cls"]
    assert board.take_news()[1] == ["1 worker on 1 node, started again"]
    assert board.take() == WorkItem("arm", "prior")
    board.finished(WorkItem("arm", "cls"))
    assert board.joined("third", 1, "a") == []  # `cls` is done
    assert [board.take() for _ in range(2)] == [WorkItem("arm", "prior"), WorkItem("open", "cls-u")]
    board.opened("cls-u", [1])
    for _ in range(3):
        board.died()
    assert board.refusal() is None
    board.died()
    kind, message = board.refusal()
    assert kind == "ClusterError" and "died 4 times" in message and "prior" in message
    assert board.take() == "end"


def test_a_shared_model_of_an_earlier_run_is_not_waited_for():
    board = WorkQueue([job("cls-u", "cls-u", "cls")])
    assert board.take() == WorkItem("open", "cls-u")


def test_what_is_measured_of_an_arm_waits_for_it_and_the_job_for_what_is_measured():
    measures = [MeasureJob(arm, 64, "key") for arm in ("", "lm", "cls")]
    board = WorkQueue([job("lm", "lm")], measures)  # cls was fitted before
    tasks = [board.take() for _ in range(3)]
    assert tasks == [WorkItem("arm", "lm"), WorkItem("measure", ""), WorkItem("measure", "cls")]
    board.put(tasks[1], 3, 9, "", "prompts")
    assert board.take_news()[0] == {"forgetting, base": (3, 9, "", "prompts")}
    for task in tasks[1:]:
        board.finished(task)
    assert board.take() == "wait"
    board.finished(tasks[0])
    assert board.take() == WorkItem("measure", "lm")
    assert board.take() == "wait"
    board.finished(WorkItem("measure", "lm"))
    assert board.take() == "end"


def test_progress_of_a_fan_out_is_in_users_over_all_blocks():
    board = WorkQueue([job("cls-u", "cls-u", "cls")])
    board.opened("cls-u", [3, 2])
    board.put(WorkItem("block", "cls-u", 0), 3, 3, "", "users")
    board.put(WorkItem("block", "cls-u", 1), 1, 2, "", "users")
    board.say("shard-abc: truncated")
    assert board.take_news() == ({"cls-u": (4, 5, "", "users")}, ["shard-abc: truncated"])
    assert board.take_news() == ({}, [])
    board.finished(WorkItem("arm", "cls-u"))
    assert board.take_news()[0] == {"cls-u": (1, 1, "done", "steps")}

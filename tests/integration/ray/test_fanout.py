"""The work queue: which arms and blocks it hands out when, and the progress it reports."""

from __future__ import annotations

import pytest

from beholder.cluster.scheduler import WorkItem, WorkQueue
from beholder.execution.arm import ArmJob
from beholder.execution.forgetting import MeasureJob

pytestmark = pytest.mark.cluster


def job(name: str, method: str, after: str | None = None) -> ArmJob:
    return ArmJob(name, {"method": method, **({"init_from": after} if after else {})}, None, "key", after)


def test_blocks_wait_for_the_shared_model_and_the_arm_for_its_blocks():
    queue = WorkQueue([job("cls-u", "cls-u", "cls"), job("prior", "prior"), job("cls", "cls")])
    first, second = queue.take(), queue.take()
    assert (first, second) == (WorkItem("arm", "prior"), WorkItem("arm", "cls"))
    assert queue.take() == "wait"  # cls-u has nothing to start from yet
    queue.finished(second)
    opening = queue.take()
    assert opening == WorkItem("open", "cls-u")
    assert queue.take() == WorkItem("join", "cls-u")  # who has nothing else to do gets ready for its blocks
    assert queue.take("cls-u") == "wait"
    queue.opened("cls-u", [3, 2])
    blocks = [queue.take(), queue.take()]
    assert blocks == [WorkItem("block", "cls-u", 0), WorkItem("block", "cls-u", 1)]
    queue.finished(blocks[1])
    assert queue.take() == "wait"
    queue.finished(blocks[0])
    assert queue.take() == WorkItem("arm", "cls-u")
    queue.finished(WorkItem("arm", "cls-u"))
    assert queue.take() == "wait"  # the prior is still with somebody
    queue.finished(first)
    assert queue.take() == "end"


def test_a_worker_prefers_arms_on_a_fold_it_has_read_after_those_that_others_wait_for():
    names = [f"cls@{fold}" for fold in (1, 2, 3)]
    on = [job(f"{kind}@{fold}", "cls+", f"cls@{fold}") for fold in (1, 2) for kind in ("a", "b")]
    queue = WorkQueue([*(job(name, "cls") for name in names), *on])
    first, second = queue.take(), queue.take()
    queue.finished(first)
    queue.finished(second)
    assert queue.take(near="cls@2") == WorkItem("arm", "cls@3")  # the longest come first, and others wait for them
    assert queue.take(near="cls@2") == WorkItem("arm", "a@2")
    assert queue.take(near="cls@1") == WorkItem("arm", "a@1")
    assert queue.take(near="cls@2") == WorkItem("arm", "b@2")
    assert queue.take(near="cls@2") == WorkItem("arm", "b@1")
    assert queue.take(near="cls@2") == "wait"


def test_what_workers_held_when_they_died_is_given_out_again_but_not_for_ever():
    queue = WorkQueue([job("cls-u", "cls-u", "cls"), job("cls", "cls"), job("prior", "prior")], together=["cls"])
    assert queue.joined("first", 2, "a") == queue.joined("first", 2, "b") == ["cls"]
    assert queue.take_news()[1] == ["2 workers on 2 nodes"]
    assert queue.take() == WorkItem("arm", "prior")  # all fit `cls` together, which nobody takes
    queue.died()
    assert queue.joined("second", 1, "a") == ["cls"]
    assert queue.take_news()[1] == ["1 worker on 1 node, started again"]
    assert queue.take() == WorkItem("arm", "prior")
    queue.finished(WorkItem("arm", "cls"))
    assert queue.joined("third", 1, "a") == []  # `cls` is done
    assert [queue.take() for _ in range(2)] == [WorkItem("arm", "prior"), WorkItem("open", "cls-u")]
    queue.opened("cls-u", [1])
    for _ in range(3):
        queue.died()
    assert queue.refusal() is None
    queue.died()
    kind, message = queue.refusal()
    assert kind == "ClusterError" and "died 4 times" in message and "prior" in message
    assert queue.take() == "end"


def test_a_shared_model_of_an_earlier_run_is_not_waited_for():
    queue = WorkQueue([job("cls-u", "cls-u", "cls")])
    assert queue.take() == WorkItem("open", "cls-u")


def test_what_is_measured_of_an_arm_waits_for_it_and_the_job_for_what_is_measured():
    measures = [MeasureJob(arm, 64, "key") for arm in ("", "lm", "cls")]
    queue = WorkQueue([job("lm", "lm")], measures)  # cls was fitted before
    tasks = [queue.take() for _ in range(3)]
    assert tasks == [WorkItem("arm", "lm"), WorkItem("measure", ""), WorkItem("measure", "cls")]
    queue.put(tasks[1], 3, 9, "", "prompts")
    assert queue.take_news()[0] == {"forgetting, base": (3, 9, "", "prompts")}
    for task in tasks[1:]:
        queue.finished(task)
    assert queue.take() == "wait"
    queue.finished(tasks[0])
    assert queue.take() == WorkItem("measure", "lm")
    assert queue.take() == "wait"
    queue.finished(WorkItem("measure", "lm"))
    assert queue.take() == "end"


def test_progress_of_a_fan_out_is_in_users_over_all_blocks():
    queue = WorkQueue([job("cls-u", "cls-u", "cls")])
    queue.opened("cls-u", [3, 2])
    queue.put(WorkItem("block", "cls-u", 0), 3, 3, "", "users")
    queue.put(WorkItem("block", "cls-u", 1), 1, 2, "", "users")
    queue.say("shard-abc: truncated")
    assert queue.take_news() == ({"cls-u": (4, 5, "", "users")}, ["shard-abc: truncated"])
    assert queue.take_news() == ({}, [])
    queue.finished(WorkItem("arm", "cls-u"))
    assert queue.take_news()[0] == {"cls-u": (1, 1, "done", "steps")}

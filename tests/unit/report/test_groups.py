"""Groups of readers and of judgements: who agrees, and whose scores lean which way."""

from __future__ import annotations

import numpy as np
import pytest
from scored import LABELS, population, results_of, scored

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.evaluation.metrics import macro_f1, user_bias
from beholder.report.groups import AGREEMENT, agreement, by_group


def judged(*texts: tuple[str, list[list[float]]], labels=("rude", "funny")) -> Annotations:
    """Each text with the judgements it has, by readers of their own."""
    pairs = [(text, judgement) for text, judgements in texts for judgement in judgements]
    return Annotations.from_columns(
        Task(labels),
        text=[text for text, _ in pairs],
        user_id=[f"u{row}" for row in range(len(pairs))],
        labels=np.asarray([judgement for _, judgement in pairs], dtype=float),
    )


def test_texts_are_told_apart_by_how_many_say_what_most_say():
    nan = float("nan")
    rows = judged(
        ("alike", [[1, 0]] * 3),
        ("one of four differs", [[1, 1]] * 3 + [[0, 1]]),  # 3/4 and 1: a mean of 7/8
        ("halves", [[1, 0], [0, 1]]),
        ("alone", [[1, 1]]),
        ("asked once of each", [[1, nan], [nan, 1]]),
        ("Alike!", [[1, 0]]),  # the same text
    )
    found = dict(zip(rows.texts, agreement(rows), strict=True))
    assert found == {
        "alike": "all agree",
        "Alike!": "all agree",
        "one of four differs": "three in four agree",
        "halves": "fewer agree",
        "alone": "",
        "asked once of each": "",
    }


def test_where_people_disagree_is_a_group_of_its_own_with_its_score_and_gain():
    some = population(4, users=60)
    labels = some.labels.copy()
    labels[[int(text.split()[-1]) < 15 for text in some.texts]] = 1  # nobody doubts these
    rows = Annotations.from_columns(Task(LABELS), text=list(some.texts), user_id=list(some.user_ids), labels=labels)
    arms = [scored("cls", rows, 0.2, 1), scored("cls-u", rows, 0.7, 2)]
    results = results_of(arms, rows)
    found = by_group(results, results.arm("cls-u"), rows)
    assert [by["column"] for by in found] == [AGREEMENT] and found[0]["of"] == "judgements"
    said = np.asarray(agreement(rows))
    assert len(found[0]["groups"]) > 1
    names = [group["name"] for group in found[0]["groups"]]
    assert names == [name for name in ("all agree", "three in four agree", "fewer agree") if (said == name).sum() >= 30]
    for group in found[0]["groups"]:
        mine = said == group["name"]
        decided = results.arm("cls-u").test_decisions("multilabel")[mine]
        assert group["rows"] == mine.sum() and group["score"] == pytest.approx(macro_f1(decided, rows.labels[mine]))
        assert group["low"] < group["points"] < group["high"]


def test_a_users_bias_is_how_far_scores_are_above_what_they_give():
    scores = np.asarray([[0.9, 0.5], [0.7, 0.1], [0.2, 0.2]])
    labels = np.asarray([[1, 0], [0, np.nan], [1, 1]])
    users = np.asarray(["a", "a", "b"], dtype=object)
    np.testing.assert_allclose(user_bias(scores, labels, users), [(-0.1 + 0.5 + 0.7) / 3, -0.8])
    assert np.isnan(user_bias(scores[:1], np.full((1, 2), np.nan), users[:1])[0])


def test_a_group_without_a_positive_has_no_part_in_the_gap():
    some = population(4, users=60)
    labels = some.labels.copy()
    labels[[int(text.split()[-1]) < 15 for text in some.texts]] = 0  # all agree, and on "no" alone
    rows = Annotations.from_columns(Task(LABELS), text=list(some.texts), user_id=list(some.user_ids), labels=labels)
    results = results_of([scored("cls", rows, 0.2, 1), scored("cls-u", rows, 0.7, 2)], rows)
    found = by_group(results, results.arm("cls-u"), rows)
    scores = [group["score"] for group in found[0]["groups"]]
    known = [score for score in scores if score == score]
    assert len(known) < len(scores)
    assert found[0]["gap"] == pytest.approx(100 * (max(known) - min(known)))

"""Held-out judgements on which knowing the reader changed the answer, for better and for worse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beholder.evaluation.arm_scores import ArmScores
from beholder.evaluation.results import Results

EACH = 5
LONGEST = 240


@dataclass(frozen=True)
class Example:
    """A judgement. `score` and `reference_score` of the label, whose threshold may differ between the two."""

    text: str
    user: str
    label: str
    given: bool
    right: bool
    score: float
    reference_score: float


def changed_answers(results: Results, arm: ArmScores, texts: list[str]) -> list[Example]:
    """Up to five judgements that the arm decides rightly and the reference wrongly, and up to five the other way.

    Those come first on which the two differ most; a text comes once, and so does a user where there are many. Of arms
    that were trained several times, it is the first training's.

    Args:
        results, arm: of a run.
        texts: of the test rows, in the order of the scores.
    """
    reference, test = results.reference_arm, results.test
    users: list[str] = test.user_ids.tolist()
    several = len(set(users)) > EACH
    mine, other = (each.test_decisions(results.kind) for each in (arm, reference))
    gold = test.labels >= 0.5
    changed = (mine != other) & ~np.isnan(test.labels)
    difference = np.abs(arm.test_scores - reference.test_scores)
    found: list[Example] = []
    for right in (True, False):
        rows, labels = np.nonzero(changed & ((mine == gold) == right))
        order = np.argsort(-difference[rows, labels], kind="stable")
        seen: set[str] = set()
        for row, label in zip(rows[order].tolist(), labels[order].tolist(), strict=True):
            about = {texts[row], users[row]} if several else {texts[row]}
            if about & seen:
                continue
            seen |= about
            text = texts[row] if len(texts[row]) <= LONGEST else f"{texts[row][:LONGEST]} …"
            found.append(
                Example(
                    text,
                    users[row],
                    results.label_names[label],
                    bool(gold[row, label]),
                    right,
                    float(arm.test_scores[row, label]),
                    float(reference.test_scores[row, label]),
                )
            )
            if sum(each.right == right for each in found) == EACH:
                break
    return found

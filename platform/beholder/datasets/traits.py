"""What annotators stated about themselves: one answer a person for each trait, whatever the rows say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNKNOWN = "unknown"
"""The group of people whose answer is missing or cannot be read."""


@dataclass(frozen=True)
class Trait:
    """One trait of the annotators. `answers`: object [rows], the same for all rows of a person, None where missing.

    `changed`: people who gave more than one answer.
    """

    answers: NDArray[np.object_]
    changed: frozenset[str]

    def groups(self, group_of: Callable[[str], str] = str) -> NDArray[np.object_]:
        """The group of each row's person: object [rows], `UNKNOWN` where the answer is missing.

        Args:
            group_of: the group of an answer; each answer is a group of its own where not given.
        """
        names = {answer: group_of(answer) for answer in set(self.answers) if answer is not None}
        return _column([names.get(answer, UNKNOWN) for answer in self.answers])


def one_answer_each(stated: NDArray[np.object_], users: NDArray[np.object_]) -> Trait:
    """Settle on one answer for each person: the one on most of their rows, the earliest in the file among equals.

    People who work through several questionnaires do not always answer alike. A trait describes a person, so that it
    has one value; which people answered differently is counted, for the source to report.

    Args:
        stated: object [rows], the answer that stands on each row; None or blank where missing, which is no answer.
        users: object [rows].
    """
    counts: dict[str, dict[str, int]] = {}
    for answer, user in zip(stated, users, strict=True):
        if user is not None and answer is not None and answer.strip():
            given = counts.setdefault(user, {})
            given[answer.strip()] = given.get(answer.strip(), 0) + 1
    settled = {user: max(given, key=lambda answer: given[answer]) for user, given in counts.items()}
    changed = frozenset(user for user, given in counts.items() if len(given) > 1)
    return Trait(_column([settled.get(user) for user in users]), changed)


def _column(values: list[str | None]) -> NDArray[np.object_]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column

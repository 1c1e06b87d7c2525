"""What is guessed of a table, how sure that is, and what to do where it is not sure enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beholder.util.errors import DataError

SURE = 0.6
"""A guess below this is not used without being confirmed: `init` asks in a terminal, and refuses elsewhere."""


@dataclass(frozen=True)
class Guess:
    """A column for a role, how sure that is (0..1), and why."""

    column: str
    sureness: float
    why: str


@dataclass(frozen=True)
class GivenColumns:
    """What the caller knows of a table; None or empty where it is to be guessed.

    Attributes:
        text, user: columns.
        labels: columns with judgements.
        users: columns that are one for each person.
        not_asked: values that are no answer.
        scale: lowest and highest step of the labels' scale; other numbers are bad cells.
        at_least: cuts every scale: a label is given from this value up.
        join_ids: whether ids that differ only in case or white space are one person.
    """

    text: str | None = None
    user: str | None = None
    labels: tuple[str, ...] | None = None
    users: tuple[str, ...] | None = None
    not_asked: tuple[str, ...] = ()
    scale: tuple[float, float] | None = None
    at_least: float | None = None
    join_ids: bool = False


class UnsureError(DataError):
    """A guess is not sure enough to be used without being confirmed.

    Attributes:
        problem: what is not sure.
        option: of the command line, which settles it; `suggested` is what it would be.
        choices: names or values it may be.
    """

    def __init__(
        self, where: Path, problem: str, option: str, suggested: str, choices: Sequence[str], remedy: str | None = None
    ) -> None:
        self.problem, self.option, self.suggested, self.choices = problem, option, suggested, list(choices)
        there = f" There are {', '.join(choices)}." if choices else ""
        remedy = remedy or f"Name it: {option} {suggested or 'COLUMN'}."
        super().__init__(f"{where}: {problem} {remedy}{there}")

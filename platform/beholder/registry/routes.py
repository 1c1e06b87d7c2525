"""Who is served by which method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RULE = (
    "the personal method, chosen on validation, serves the users it was trained on; "
    "everybody else, and everybody where no personal method was better, gets the global method"
)


@dataclass(frozen=True)
class Candidate:
    """One arm that could be served. Scores are macro-F1 on validation, never on test."""

    name: str
    personal: bool
    valid_macro_f1: float


@dataclass(frozen=True)
class Choice:
    """The arms a bundle holds. `personal` is None where no personal arm beats the global one on validation."""

    global_arm: str
    personal_arm: str | None

    @property
    def best(self) -> str:
        """The arm that serves a known user."""
        return self.personal_arm or self.global_arm


def choose(candidates: Mapping[str, Candidate]) -> Choice | None:
    """Pick what to serve; None where no arm works for users nobody knows.

    The first of equals wins, so that the simpler method, which experiment files name first, is kept.
    """
    everyone = [candidate for candidate in candidates.values() if not candidate.personal]
    own = [candidate for candidate in candidates.values() if candidate.personal]
    if not everyone:
        return None
    shared = max(everyone, key=lambda candidate: candidate.valid_macro_f1)
    best = max(own, key=lambda candidate: candidate.valid_macro_f1, default=None)
    personal = best.name if best is not None and best.valid_macro_f1 > shared.valid_macro_f1 else None
    return Choice(shared.name, personal)

"""Who is served by which method: one personal and one global arm, and for each user the better of them.

How much better the personal arm is for a user is measured on that user's validation rows, as the mean difference of
log-loss. Few rows say little, so the mean is shrunk toward that of all users (normal-normal empirical Bayes, the
moments of DerSimonian and Laird 1986): with difference d of n rows, variance s2 of a row's difference within a user,
and t2 of users' true means around the population mean m,

    expected = m + t2 / (t2 + s2 / n) * (d - m)

A user gets the personal arm where that is above zero. So somebody with no validation rows gets what is better for
people in general, and where users do not differ more than chance would have it (t2 = 0), so does everybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RULE = (
    "a user the personal method was trained on gets it where it is expected to lose less on their judgements than the "
    "global one: the mean difference of log-loss on their validation rows, shrunk toward that of all users; everybody "
    "else gets the global method"
)

USERS = pa.schema(
    [
        ("user_id", pa.string()),
        ("train_rows", pa.int64()),
        ("valid_rows", pa.int64()),
        ("gain", pa.float64()),  # nats a row and label the personal arm loses less on validation; null without rows
        ("expected", pa.float64()),  # ... shrunk toward everybody's
        ("route", pa.string()),  # "personal" or "global"
    ]
)


@dataclass(frozen=True)
class Candidate:
    """One arm that could be served. Scores are macro-F1 on validation, never on test."""

    name: str
    personal: bool
    valid_macro_f1: float


@dataclass(frozen=True)
class Choice:
    """The arms a bundle holds. `personal_arm` is None where everybody is served by the global one."""

    global_arm: str
    personal_arm: str | None

    @property
    def best(self) -> str:
        """The arm that serves users it is better for."""
        return self.personal_arm or self.global_arm


def choose(candidates: Sequence[Candidate]) -> Choice | None:
    """The best global and the best personal arm; None where no arm works for users nobody knows.

    The first of equals wins, so that the simpler method, which experiment files name first, is kept.
    """
    everyone = [candidate for candidate in candidates if not candidate.personal]
    own = [candidate for candidate in candidates if candidate.personal]
    if not everyone:
        return None
    shared = max(everyone, key=lambda candidate: candidate.valid_macro_f1)
    best = max(own, key=lambda candidate: candidate.valid_macro_f1, default=None)
    return Choice(shared.name, best and best.name)


@dataclass(frozen=True)
class Population:
    """What users' gains are like, in nats a row and label.

    Attributes:
        mean: of users' true mean gains (m).
        between: their variance (t2).
        within: variance of a row's gain within a user (s2).
    """

    mean: float
    between: float
    within: float

    @classmethod
    def of(cls, gains: Floats, rows: NDArray[np.int64], within: float) -> Population:
        """Estimate by moments.

        Args:
            gains: float64 [users], mean gain of each user's rows.
            rows: int64 [users], how many; at least one.
            within: see the attributes.
        """
        if not len(gains):
            return cls(0.0, 0.0, 0.0)
        if within <= 0:  # nothing to tell users from chance by
            return cls(float(rows @ gains / rows.sum()), 0.0, 0.0)
        weights = rows / within
        centre = weights @ gains / weights.sum()
        excess = weights @ (gains - centre) ** 2 - (len(gains) - 1)
        room = weights.sum() - (weights**2).sum() / weights.sum()
        between = max(0.0, float(excess / room)) if room > 0 else 0.0
        precision = 1 / (between + within / rows)
        return cls(float(precision @ gains / precision.sum()), between, within)

    def expected(self, gains: Floats, rows: NDArray[np.int64]) -> Floats:
        """Shrink users' mean gains: float64 [users]. Those without rows get the population's mean."""
        if self.between == 0:
            return np.full(len(gains), self.mean)
        trust = self.between * rows / (self.between * rows + self.within)
        return self.mean + trust * (gains - self.mean)

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def row_losses(
    scores: NDArray[np.float32], labels: NDArray[np.float32], kind: Literal["multilabel", "multiclass"]
) -> Floats:
    """Log-loss of each row in nats, the mean over its labels that were asked: float64 [rows]; NaN where none was."""
    floor = 1e-6
    given = np.nan_to_num(labels.astype(np.float64))
    likely = np.clip(scores.astype(np.float64), floor, 1 - floor)
    if kind == "multiclass":
        likely = likely / likely.sum(axis=1, keepdims=True)
        return -(given * np.log(likely)).sum(axis=1)
    losses = -(given * np.log(likely) + (1 - given) * np.log1p(-likely))
    asked = ~np.isnan(labels)
    with np.errstate(invalid="ignore"):
        return np.where(asked, losses, 0.0).sum(axis=1) / asked.sum(axis=1)


def route(
    known: Mapping[str, int], users: Sequence[str], shared: Floats, personal: Floats
) -> tuple[pa.Table, Population]:
    """Choose a method for each user.

    Args:
        known: the users the personal method was trained on -> their training rows.
        users: str [validation rows].
        shared, personal: float64 [validation rows], log-loss of the global and of the personal arm.

    Returns:
        A table like `USERS`, in the order of `known`; and the population it was shrunk toward.
    """
    of_row, differences = _usable(known, users, shared - personal)
    gains, rows = _means(of_row, differences, len(known))
    some = rows > 0
    left = len(of_row) - int(some.sum())
    within = float(((differences - gains[of_row]) ** 2).sum() / left) if left > 0 else 0.0
    population = Population.of(gains[some], rows[some], within)
    return _table(known, gains, rows, population), population


def reroute(
    known: Mapping[str, int], users: Sequence[str], shared: Floats, personal: Floats, population: Population
) -> pa.Table:
    """The same for some users, shrunk toward a population that is known already: a table like `USERS`."""
    gains, rows = _means(*_usable(known, users, shared - personal), len(known))
    return _table(known, gains, rows, population)


def _usable(known: Mapping[str, int], users: Sequence[str], differences: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Rows of known users with a loss: the position of each one's user, and the difference."""
    place = {user: position for position, user in enumerate(known)}
    of_row = np.asarray([place.get(user, -1) for user in users], dtype=np.int64)
    usable = (of_row >= 0) & np.isfinite(differences)
    return of_row[usable], differences[usable]


def _means(of_row: NDArray[np.int64], differences: Floats, users: int) -> tuple[Floats, NDArray[np.int64]]:
    """Mean difference of each user (0 without rows), and their rows."""
    rows = np.bincount(of_row, minlength=users)
    return np.bincount(of_row, weights=differences, minlength=users) / np.maximum(rows, 1), rows


def _table(known: Mapping[str, int], gains: Floats, rows: NDArray[np.int64], population: Population) -> pa.Table:
    expected = population.expected(gains, rows)
    columns: dict[str, Any] = {
        "user_id": list(known),
        "train_rows": list(known.values()),
        "valid_rows": rows,
        "gain": pa.array(np.where(rows > 0, gains, np.nan), from_pandas=True),
        "expected": expected,
        "route": np.where(expected > 0, "personal", "global").tolist(),
    }
    return pa.table(columns).cast(USERS)

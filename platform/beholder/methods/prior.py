"""Base rates: how far one gets without reading the text at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.evaluation.headline import choose_thresholds
from beholder.methods.base import BaseKind, MethodConfig, Scores, score_every_pair
from beholder.training.context import Context, Training
from beholder.util.atomic import atomic_write
from beholder.util.errors import MethodError


class PriorConfig(MethodConfig):
    """How often each label is given, the same for everyone."""

    method: Literal["prior"] = "prior"
    bases: ClassVar[tuple[BaseKind, ...]] = ()

    def fit(self, train: Annotations, valid: Annotations, context: Context) -> FittedPrior:
        """Count."""
        return _with_thresholds(FittedPrior(self.method, train.task, _frequencies(train.labels), {}), valid)


class UserPriorConfig(MethodConfig):
    """How often each user gives each label, shrunk toward everybody's frequency.

    `(positives + strength * frequency) / (asked + strength)`: the posterior mean under a beta prior worth `strength`
    rows.
    """

    method: Literal["user-prior"] = "user-prior"
    strength: float = Field(default=10.0, ge=0)
    personal: ClassVar[bool] = True
    bases: ClassVar[tuple[BaseKind, ...]] = ()

    def fit(self, train: Annotations, valid: Annotations, context: Context) -> FittedUserPrior:
        """Count per user."""
        overall = _frequencies(train.labels)
        by_user = _rates(train, overall, self.strength)
        fitted = FittedUserPrior(self.method, train.task, overall, by_user, strength=self.strength)
        return _with_thresholds(fitted, valid)


@dataclass
class FittedPrior:
    """Frequencies, overall and per user."""

    method: str
    task: Task
    overall: NDArray[np.float32]
    by_user: dict[str, NDArray[np.float32]]
    thresholds: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    training: Training = field(default_factory=Training)

    def score(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [rows, labels]; the overall frequencies for users unseen in training."""
        return np.stack([self.by_user.get(user, self.overall) for user in users]).astype(np.float32)

    def score_all(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [texts, users, labels]."""
        return score_every_pair(self, texts, users)

    @property
    def known(self) -> list[str]:
        """See `base.Fitted`."""
        return sorted(self.by_user)

    def knows(self, user: str) -> bool:
        """Whether this user's own frequencies are there."""
        return user in self.by_user

    def save(self, folder: Path) -> None:
        """One small JSON file."""
        written = {
            "overall": self.overall.tolist(),
            "by_user": {user: rates.tolist() for user, rates in self.by_user.items()},
        }
        (folder / "frequencies.json").write_text(json.dumps(written))

    @staticmethod
    def erase(folder: Path, user: str) -> bool:
        """See `methods.base.erase_saved`."""
        file = folder / "frequencies.json"
        written = json.loads(file.read_text())
        if written["by_user"].pop(user, None) is None:
            return False
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps(written))
        return True

    @classmethod
    def load(
        cls, folder: Path, method: str, task: Task, thresholds: NDArray[np.float32], base: str, device: str
    ) -> Self:
        """Read `save`'s file."""
        written = json.loads((folder / "frequencies.json").read_text())
        by_user = {user: np.asarray(rates, dtype=np.float32) for user, rates in written["by_user"].items()}
        return cls(method, task, np.asarray(written["overall"], dtype=np.float32), by_user, thresholds)


@dataclass
class FittedUserPrior(FittedPrior):
    """The same, with what is needed to take in further users; `strength` is None in files of earlier versions."""

    strength: float | None = None

    def adapt(self, rows: Annotations) -> FittedUserPrior:
        """The same frequencies, with those of the users of `rows` counted from these rows alone.

        Raises:
            MethodError: it was saved by a version that kept no strength.
        """
        if self.strength is None:
            raise MethodError(f"{self.method}: saved by an earlier version, without its strength. Fit it again.")
        return replace(self, by_user=self.by_user | _rates(rows, self.overall, self.strength))

    def save(self, folder: Path) -> None:
        """The same file, with the strength."""
        super().save(folder)
        file = folder / "frequencies.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "strength": self.strength}))

    @classmethod
    def load(
        cls, folder: Path, method: str, task: Task, thresholds: NDArray[np.float32], base: str, device: str
    ) -> Self:
        """Read `save`'s file."""
        loaded = super().load(folder, method, task, thresholds, base, device)
        return replace(loaded, strength=json.loads((folder / "frequencies.json").read_text()).get("strength"))


AnyPrior = TypeVar("AnyPrior", bound=FittedPrior)


def _rates(rows: Annotations, overall: NDArray[np.float32], strength: float) -> dict[str, NDArray[np.float32]]:
    """The frequencies of each user of these rows, shrunk toward everybody's."""
    names, user = rows.by_user
    asked = np.zeros((len(names), len(overall)))
    positives = np.zeros_like(asked)
    np.add.at(asked, user, ~np.isnan(rows.labels))
    np.add.at(positives, user, np.nan_to_num(rows.labels))
    rates = (positives + strength * overall) / np.maximum(asked + strength, 1e-9)
    return {name: rates[u].astype(np.float32) for u, name in enumerate(names)}


def _frequencies(labels: NDArray[np.float32]) -> NDArray[np.float32]:
    asked = np.maximum((~np.isnan(labels)).sum(axis=0), 1)
    return (np.nansum(labels, axis=0) / asked).astype(np.float32)


def _with_thresholds(fitted: AnyPrior, valid: Annotations) -> AnyPrior:
    scores = fitted.score(list(valid.texts), list(valid.user_ids))
    fitted.thresholds = choose_thresholds(scores, valid.labels, valid.task)
    return fitted

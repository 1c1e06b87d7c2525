"""Base rates: how far one gets without reading the text at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from beholder.annotations import Annotations, Task
from beholder.evaluation.metrics import fit_thresholds
from beholder.files import whole
from beholder.methods.method import BaseKind, Context, MethodConfig, Scores, Training, score_every_pair


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

    def fit(self, train: Annotations, valid: Annotations, context: Context) -> FittedPrior:
        """Count per user."""
        overall = _frequencies(train.labels)
        names, user = train.by_user
        asked = np.zeros((len(names), len(overall)))
        positives = np.zeros_like(asked)
        np.add.at(asked, user, ~np.isnan(train.labels))
        np.add.at(positives, user, np.nan_to_num(train.labels))
        rates = (positives + self.strength * overall) / np.maximum(asked + self.strength, 1e-9)
        by_user = {name: rates[u].astype(np.float32) for u, name in enumerate(names)}
        return _with_thresholds(FittedPrior(self.method, train.task, overall, by_user), valid)


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
        """See `method.erase_saved`."""
        file = folder / "frequencies.json"
        written = json.loads(file.read_text())
        if written["by_user"].pop(user, None) is None:
            return False
        with whole(file) as temporary:
            temporary.write_text(json.dumps(written))
        return True

    @classmethod
    def load(
        cls, folder: Path, method: str, task: Task, thresholds: NDArray[np.float32], base: str, device: str
    ) -> FittedPrior:
        """Read `save`'s file."""
        written = json.loads((folder / "frequencies.json").read_text())
        by_user = {user: np.asarray(rates, dtype=np.float32) for user, rates in written["by_user"].items()}
        return cls(method, task, np.asarray(written["overall"], dtype=np.float32), by_user, thresholds)


def _frequencies(labels: NDArray[np.float32]) -> NDArray[np.float32]:
    asked = np.maximum((~np.isnan(labels)).sum(axis=0), 1)
    return (np.nansum(labels, axis=0) / asked).astype(np.float32)


def _with_thresholds(fitted: FittedPrior, valid: Annotations) -> FittedPrior:
    scores = fitted.score(list(valid.texts), list(valid.user_ids))
    fitted.thresholds = fit_thresholds(scores, valid.labels, valid.task.kind)
    return fitted

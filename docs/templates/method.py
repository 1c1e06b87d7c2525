"""Template of a method: how often each user gives each label, without reading the text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from beholder.data.annotations import Annotations
from beholder.data.controls import Shuffled
from beholder.data.task import Task
from beholder.evaluation.metrics import fit_thresholds
from beholder.methods.base import BaseKind, MethodConfig, Scores, score_every_pair
from beholder.training.context import Context, Training
from beholder.util.atomic import atomic_write


class UserRateConfig(MethodConfig):
    """How often each user gives each label.

    Args:
        pseudo_rows: rows at the overall frequency that are added to each user's own.
        shuffle_users: set for a control, whose rows already come with users permuted.
    """

    method: Literal["user-rate"] = "user-rate"
    pseudo_rows: float = Field(default=10.0, gt=0)
    shuffle_users: Shuffled = False
    personal: ClassVar[bool] = True  # its scores depend on the user
    bases: ClassVar[tuple[BaseKind, ...]] = ()  # it needs no base

    @property
    def control(self) -> Shuffled:
        """See `shuffle_users`."""
        return self.shuffle_users

    def fit(self, train: Annotations, valid: Annotations, context: Context) -> FittedUserRate:
        """Count on `train`, choose thresholds on `valid`."""
        names, user = train.by_user  # user: int64 [rows], positions in names
        observed = ~np.isnan(train.labels)  # bool [rows, labels]; NaN: a label not asked of this user
        overall = np.nansum(train.labels, axis=0) / np.maximum(observed.sum(axis=0), 1)  # [labels]
        positives = np.tile(self.pseudo_rows * overall, (len(names), 1))  # [users, labels]
        counts = np.full_like(positives, self.pseudo_rows)
        np.add.at(positives, user, np.nan_to_num(train.labels))
        np.add.at(counts, user, observed)
        rates = dict(zip(names, (positives / counts).astype(np.float32), strict=True))
        fitted = FittedUserRate(self.method, train.task, overall.astype(np.float32), rates)
        scores = fitted.score(list(valid.texts), list(valid.user_ids))
        fitted.thresholds = fit_thresholds(scores, valid.labels, valid.task.kind)
        return fitted


@dataclass
class FittedUserRate:
    """Label frequencies, overall and per user."""

    method: str
    task: Task
    overall: NDArray[np.float32]
    rates: dict[str, NDArray[np.float32]]
    thresholds: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    training: Training = field(default_factory=Training)

    def score(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [rows, labels] in 0..1; unknown users get the overall frequencies."""
        return np.stack([self.rates.get(user, self.overall) for user in users])

    def score_all(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [texts, users, labels]."""
        return score_every_pair(self, texts, users)

    @property
    def known(self) -> list[str]:
        """Users whose own judgements were learned from, sorted."""
        return sorted(self.rates)

    def knows(self, user: str) -> bool:
        """Whether the score of this user is learned from their own judgements."""
        return user in self.rates

    def save(self, folder: Path) -> None:
        """Write JSON, Parquet or safetensors only; `method.json` is written by the caller."""
        rates = {user: values.tolist() for user, values in self.rates.items()}
        (folder / "rates.json").write_text(json.dumps({"overall": self.overall.tolist(), "rates": rates}))

    @staticmethod
    def erase(folder: Path, user: str) -> bool:
        """Remove a user from saved files; whether anything of theirs was stored."""
        written = json.loads((folder / "rates.json").read_text())
        found = written["rates"].pop(user, None) is not None
        with atomic_write(folder / "rates.json") as temporary:  # a crash leaves the old file or the new one
            temporary.write_text(json.dumps(written))
        return found

    @classmethod
    def load(
        cls, folder: Path, method: str, task: Task, thresholds: NDArray[np.float32], base: str, device: str
    ) -> FittedUserRate:
        """Read what `save` wrote."""
        written = json.loads((folder / "rates.json").read_text())
        rates = {user: np.asarray(values, dtype=np.float32) for user, values in written["rates"].items()}
        return cls(method, task, np.asarray(written["overall"], dtype=np.float32), rates, thresholds)

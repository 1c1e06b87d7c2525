"""From a model's likelihoods to scores in 0..1, label by label, on validation rows (Platt 1999)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NOISE = 1e-4
"""Log-likelihoods that differ by less say nothing: they are float32 at best."""


@dataclass(frozen=True)
class Calibration:
    """score = 1 / (1 + exp(-(slope x + offset))) for each label; `multiclass`: scaled to add up to one.

    Attributes:
        slope, offset: float64 [labels]. A slope is never negative: a likelihood with the opposite sign, or none, is
            not turned round, its label gets its base rate.
    """

    slope: Floats
    offset: Floats
    kind: Literal["multilabel", "multiclass"]

    def __call__(self, evidence: Floats) -> NDArray[np.float32]:
        """evidence: [rows, labels], the larger the likelier; returns float32 [rows, labels]."""
        scores = 1 / (1 + np.exp(-np.clip(self.slope * evidence + self.offset, -60, 60)))
        if self.kind == "multiclass":
            scores = scores / scores.sum(axis=1, keepdims=True)
        return scores.astype(np.float32)


def fit_calibration(
    evidence: Floats, labels: NDArray[np.float32], kind: Literal["multilabel", "multiclass"]
) -> Calibration:
    """Logistic regression of each label on its own evidence, with the usual ridge.

    Args:
        evidence: float64 [rows, labels].
        labels: float32 [rows, labels], NaN = not asked.
        kind: of the task.
    """
    from sklearn.linear_model import LogisticRegression

    slope, offset = np.zeros(labels.shape[1]), np.zeros(labels.shape[1])
    for label in range(labels.shape[1]):
        asked = ~np.isnan(labels[:, label])
        x, gold = evidence[asked, label], labels[asked, label] >= 0.5
        rate = np.clip(gold.mean() if len(gold) else 0.5, 1e-3, 1 - 1e-3)
        offset[label] = np.log(rate / (1 - rate))
        mean, spread = (x.mean(), x.std()) if len(x) else (0.0, 0.0)
        if gold.all() or not gold.any() or spread < NOISE:
            continue
        model = LogisticRegression().fit(((x - mean) / spread)[:, None], gold)
        if (steep := float(model.coef_[0, 0]) / spread) > 0:
            slope[label], offset[label] = steep, float(model.intercept_[0]) - steep * mean
    return Calibration(slope, offset, kind)

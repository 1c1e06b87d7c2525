"""Which texts a newcomer should judge first: those whose answers tell most about how they differ from others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def most_informative(scores: NDArray[np.float32], count: int, noise: float = 0.25) -> list[int]:
    """Choose texts in whose scores readers differ most, and differ differently.

    Readers are draws of a Gaussian process over texts, whose covariance is that of their scores; a newcomer's judgement
    is a noisy look at theirs. Greedily taking the text of the largest variance that is left (a pivoted Cholesky
    decomposition) is D-optimal design up to a constant factor: what two texts tell alike is asked once.

    Args:
        scores: float32 [texts, readers, labels].
        count: how many to choose.
        noise: of a judgement, as a share of the largest variance of a text.

    Returns:
        Positions, the most telling first; fewer than `count` where there are fewer texts.
    """
    texts, readers, labels = scores.shape
    centred = (scores - scores.mean(axis=1, keepdims=True)).reshape(texts, readers * labels).astype(np.float64)
    covariance: Floats = centred @ centred.T / max(1, readers * labels)
    floor = noise * max(float(covariance.diagonal().max(initial=0.0)), 1e-12)
    chosen: list[int] = []
    for _ in range(min(count, texts)):
        left = covariance.diagonal().copy()
        left[chosen] = -np.inf
        best = int(np.argmax(left))
        chosen.append(best)
        known = covariance[:, best].copy()
        covariance -= np.outer(known, known) / (known[best] + floor)
    return chosen


def spread(labels: Sequence[str], scores: NDArray[np.float32], decisions: NDArray[np.bool_]) -> list[dict[str, object]]:
    """How readers divide on each label, the most divided first: what `schemas.LabelSpread` holds.

    Args:
        labels: their names.
        scores: float32 [readers, labels].
        decisions: bool [readers, labels].
    """
    given = decisions.mean(axis=0)
    deviation = scores.std(axis=0)
    order = sorted(range(len(labels)), key=lambda each: (-given[each] * (1 - given[each]), -deviation[each]))
    return [
        {
            "label": labels[each],
            "mean": float(scores[:, each].mean()),
            "deviation": float(deviation[each]),
            "given": float(given[each]),
            "division": float(4 * given[each] * (1 - given[each])),
            "deciles": np.quantile(scores[:, each], np.linspace(0, 1, 11)).tolist(),
            "histogram": np.histogram(scores[:, each], bins=20, range=(0, 1))[0].tolist(),
        }
        for each in order
    ]

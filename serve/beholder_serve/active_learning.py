"""Selection of texts for a new user to judge first: the most informative about how they differ from other users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from beholder.data.scales import Scale

Floats = NDArray[np.float64]


def most_informative(scores: NDArray[np.float32], count: int, noise: float = 0.25) -> list[int]:
    """Choose texts on whose scores users disagree most, avoiding redundant ones.

    Users are modelled as draws from a Gaussian process over texts with the covariance of their scores, and a judgement
    as a noisy observation of it. Greedily choosing the text with the largest remaining variance (a pivoted Cholesky
    decomposition) approximates D-optimal design up to a constant factor: of two texts that carry the same information,
    one is chosen.

    Args:
        scores: float32 [texts, users, labels].
        count: how many texts to choose.
        noise: variance of a judgement, relative to the largest variance of a text.

    Returns:
        Positions of texts, the most informative first; fewer than `count` if there are fewer texts.
    """
    texts, users, labels = scores.shape
    centred = (scores - scores.mean(axis=1, keepdims=True)).reshape(texts, users * labels).astype(np.float64)
    covariance: Floats = centred @ centred.T / max(1, users * labels)
    floor = noise * max(float(covariance.diagonal().max(initial=0.0)), 1e-12)
    chosen: list[int] = []
    for _ in range(min(count, texts)):
        variance = covariance.diagonal().copy()
        variance[chosen] = -np.inf
        best = int(np.argmax(variance))
        chosen.append(best)
        column = covariance[:, best].copy()
        covariance -= np.outer(column, column) / (column[best] + floor)
    return chosen


def spread(labels: Sequence[str], scores: NDArray[np.float32], decisions: NDArray[np.bool_]) -> list[dict[str, object]]:
    """Disagreement of users per label, the largest first, as `schemas.LabelSpread`.

    Args:
        labels: names.
        scores: float32 [users, labels].
        decisions: bool [users, labels].
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


def scale_spread(scale: Scale, values: NDArray[np.float64]) -> dict[str, object]:
    """Disagreement of users on a scale, as `schemas.ScaleSpread`.

    Args:
        scale: whose answers these are.
        values: float64 [users], expected answers.
    """
    return {
        "name": scale.name,
        "points": list(scale.points),
        "words": list(scale.words),
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        "deciles": np.quantile(values, np.linspace(0, 1, 11)).tolist(),
        "histogram": np.histogram(values, bins=20, range=(scale.points[0], scale.points[-1]))[0].tolist(),
    }

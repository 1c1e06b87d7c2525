"""How well answers on a scale are predicted, each measure with the influence of every row on it.

Point predictions are the median of the predicted distribution for absolute errors and agreement, and its mean for
squared errors: each is what minimises the error it is judged by (Gneiting 2011, JASA 106(494)). See `measures` for what
an influence is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from beholder.data.scales import LEVEL, Scale
from beholder.evaluation.intervals import Clusters
from beholder.evaluation.measures import Better, Measured, paired
from beholder.evaluation.metrics import Floats

BETTER: dict[str, Better] = {"mae": "lower", "rmse": "lower", "quadratic_kappa": "higher", "spearman": "higher"}
LEAST_ROWS = 3
"""A person's ranks are compared where they gave this many answers, and not all the same."""


def scale_measures(
    scale: Scale, scores: Floats, labels: Floats, users: NDArray[np.object_]
) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """Measures of one scale, and facts of its intervals.

    Args:
        scale: whose answers these are.
        scores: float [rows, labels] of the scale, in 0..1.
        labels: the same of the answers, NaN = not asked.
        users: str [rows].

    Returns:
        `mae` and `rmse` in the unit of the scale, `quadratic_kappa`, `spearman` (mean over people of each one's rank
        correlation); and `coverage` (share of answers within the 90 % interval) and `width` (its mean length).
    """
    asked = np.asarray(~np.isnan(labels).any(axis=1), dtype=bool)
    truth = scale.decode(np.nan_to_num(labels))
    median, mean = scale.median(scores), scale.mean(scores)
    low, high = scale.interval(scores)
    within = (truth >= low - 1e-9) & (truth <= high + 1e-9)
    found = {
        "mae": _mean_of(np.abs(truth - median), asked),
        "rmse": _root(_mean_of((truth - mean) ** 2, asked)),
        "quadratic_kappa": _kappa(truth, median, asked),
        "spearman": _spearman(truth, mean, asked, users),
    }
    facts = {"coverage": _mean_of(within.astype(np.float64), asked), "width": _mean_of(high - low, asked)}
    return found, facts


def scale_differences(
    mine: Sequence[Mapping[str, Measured]],
    other: Sequence[Mapping[str, Measured]],
    clusters: Clusters,
    level: float,
) -> dict[str, dict[str, Any]]:
    """How much better one method is than another on a scale, each trained as often: measure -> plain values.

    A gain is above zero where the method is better, whether the measure is to be high or low.
    """
    found = {}
    for name, better in BETTER.items():
        one, two = (Measured.mean([each[name] for each in trainings]) for trainings in (mine, other))
        found[name] = asdict(paired(one, two, better, clusters, level))
    return found


def interval_facts(trainings: Sequence[Mapping[str, Measured]], clusters: Clusters, level: float) -> dict[str, float]:
    """How often answers lie within the predicted interval, and how long it is, each with its interval at large."""
    found = {"level": LEVEL}
    for name in ("coverage", "width"):
        mean = Measured.mean([each[name] for each in trainings])
        at_large, _ = (spread.with_training(mean.each) for spread in clusters.spreads(mean.influence))
        low, high = at_large.interval(mean.value, level)
        found |= {name: mean.value, f"{name}_low": low, f"{name}_high": high}
    return found


def _mean_of(values: Floats, asked: NDArray[np.bool_]) -> Measured:
    count = int(asked.sum())
    if not count:
        return Measured(float("nan"), np.zeros(len(values)))
    value = float(values[asked].mean())
    return Measured(value, np.where(asked, values - value, 0.0) / count)


def _root(squares: Measured) -> Measured:
    """The square root, whose derivative is 1 / (2 root)."""
    value = float(np.sqrt(squares.value))
    return Measured(value, squares.influence / (2 * value) if value > 0 else squares.influence * 0)


def _kappa(truth: Floats, said: Floats, asked: NDArray[np.bool_]) -> Measured:
    """Quadratically weighted kappa (Cohen 1968, Psychological Bulletin 70(4)).

    1 - D / M of D, the mean squared difference, and M, that of unrelated answers: var(truth) + var(predicted) +
    (difference of means)^2. Its derivative is -D' / M + M' D / M^2.
    """
    y, p = truth[asked], said[asked]
    if not len(y):
        return Measured(float("nan"), np.zeros(len(truth)))
    off, apart = (y - p) ** 2, y.mean() - p.mean()
    chance = y.var() + p.var() + apart**2
    if chance <= 0:
        return Measured(float("nan"), np.zeros(len(truth)))
    of_y, of_p = y - y.mean(), p - p.mean()
    moved = of_y**2 - y.var() + of_p**2 - p.var() + 2 * apart * (of_y - of_p)
    influence = np.zeros(len(truth))
    influence[asked] = (-(off - off.mean()) / chance + off.mean() / chance**2 * moved) / len(y)
    return Measured(float(1 - off.mean() / chance), influence)


def _spearman(truth: Floats, said: Floats, asked: NDArray[np.bool_], users: NDArray[np.object_]) -> Measured:
    """The mean over people of the rank correlation of their answers with the predicted ones.

    The influence of a row on a person's correlation r of standardised ranks a and b is (a b - r (a^2 + b^2) / 2) / rows
    with ranks held, and each person's r has its share of the mean. People with fewer than `LEAST_ROWS` answers, or
    equal ones only, have none.
    """
    _, user = np.unique(users.astype(str), return_inverse=True)
    influence, found, of_people = np.zeros(len(truth)), [], []
    for person in range(int(user.max()) + 1 if len(user) else 0):
        rows = np.flatnonzero((user == person) & asked)
        if len(rows) < LEAST_ROWS or np.ptp(truth[rows]) == 0:  # by the truth alone: the same people for all methods
            continue
        r = 0.0  # of a prediction that is the same for all of somebody's texts
        if np.ptp(said[rows]) > 0:
            a, b = (_standard(rankdata(values[rows])) for values in (truth, said))
            r = float((a * b).mean())
            influence[rows] = (a * b - r * (a**2 + b**2) / 2) / len(rows)
        found.append(r)
        of_people.append(rows)
    if not found:
        return Measured(float("nan"), np.zeros(len(truth)))
    value = float(np.mean(found))
    for r, rows in zip(found, of_people, strict=True):
        influence[rows] += (r - value) / len(rows)
    return Measured(value, influence / len(found))


def _standard(ranks: Floats) -> NDArray[np.float64]:
    return (ranks - ranks.mean()) / ranks.std()

"""Pictures of who gains: against how much they gave, how far they stand from the crowd, and whom they resemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from beholder.evaluation.arm_scores import ArmScores, Judgements
from beholder.evaluation.metrics import Floats
from beholder.evaluation.results import Results
from beholder.report.figures import BLUE, DOTS, GREY, NAMED_USERS, ORANGE, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gain_against(
    results: Results, arm: ArmScores, values: Floats, axis: str, *, what: str, logarithmic: bool = False
) -> Figure:
    """Each user's gain in log-loss against something known of them.

    Args:
        results, arm: whose gains.
        values: float [users of the test rows, sorted], NaN where it is not known.
        axis: what the values are, for the axis.
        what: the same in a few words, for the title.
        logarithmic: of the axis.
    """
    gained = results.user_log_loss_gains(arm)
    known = ~np.isnan(values)
    x, y = values[known], gained[known]
    figure, axes = canvas(height=4.4)
    colours = np.select([y > 0, y < 0], [BLUE, ORANGE], GREY)
    axes.scatter(x, y, s=28 if len(x) <= 200 else 8, color=list(colours), zorder=3, rasterized=len(x) > DOTS)
    axes.axhline(0, color="black", linewidth=1)
    if logarithmic and len(x) and x.min() > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}" if x.max() < 10 * x.min() else "")
    axes.set_xlabel(axis)
    axes.set_ylabel(f"log-loss below that of {results.reference}, nats")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_title(f"{arm.name}: {_trend(x, y, what)}", loc="left")
    return figure


def distance_from_model(reference: ArmScores, valid: Judgements, users: Sequence[str]) -> Floats:
    """How far each user's judgements lie from the reference's scores: mean of |label - score|, on validation rows.

    Args:
        reference: the global model.
        valid: the rows, so that the gain on test rows is held against something else.
        users: names.

    Returns:
        float64 [users], in 0..1, NaN where a user has no validation row.
    """
    off = np.nanmean(np.abs(valid.labels - reference.valid_scores), axis=1)
    return _means(off[:, None], valid.user_ids, users)[:, 0]


def leanings(reference: ArmScores, results: Results, users: Sequence[str]) -> Floats:
    """How much more often each user gives each label than the reference expects, on all rows it was scored on.

    Returns:
        float64 [users, labels]: mean of label - score, NaN where a user was never asked.
    """
    labels = np.concatenate([results.valid.labels, results.test.labels])
    scores = np.concatenate([reference.valid_scores, reference.test_scores])
    return _means(labels - scores, np.concatenate([results.valid.user_ids, results.test.user_ids]), users)


def disagreement_map(results: Results, names: Sequence[str], leaning: Floats) -> Figure:
    """Which users resemble which: a heat map of their leanings, users of like leaning side by side.

    With many users, or one label, a map of dots instead: close together is alike.

    Args:
        results: of the run.
        names: of the users, as they shall be called.
        leaning: see `leanings`.
    """
    leaning = np.nan_to_num(leaning)
    if len(names) > NAMED_USERS and leaning.shape[1] > 1:
        return _map(results, leaning)
    order = _alike(leaning)
    most = max(0.05, float(np.abs(leaning).max()))
    figure, axes = canvas(height=1.8 + 0.26 * len(names))
    drawn = axes.imshow(leaning[order], cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(leaning.shape[1]), list(results.label_names), rotation=45, ha="right", fontsize=8)
    if len(names) <= NAMED_USERS:
        axes.set_yticks(range(len(order)), [str(names[place]) for place in order], fontsize=8)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(names):,} users, like beside like")
    axes.grid(visible=False)
    figure.colorbar(drawn, ax=axes, label="gives the label more often (orange)\nor less (violet) than expected")
    axes.set_title("Who leans which way, like beside like", loc="left")
    return figure


def _map(results: Results, leaning: Floats) -> Figure:
    """The two directions in which leanings differ most (principal components)."""
    centred = leaning - leaning.mean(axis=0)
    _, strength, directions = np.linalg.svd(centred, full_matrices=False)
    place = centred @ directions[:2].T
    share = (strength**2 / (strength**2).sum())[:2] if strength.sum() else np.zeros(2)
    figure, axes = canvas(height=5.0)
    overall = leaning.mean(axis=1)
    most = max(0.05, float(np.abs(overall).max()))
    drawn = axes.scatter(
        *place.T,
        c=overall,
        cmap="PuOr_r",
        vmin=-most,
        vmax=most,
        s=14,
        edgecolors=GREY,
        linewidths=0.2,
        rasterized=len(place) > DOTS,
    )
    for axis, label, direction in zip((axes.xaxis, axes.yaxis), share, directions[:2], strict=True):
        chief = np.argsort(-np.abs(direction))[:2]
        words = ", ".join(f"{'+' if direction[each] > 0 else '-'}{results.label_names[each]}" for each in chief)
        axis.set_label_text(f"{words} ({100 * label:.0f} % of the differences)")
    figure.colorbar(drawn, ax=axes, label="gives labels more often (orange)\nor less (violet) than expected")
    axes.set_title(f"{len(place):,} users: close together is alike", loc="left")
    return figure


def _alike(leaning: Floats) -> NDArray[np.int64]:
    """An order in which users of like leaning stand side by side."""
    if len(leaning) < 3:
        return np.arange(len(leaning))
    from scipy.cluster.hierarchy import leaves_list, linkage

    return leaves_list(linkage(leaning, method="average", optimal_ordering=len(leaning) <= 300)).astype(np.int64)


def _means(values: Floats, user_ids: NDArray[np.object_], users: Sequence[str]) -> Floats:
    """Mean of the rows of each user, NaN left out: [rows, columns] -> [users, columns]."""
    place = {user: number for number, user in enumerate(users)}
    rows = np.asarray([place.get(str(user), -1) for user in user_ids])
    inside = rows >= 0
    given = ~np.isnan(values)
    sums, counts = np.zeros((len(users), values.shape[1])), np.zeros((len(users), values.shape[1]))
    np.add.at(sums, rows[inside], np.nan_to_num(values[inside]))
    np.add.at(counts, rows[inside], given[inside])
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _trend(x: Floats, y: Floats, what: str) -> str:
    """Whether gains rise with something, as a rank correlation; none for fewer than ten users."""
    if len(x) < 10 or len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return f"gain against {what} (too few users for a trend)"
    from scipy.stats import spearmanr

    correlation, p = (float(value) for value in spearmanr(x, y))  # type: ignore[arg-type]
    if p > 0.05:
        return f"no trend with {what} (rank correlation {correlation:+.2f})"
    return f"gain {'rises' if correlation > 0 else 'falls'} with {what} (rank correlation {correlation:+.2f})"

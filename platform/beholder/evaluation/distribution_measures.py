"""How well the distribution of a text's answers is predicted, and each reader's own answer, text by text.

Readers are the distribution: that of a text is the mean over those who judged it of what was predicted of each, and the
given one the mean of what they answered. These are the measures of the shared tasks Learning With Disagreements, all of
them to be low: cross-entropy in 2023 (arXiv 2304.14803); in 2025 (arXiv 2510.08460) Manhattan distance, for scales the
Wasserstein distance, and of the answers of each reader the error rate, for scales the absolute distance divided by the
number of points (6 of CSC, 11 of Par). A text counts once, however many readers judged it.

Of answers the likelier one is predicted, of a scale the median: what the error rate and the absolute distance are
lowest for. Thresholds, which are chosen for F1, have no part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beholder.data.scales import Scale
from beholder.data.task import Task
from beholder.evaluation.arm_scores import ArmScores, Judgements
from beholder.evaluation.intervals import Clusters
from beholder.evaluation.measures import Measured, paired
from beholder.evaluation.metrics import Floats

CLIP, ADDED = 1e-12, 1e-9
"""Probabilities are kept within CLIP and 1 - CLIP, and have ADDED added before the logarithm, as in 2023."""

Distance = Callable[[Floats, Floats], tuple[Floats, Floats, Floats]]
"""Predicted and given [texts, questions, values] -> distance [texts, questions] and its derivatives by both."""


def distribution_measures(
    task: Task, scores: Floats, labels: Floats, texts: NDArray[np.object_]
) -> tuple[dict[str, Measured], dict[str, dict[str, Measured]]]:
    """Measures of texts, each with the influence of every row.

    Args:
        task: whose labels these are.
        scores: float [rows, labels] in 0..1.
        labels: the same of the answers, NaN = not asked.
        texts: str [rows], the id of what was judged.

    Returns:
        Of labels and classes `manhattan`, `cross_entropy` and `jensen_shannon` (nats) of distributions and
        `error_rate` of answers, means over the labels of a text; nothing where the task has scales only. Of each scale
        `wasserstein` (in the unit of the scale) and `absolute_distance` (a share).
    """
    text = np.unique(texts.astype(str), return_inverse=True)[1]
    scores, labels = scores.astype(np.float64), labels.astype(np.float64)
    plain = np.flatnonzero(~task.scaled)
    found: dict[str, Measured] = {}
    if len(plain):
        predicted, given, asked = _distributions(task, scores[:, plain], labels[:, plain])
        found = _measured(DISTANCES, predicted, given, asked, text)
        wrong = (
            predicted.argmax(axis=-1) != given.argmax(axis=-1)
            if task.kind == "multiclass"
            else _wrong(scores, labels, plain)
        )
        found["error_rate"] = _mean(np.asarray(wrong, dtype=np.float64), asked, text)
    scales = {
        each.scale.name: _of_scale(each.scale, scores[:, list(each.columns)], labels[:, list(each.columns)], text)
        for each in task.questions
        if each.scale is not None
    }
    return found, scales


def arm_distributions(
    arms: Sequence[ArmScores], test: Judgements, task: Task, reference: str, clusters: Clusters, level: float
) -> dict[str, dict[str, Any]]:
    """Arm -> how many texts, and every measure with its gain over the reference, as plain values.

    Empty where every text was judged by one reader: their answer is then all there is of a distribution.
    """
    texts = len(set(test.text_ids))
    if texts == len(test.text_ids):
        return {}
    measured = {
        arm.name: [distribution_measures(task, each.test_scores, test.labels, test.text_ids) for each in arm.trainings]
        for arm in arms
    }

    def held(mine: list[dict[str, Measured]], other: list[dict[str, Measured]]) -> dict[str, Any]:
        of = {name: [Measured.mean([each[name] for each in some]) for some in (mine, other)] for name in mine[0]}
        return {name: asdict(paired(pair[0], pair[1], "lower", clusters, level)) for name, pair in of.items()}

    found = {}
    for name, each in measured.items():
        mine, other = ([labels for labels, _ in some] for some in (each, measured[reference]))
        scales = {
            scale: held([of[scale] for _, of in each], [of[scale] for _, of in measured[reference]])
            for scale in each[0][1]
        }
        found[name] = {"texts": texts, **held(mine, other), **({"scales": scales} if scales else {})}
    return found


def _distributions(task: Task, scores: Floats, labels: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Of each row what is predicted and given, [rows, questions, values], and whether it was asked, [rows, questions].

    A label is a question with two values; classes are the values of one question.
    """
    if task.kind == "multiclass":
        total = scores.sum(axis=1, keepdims=True)
        shares = np.where(total > 0, scores / np.where(total > 0, total, 1), 1 / scores.shape[1])
        asked = _all_asked(labels)
        return shares[:, None, :], np.nan_to_num(labels)[:, None, :], asked
    given = np.nan_to_num(labels)
    return np.stack([1 - scores, scores], -1), np.stack([1 - given, given], -1), ~np.isnan(labels)


def _all_asked(labels: Floats) -> NDArray[np.bool_]:
    """bool [rows, 1]: whether a question over all of these columns was asked."""
    return np.isfinite(np.sum(labels, axis=1))[:, None]


def _wrong(scores: Floats, labels: Floats, columns: NDArray[np.integer]) -> Floats:
    """|given - predicted| of each label: float64 [rows, labels]."""
    return np.abs(np.nan_to_num(labels[:, columns]) - (scores[:, columns] >= 0.5))


def _of_scale(scale: Scale, scores: Floats, labels: Floats, text: NDArray[np.integer]) -> dict[str, Measured]:
    """Distances on one scale, from its labels: the chance of an answer beyond each point."""
    asked = _all_asked(labels)
    given = np.nan_to_num(labels)

    def wasserstein(predicted: Floats, true: Floats) -> tuple[Floats, Floats, Floats]:
        """The area between two distribution functions (Vallender 1974, Theory of Probability 18(4))."""
        sign = np.sign(predicted - true) * scale.widths
        return np.abs(predicted - true) @ scale.widths, sign, -sign

    off = np.abs(scale.median(scores) - scale.decode(given))
    off /= len(scale.points) if scale.kind == "ordinal" else scale.length
    return {
        **_measured({"wasserstein": wasserstein}, scale.survival(scores)[:, None, :], given[:, None, :], asked, text),
        "absolute_distance": _mean(off[:, None], asked, text),
    }


def _manhattan(predicted: Floats, given: Floats) -> tuple[Floats, Floats, Floats]:
    sign = np.sign(predicted - given)
    return np.abs(predicted - given).sum(axis=-1), sign, -sign


def _cross_entropy(predicted: Floats, given: Floats) -> tuple[Floats, Floats, Floats]:
    kept = np.clip(predicted, CLIP, 1 - CLIP)
    logs = np.log(kept + ADDED)
    return -(given * logs).sum(axis=-1), np.where(kept == predicted, -given / (kept + ADDED), 0.0), -logs


def _jensen_shannon(predicted: Floats, given: Floats) -> tuple[Floats, Floats, Floats]:
    """The divergence, 0 to log 2 (Lin 1991, IEEE Transactions on Information Theory 37(1))."""
    middle = (predicted + given) / 2

    def half(shares: Floats) -> Floats:
        some = shares > 0
        return np.where(some, np.log(np.where(some, shares, 1) / np.where(some, middle, 1)), 0.0) / 2

    by_predicted, by_given = half(predicted), half(given)
    return (predicted * by_predicted + given * by_given).sum(axis=-1), by_predicted, by_given


DISTANCES: dict[str, Distance] = {
    "manhattan": _manhattan,
    "cross_entropy": _cross_entropy,
    "jensen_shannon": _jensen_shannon,
}


def _measured(
    distances: Mapping[str, Distance],
    predicted: Floats,
    given: Floats,
    asked: NDArray[np.bool_],
    text: NDArray[np.integer],
) -> dict[str, Measured]:
    """Means over texts of means over questions of distances between the means over readers.

    Args:
        distances: of two distributions, by name.
        predicted, given: of each row, float64 [rows, questions, values].
        asked: bool [rows, questions].
        text: int [rows], whose distribution each row is part of.
    """
    readers = _sums(asked, text)  # [texts, questions]
    weights = np.where(asked, 1 / np.maximum(readers, 1)[text], 0.0)
    means = [_sums(weights[..., None] * each, text) for each in (predicted, given)]
    off = [each - mean[text] for each, mean in zip((predicted, given), means, strict=True)]
    found = {}
    for name, distance in distances.items():
        values, *slopes = distance(*means)
        within = sum(np.einsum("rqv,rqv->rq", slope[text], each) for slope, each in zip(slopes, off, strict=True))
        found[name] = _over_texts(values, weights * within, readers, asked, text)
    return found


def _mean(values: Floats, asked: NDArray[np.bool_], text: NDArray[np.integer]) -> Measured:
    """The mean over texts of means over questions of means over readers. values, asked: [rows, questions]."""
    readers = _sums(asked, text)
    weights = np.where(asked, 1 / np.maximum(readers, 1)[text], 0.0)
    means = _sums(weights * values, text)
    return _over_texts(means, weights * (values - means[text]), readers, asked, text)


def _over_texts(
    values: Floats, within: Floats, readers: Floats, asked: NDArray[np.bool_], text: NDArray[np.integer]
) -> Measured:
    """A mean over texts, of their means over questions that were asked of anybody, and the influence of each row.

    A row moves the distance of its text (`within`), and with its share of the text's readers how much the text counts.

    Args:
        values, readers: float64 [texts, questions].
        within: derivative of the text's distance by each row's weight, float64 [rows, questions], in all 0 by text.
        asked: bool [rows, questions].
        text: int [rows].
    """
    questions = (readers > 0).sum(axis=1)
    known = questions > 0
    if not known.any():
        return Measured(float("nan"), np.zeros(len(text)))
    of_text = np.where(readers > 0, values, 0.0).sum(axis=1) / np.maximum(questions, 1)
    value = float(of_text[known].mean())
    some = asked.any(axis=1)
    rows = np.bincount(text[some], minlength=len(readers))
    share = np.where(some, (of_text[text] - value) / np.maximum(rows, 1)[text], 0.0)
    moved = within.sum(axis=1) / np.maximum(questions, 1)[text]
    return Measured(value, (share + moved) / int(known.sum()))


def _sums(values: Floats | NDArray[np.bool_], text: NDArray[np.integer]) -> Floats:
    """Sums over the rows of each text, all of which have some: float64 [texts, ...]."""
    order = np.argsort(text, kind="stable")
    starts = np.searchsorted(text[order], np.arange(int(text.max()) + 1))
    return np.add.reduceat(np.asarray(values, dtype=np.float64)[order], starts, axis=0)

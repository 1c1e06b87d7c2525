"""How much people agree, and how much of what they do not agree on is a matter of who judges."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beholder.data.annotations import Annotations
from beholder.data.scales import Scale

Floats = NDArray[np.floating]
Places = NDArray[np.int64]


def answers(annotations: Annotations) -> dict[str, tuple[Floats, Scale | None]]:
    """What was asked -> the answers, NaN = not asked: float64 [rows]; and the scale they are on, None of a label.

    Of a multiclass task every class is one, given or not.
    """
    given = annotations.labels.astype(np.float64)
    task = annotations.task
    if task.kind == "multiclass":
        return {label: (given[:, place], None) for place, label in enumerate(task.labels)}
    found: dict[str, tuple[Floats, Scale | None]] = {}
    for question in task.questions:
        own = given[:, list(question.columns)]
        found[question.name] = (question.scale.decode(own) if question.scale else own[:, 0], question.scale)
    return found


def agreement(annotations: Annotations) -> dict[str, float | None]:
    """Krippendorff's alpha of each label and scale over the texts that several people judged: 1 all agree, 0 chance.

    Nominal of a label as present or not, ordinal of a scale of steps, interval of a slider. Krippendorff 2011,
    Computing Krippendorff's Alpha-Reliability. None where no text was judged twice, or all answers are the same.
    """
    _, text = annotations.distinct_texts
    found: dict[str, float | None] = {}
    for name, (values, scale) in answers(annotations).items():
        asked = ~np.isnan(values)
        if scale is not None and scale.kind == "continuous":
            found[name] = _interval_alpha(values[asked], text[asked])
            continue
        points = np.asarray(scale.points if scale is not None else (0.0, 1.0))
        nearest = np.abs(values[asked][:, None] - points).argmin(axis=1)
        place = nearest if scale is not None else values[asked] >= 0.5
        found[name] = _alpha(place, text[asked], points, "nominal" if scale is None else "ordinal")
    return found


def _alpha(place: NDArray[Any], text: Places, points: Floats, level: Literal["nominal", "ordinal"]) -> float | None:
    """Of answers among a few points: `place` is that of each among them."""
    import krippendorff

    counts = np.zeros((int(text.max(initial=0)) + 1, len(points)), dtype=np.int64)  # [texts, points]
    np.add.at(counts, (text, place.astype(np.int64)), 1)
    counts = counts[counts.sum(axis=1) > 1]  # judged twice
    used = np.flatnonzero(counts.sum(axis=0))
    if len(used) < 2:
        return None
    return float(
        krippendorff.alpha(value_counts=counts[:, used], value_domain=points[used], level_of_measurement=level)
    )


def _interval_alpha(values: Floats, text: Places) -> float | None:
    """Of answers anywhere on a range: one less the mean squared difference within texts by that among all."""
    several = np.bincount(text, minlength=1)[text] > 1 if len(text) else np.zeros(0, dtype=bool)
    values, (_, unit) = values[several], np.unique(text[several], return_inverse=True)
    count = np.bincount(unit, minlength=1)
    total = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    if total <= 0:
        return None
    means = np.bincount(unit, values) / count
    within = np.bincount(unit, (values - means[unit]) ** 2) * count / np.maximum(count - 1, 1)
    return 1 - float(within.sum()) / (total * len(values) / (len(values) - 1))


def offset_share(annotations: Annotations) -> dict[str, float | None]:
    """How much of the disagreement a number for each user would explain: who answers high often, who seldom.

    Of what is left of a judgement when the mean of the others on the same text is taken off (of all judgements, where
    nobody else judged it), the share of variance that lies between users, corrected for what chance alone puts there
    (omega squared; Hays 1963, Statistics). 0 is none; None where nothing differs, or each user judged once.
    """
    _, text = annotations.distinct_texts
    _, user = annotations.by_user
    found: dict[str, float | None] = {}
    for name, (values, _) in answers(annotations).items():
        asked = np.flatnonzero(~np.isnan(values))
        found[name] = _between(_less_others(values[asked], text[asked]), user[asked]) if len(asked) > 1 else None
    return found


def _less_others(given: Floats, text: Places) -> Floats:
    """Each judgement less the mean of the others of its text: [rows] -> [rows]."""
    sums, counts = np.bincount(text, given), np.bincount(text)
    others = counts[text] - 1
    mean = (sums[text] - given) / np.maximum(others, 1)
    return given - np.where(others > 0, mean, given.mean())


def _between(rest: Floats, user: Places) -> float | None:
    counts = np.bincount(user)
    counts = counts[counts > 0]
    users, rows = len(counts), len(rest)
    total = float(((rest - rest.mean()) ** 2).sum())
    if total <= 0 or users < 2 or rows <= users:
        return None
    sums = np.bincount(user, rest)
    means = sums / np.maximum(np.bincount(user), 1)
    between = float((np.bincount(user) * (means - rest.mean()) ** 2).sum())
    within = (total - between) / (rows - users)
    return max(0.0, (between - (users - 1) * within) / (total + within))

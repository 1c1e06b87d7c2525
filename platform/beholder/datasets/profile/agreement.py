"""How much people agree, and how much of what they do not agree on is a matter of who judges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beholder.data.annotations import Annotations

Floats = NDArray[np.floating]
Places = NDArray[np.int64]


def agreement(annotations: Annotations) -> dict[str, float | None]:
    """Krippendorff's alpha of each label over the texts that several people judged: 1 all agree, 0 as by chance.

    Nominal, of the label as present or not. Krippendorff 2011, Computing Krippendorff's Alpha-Reliability. None where
    no text was judged twice, or the label was always given or never.
    """
    import krippendorff

    _, text = annotations.distinct_texts
    found: dict[str, float | None] = {}
    for place, label in enumerate(annotations.task.labels):
        given = annotations.labels[:, place]
        asked = ~np.isnan(given)
        positive = given >= 0.5
        counts = np.stack(
            [np.bincount(text[asked & (positive == said)], minlength=int(text.max()) + 1) for said in (False, True)],
            axis=1,
        )
        counts = counts[counts.sum(axis=1) > 1]  # [texts judged twice, (absent, present)]
        varies = (counts.sum(axis=0) > 0).all() if len(counts) else False
        found[label] = (
            float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")) if varies else None
        )
    return found


def offset_share(annotations: Annotations) -> dict[str, float | None]:
    """How much of the disagreement a number for each user would explain: who gives a label often, who seldom.

    Of what is left of a judgement when the mean of the others on the same text is taken off (of all judgements, where
    nobody else judged it), the share of variance that lies between users, corrected for what chance alone puts there
    (omega squared; Hays 1963, Statistics). 0 is none; None where nothing differs, or each user judged once.
    """
    _, text = annotations.distinct_texts
    _, user = annotations.by_user
    found: dict[str, float | None] = {}
    for place, label in enumerate(annotations.task.labels):
        given = annotations.labels[:, place].astype(np.float64)
        asked = np.flatnonzero(~np.isnan(given))
        found[label] = _between(_less_others(given[asked], text[asked]), user[asked]) if len(asked) > 1 else None
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

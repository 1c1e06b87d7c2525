"""What a table of annotations holds, in a few numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from beholder.data.annotations import Annotations
from beholder.data.texts import normalise
from beholder.datasets.profile.agreement import answers


def describe(annotations: Annotations) -> dict[str, Any]:
    """Count what there is.

    Returns:
        `rows`, `texts` (distinct text ids), `users`; `rows_per_user` (`min`, `median`, `max`); `labels` (name -> share
        of positives among the judgements that were asked, None where none was); of a task with scales
        `scales` (name -> mean answer, in the scale's unit); `distinct_texts` (distinct after
        normalisation) and `repeated_texts` (the share of text ids whose text also stands under another id).
    """
    _, per_user = np.unique(annotations.user_ids.astype(str), return_counts=True)
    given = answers(annotations)
    means = {name: (values[~np.isnan(values)], scale) for name, (values, scale) in given.items()}
    texts, position = annotations.distinct_texts
    keys = [normalise(text) for text in texts]
    text_of = dict(zip(annotations.text_ids, position, strict=True))
    under = np.unique([keys[place] for place in text_of.values()], return_counts=True)[1]
    scales = {
        name: float(values.mean()) if len(values) else None
        for name, (values, scale) in means.items()
        if scale is not None
    }
    return {
        "rows": len(annotations),
        "texts": len(text_of),
        "users": len(per_user),
        "rows_per_user": {"min": int(per_user.min()), "median": float(np.median(per_user)), "max": int(per_user.max())},
        "labels": {
            name: float((values > 0.5).mean()) if len(values) else None
            for name, (values, scale) in means.items()
            if scale is None
        },
        **({"scales": scales} if scales else {}),
        "distinct_texts": len(set(keys)),
        "repeated_texts": float(under[under > 1].sum() / under.sum()),
    }

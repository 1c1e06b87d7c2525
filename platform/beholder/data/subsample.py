"""Using less than there is."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from beholder.data.annotations import Annotations
from beholder.data.texts import text_key
from beholder.util.strict_model import Section


class Subsample(Section):
    """Use less than there is, to try things out; drawn seeded.

    `rows`: most annotations, whole texts. `rows_per_text`: first, the most of any one text: where a
    few texts recur hundreds of times, they would be most of a small sample.
    """

    rows: int | None = Field(default=None, ge=1)
    rows_per_text: int | None = Field(default=None, ge=1)


def subsample(annotations: Annotations, settings: Subsample, seed: int) -> Annotations:
    """Draw the rows: whole texts are kept, in an order drawn by hash, so that users share texts."""
    if settings.rows_per_text is not None:
        _, index = annotations.distinct_texts
        drawn = np.random.default_rng(seed).permutation(len(annotations))
        drawn = drawn[np.argsort(index[drawn], kind="stable")]  # text by text, in a drawn order within each
        first = np.searchsorted(index[drawn], index[drawn])
        annotations = annotations.select(np.sort(drawn[np.arange(len(drawn)) - first < settings.rows_per_text]))
    if settings.rows is None or settings.rows >= len(annotations):
        return annotations
    texts, index = annotations.distinct_texts
    order = sorted(range(len(texts)), key=lambda position: text_key(f"{seed} {texts[position]}"))
    rank = np.empty(len(texts), dtype=np.int64)
    rank[order] = np.arange(len(texts))
    by_rank = np.argsort(rank[index], kind="stable")
    return annotations.select(np.sort(by_rank[: settings.rows]))

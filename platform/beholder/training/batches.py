"""The order in which fine-tuning sees its rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def training_batches(
    lengths: NDArray[np.int64], text: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """One epoch of batches of `batch_size` distinct texts, each with all its rows, in random order.

    Texts are shuffled, sorted by length within stretches of 50 batches, and cut: padding is rare, yet batches differ
    from epoch to epoch. Because a batch is a set of texts, a method with users sees the same judgements in
    the same steps as one without: they differ in their inputs, and in nothing else.

    Args:
        lengths: int64 [rows], tokens.
        text: int64 [rows], which text each row is of, numbered from 0 without gaps.
        batch_size: texts per batch.
        rng: of the order.
    """
    order = rng.permutation(int(text.max()) + 1)
    rows_of = np.split(np.argsort(text, kind="stable"), np.cumsum(np.bincount(text))[:-1])
    longest = np.asarray([lengths[rows].max() for rows in rows_of])  # [texts]
    stretch = 50 * batch_size
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), stretch):
        part = order[start : start + stretch]
        part = part[np.argsort(longest[part], kind="stable")]
        for first in range(0, len(part), batch_size):
            batches.append(np.concatenate([rows_of[i] for i in part[first : first + batch_size]]))
    return [batches[i] for i in rng.permutation(len(batches))]

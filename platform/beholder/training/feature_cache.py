"""Features of texts by fitted classifiers, kept in memory: methods on the same classifier read each text once.

A run has many methods on the features of one `cls`: `cls+`, `cls-e`, `cls-u`, their controls, points of curves. Each
scores the same validation and test rows, and a forward pass of the base is most of what that costs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beholder.models.tokenization import Encoded

MEGABYTES = 512
"""Of all features that are kept."""


class FeatureCache:
    """Features of texts by classifier; those of the classifiers used last are kept, up to a limit in megabytes."""

    def __init__(self, megabytes: float = MEGABYTES) -> None:
        self._room = int(1e6 * megabytes)
        self._kept: OrderedDict[str, dict[bytes, Tensor]] = OrderedDict()
        self._bytes: dict[str, int] = {}

    def rows(
        self,
        classifier: str,
        inputs: Encoded,
        rows: NDArray[np.int64],
        compute: Callable[[NDArray[np.int64]], Tensor],
    ) -> Tensor:
        """The features of some inputs: [rows, width]. What is not kept is computed, each input once.

        Args:
            classifier: the checksum of one that changes no more.
            inputs: tokenised.
            rows: int64 [rows], which of them.
            compute: features of some of them, [some, width].
        """
        kept = self._kept.setdefault(classifier, {})
        self._kept.move_to_end(classifier)
        keys = [np.asarray(inputs.tokens[row], dtype=np.int32).tobytes() for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in kept}
        found = kept
        if new:
            made = compute(np.asarray(list(new.values()), dtype=np.int64))
            found = {**{key: kept[key] for key in keys if key in kept}, **dict(zip(new, made, strict=True))}
            size = made.numel() * made.element_size()
            if self._make_room(classifier, size):
                kept.update({key: found[key] for key in new})
                self._bytes[classifier] = self._bytes.get(classifier, 0) + size
        return torch.stack([found[key] for key in keys])

    def keep(self, classifier: str, inputs: Encoded, rows: NDArray[np.int64], values: Tensor) -> None:
        """Keep features that were computed elsewhere: [rows, width]."""
        place = {int(row): number for number, row in enumerate(rows)}
        self.rows(classifier, inputs, rows, lambda some: values[[place[int(row)] for row in some]])

    def _make_room(self, classifier: str, size: int) -> bool:
        """Let other classifiers' features go, those used longest ago first; False where that is not enough."""
        while sum(self._bytes.values()) + size > self._room:
            oldest = next(iter(self._kept))
            if oldest == classifier:
                return False
            del self._kept[oldest]
            self._bytes.pop(oldest, None)
        return True

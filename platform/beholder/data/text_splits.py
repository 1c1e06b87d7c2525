"""What splits that cut by text have in common: which texts count as one, and which part each falls into."""

from __future__ import annotations

import hashlib
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from beholder.data.annotations import UNIT, Annotations
from beholder.data.texts import normalise
from beholder.util.errors import SplitError
from beholder.util.strict_model import Section

PARTS = ("train", "valid", "test")


class CutByText(Section):
    """Which texts count as one.

    `key`: 2, or 1 as up to November 2026, when punctuation at the ends made two texts. `near_copies`: texts count as
    one whose pieces of five letters have at least this Jaccard similarity (see `texts.near_copies`); None: not looked
    for. A text may then move to another part when the data grow, where it becomes a near copy of another one.
    """

    key: Literal[1, 2] = 2
    near_copies: float | None = Field(default=None, ge=0.3, le=1)
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 42

    @model_validator(mode="after")
    def _valid_cut(self) -> Self:
        if self.key == 1 and self.near_copies is not None:
            raise ValueError("split.near_copies needs split.key: 2")
        if abs(sum(self.fractions) - 1) > 1e-6 or min(self.fractions) <= 0:
            raise ValueError(f"split.fractions must be positive and add up to 1, got {list(self.fractions)}")
        return self

    def prepared(self, annotations: Annotations) -> Annotations:
        """The same rows, with near copies found where `near_copies` is set.

        Raises:
            SplitError: rows are to be split by another column than the text (`source.unit`) as well.
        """
        if UNIT in annotations.context_columns and (self.key == 1 or self.near_copies is not None):
            raise SplitError(
                "source.unit states which rows stay together; leave out split.key: 1 and split.near_copies."
            )
        return annotations if self.near_copies is None else annotations.with_near_copies(self.near_copies)

    def keys(self, annotations: Annotations) -> NDArray[np.object_]:
        """The text each row is of, equal for texts that count as one: str [rows]."""
        return normalised(annotations) if self.key == 1 else annotations.text_keys

    def by_text(self, annotations: Annotations) -> NDArray[np.object_]:
        """The part of each row, as `fractions` of the texts and `seed` have it: str [rows]."""
        texts, index = np.unique(self.keys(annotations).astype(str), return_inverse=True)
        edges = np.cumsum(self.fractions)[:2]
        draws = np.asarray([uniform(self.seed, text) for text in texts])
        return np.asarray(PARTS, dtype=object)[np.searchsorted(edges, draws, side="right")][index]


def normalised(annotations: Annotations) -> NDArray[np.object_]:
    """Each row's text in the form under which it is the same one to judge: str [rows]."""
    texts, index = annotations.distinct_texts
    return np.asarray([*map(normalise, texts), None], dtype=object)[:-1][index]


def uniform(seed: int, key: str) -> float:
    """A number in 0..1 drawn by a hash: the same for the same key, whatever else there is."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64

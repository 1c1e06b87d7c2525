"""Which rows train, which choose settings, which are only ever looked at once.

Every split but `column` keeps the parts apart by text: two rows whose texts are equal after normalisation fall into the
same part, whatever their ids. A split is recorded by its hash, and two results are comparable only under equal hashes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from beholder.annotations import Annotations, normalise
from beholder.errors import SplitError, unknown

Rows = NDArray[np.int64]
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """Row numbers of each part: `train`, `valid`, `test`, and `enrol` where new users are asked for."""

    parts: dict[str, Rows]
    hash: str
    leaked: float
    """Share of test rows whose normalised text also stands in training: 0 but for a split by column."""

    def __getitem__(self, part: str) -> Rows:
        return self.parts[part]


class _SplitConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ByText(_SplitConfig):
    """Each distinct text falls into one part, drawn by a hash of seed and text, so that a text stays where it is when
    the data grow.
    """

    by: Literal["text"] = "text"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 42

    @model_validator(mode="after")
    def _fractions_add_up(self) -> ByText:
        return _check_fractions(self)

    def assign(self, annotations: Annotations) -> NDArray[np.object_]:
        """The part of each row: str [rows]."""
        return _parts_by_text(annotations, self.fractions, self.seed)


class ByColumn(_SplitConfig):
    """The table says it: a context column holds `train`, `valid` (or `val`, `dev`) and `test`."""

    by: Literal["column"]
    column: str = "split"

    def assign(self, annotations: Annotations) -> NDArray[np.object_]:
        """The part of each row: str [rows]."""
        return _parts_by_column(annotations, self.column)


class ByPaper(_SplitConfig):
    """The paper's protocol: the official split files; only users present in all three parts; users with fewer than
    `crop[0]` of the busiest user's rows dropped; users above `crop[1]` of it sampled down to it, seeded. The crop's
    thresholds come from all rows, not per part, so that the split can be rebuilt.
    """

    by: Literal["paper"]
    column: str = "official_split"
    crop: tuple[float, float] = (0.01, 0.6)
    seed: int = 42

    def assign(self, annotations: Annotations) -> NDArray[np.object_]:
        """The part of each row: str [rows], "" for rows the protocol drops."""
        parts = _parts_by_column(annotations, self.column, others_dropped=True)
        users = annotations.user_ids
        names, user = np.unique(users.astype(str), return_inverse=True)
        official = parts != ""
        rows = np.bincount(user[official], minlength=len(names))
        ceiling = max(1, int(rows.max() * self.crop[1]))
        rng = np.random.default_rng(self.seed)
        for u in range(len(names)):
            own = np.flatnonzero((user == u) & official)
            if rows[u] < self.crop[0] * rows.max():
                parts[own] = ""
            elif len(own) > ceiling:
                parts[rng.permutation(own)[ceiling:]] = ""
        for u in range(len(names)):
            own = user == u
            if any(not (own & (parts == part)).any() for part in PARTS):
                parts[own] = ""
        return parts


class ByNewUsers(_SplitConfig):
    """Test users are unseen in training. `enrol` of each new user's rows, on training texts, are set aside to learn the
    user from; the test rows are theirs on texts nobody was trained on.
    """

    by: Literal["new-users"]
    new_users: float = Field(default=0.2, gt=0, lt=1)
    enrol: int = Field(default=20, ge=0)
    fractions: tuple[float, float, float] = (0.6, 0.1, 0.3)
    seed: int = 42

    @model_validator(mode="after")
    def _fractions_add_up(self) -> ByNewUsers:
        return _check_fractions(self)

    def assign(self, annotations: Annotations) -> NDArray[np.object_]:
        """The part of each row: str [rows], "" for rows set aside unused."""
        by_text = _parts_by_text(annotations, self.fractions, self.seed)
        users = annotations.users
        rng = np.random.default_rng(self.seed)
        count = max(1, round(self.new_users * len(users)))
        if count >= len(users):
            raise SplitError(f"split by new-users needs users on both sides, but there are {len(users)}.")
        new = set(np.asarray(users, dtype=object)[rng.permutation(len(users))[:count]])
        is_new = np.asarray([user in new for user in annotations.user_ids])
        parts = by_text.copy()
        parts[is_new & (by_text != "test")] = ""
        parts[~is_new & (by_text == "test")] = ""
        for user in sorted(new):
            own = np.flatnonzero((annotations.user_ids == user) & (by_text == "train"))
            parts[rng.permutation(own)[: self.enrol]] = "enrol"
        return parts


SplitConfig = Annotated[ByText | ByColumn | ByPaper | ByNewUsers, Field(discriminator="by")]
SPLITS = ("text", "column", "paper", "new-users")


def split(annotations: Annotations, config: ByText | ByColumn | ByPaper | ByNewUsers) -> Split:
    """Cut the rows into parts as `config` says.

    Raises:
        SplitError: a part would be empty, or the column the split comes from is missing or holds something else.
    """
    assigned = config.assign(annotations)
    names = [*PARTS, "enrol"] if (assigned == "enrol").any() else list(PARTS)
    parts = {name: np.flatnonzero(assigned == name).astype(np.int64) for name in names}
    for name in PARTS:
        if not len(parts[name]):
            sizes = ", ".join(f"{part} {len(rows)}" for part, rows in parts.items())
            raise SplitError(
                f"split by {config.by}: no rows are left for {name} ({sizes}). Give more rows, or change split."
            )
    digest = hashlib.sha256()
    keys = zip(assigned, annotations.text_ids, annotations.user_ids, strict=True)
    for part, text_id, user in sorted(key for key in keys if key[0]):
        digest.update(f"{part}\0{text_id}\0{user}\0".encode())
    return Split(parts, digest.hexdigest(), _leaked(annotations, parts))


_WithFractions = TypeVar("_WithFractions", ByText, ByNewUsers)


def _check_fractions(config: _WithFractions) -> _WithFractions:
    if abs(sum(config.fractions) - 1) > 1e-6 or min(config.fractions) <= 0:
        raise ValueError(f"split.fractions must be positive and add up to 1, got {list(config.fractions)}")
    return config


def _parts_by_text(annotations: Annotations, fractions: tuple[float, float, float], seed: int) -> NDArray[np.object_]:
    texts, index = annotations.distinct_texts
    edges = np.cumsum(fractions)[:2]
    draws = np.asarray([_uniform(seed, normalise(text)) for text in texts])
    return np.asarray(PARTS, dtype=object)[np.searchsorted(edges, draws, side="right")][index]


def _uniform(seed: int, key: str) -> float:
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _parts_by_column(annotations: Annotations, column: str, others_dropped: bool = False) -> NDArray[np.object_]:
    context = annotations.context_columns
    if column not in context:
        raise SplitError(
            f"split.column: {unknown('column', column, context)} Name it under source, or split by text."
            if context
            else f"split.column: these annotations have no column {column!r}. Split by text instead."
        )
    names = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "validation": "valid", "test": "test"}
    values = annotations.column(column)
    parts = np.asarray([names.get(str(value).strip().casefold(), "") for value in values], dtype=object)
    if not others_dropped and (parts == "").any():
        row = int(np.flatnonzero(parts == "")[0])
        raise SplitError(f'row {row + 1}, column "{column}": {values[row]!r} is no part. Use train, valid or test.')
    return parts


def _leaked(annotations: Annotations, parts: dict[str, Rows]) -> float:
    texts, index = annotations.distinct_texts
    keys = [normalise(text) for text in texts]
    seen = {keys[position] for position in np.unique(index[parts["train"]])}
    return float(np.mean([keys[position] in seen for position in index[parts["test"]]]))

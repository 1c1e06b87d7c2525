"""Cross-fitting: texts dealt into folds, so that every judgement is tested once, by models that never saw its text.

K-fold cross-validation over texts as groups (Stone 1974, JRSS B 36(2)); scores that are pooled over folds are
"cross-fitted" (Chernozhukov et al. 2018, The Econometrics Journal 21(1)). An interval over the pooled rows is about the
methods as trained on K - 1 of K parts, with the draw of the training rows averaged over folds (Bayle et al. 2020,
Cross-validation Confidence Intervals for Test Error, NeurIPS).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beholder.data.annotations import Annotations
from beholder.data.splits import AnySplit, ByText, Split, cut, split_digest
from beholder.data.text_splits import PARTS, uniform
from beholder.util.errors import SplitError

USES = "fold_uses"
"""The column of a run's annotations with how its folds use each row; see `Folds.uses`."""
LEARNED, CHOSEN, TESTED = "lvt"
"""How a fold uses a row: training, validation, test."""


@dataclass(frozen=True)
class Folds:
    """Texts dealt into folds.

    Attributes:
        splits: of each fold. Its test rows are its own texts'; its validation rows are of the texts that come next, as
            large a share of all texts as in `split.fractions`; all others train.
        last: of the models that are served. Nothing is held back for testing: its validation rows are of the first
            texts, as large a share of all, and all others train.
        hash: of all of that.
    """

    splits: tuple[Split, ...]
    last: Split
    hash: str

    @property
    def uses(self) -> list[str]:
        """How each fold uses each row, one letter a fold: `lvt` is learned from, chosen on, tested. str [rows]."""
        rows = sum(len(part) for part in self.splits[0].parts.values())
        used = np.full((rows, len(self.splits)), LEARNED)
        for fold, split in enumerate(self.splits):
            for name, letter in zip(PARTS, (LEARNED, CHOSEN, TESTED), strict=True):
                used[split[name], fold] = letter
        return ["".join(letters) for letters in used.tolist()]

    def facts(self) -> dict[str, Any]:
        """What results say of it: like `Split.facts`, and `folds`, the rows of each part of each."""
        each = [{name: len(rows) for name, rows in split.parts.items()} for split in self.splits]
        return {"hash": self.hash, "leaked": 0.0, "rows": {"test": sum(rows["test"] for rows in each)}, "folds": each}

    def line(self) -> str:
        """For people."""
        train, test = ([len(split[name]) for split in self.splits] for name in ("train", "test"))
        return (
            f"split {self.hash[:8]}: {len(self.splits)} folds, each judgement tested once ({_range(test)} a fold) by "
            f"models trained on {_range(train)} of other texts"
        )


def deal(annotations: Annotations, config: AnySplit, folds: int) -> Folds:
    """Deal texts into folds: in an order drawn by a hash of seed and text, one after the other, so that folds have the
    same number of distinct texts, and texts that count as the same are in one fold.

    Args:
        annotations: all rows.
        config: a split by text; its validation share is that of every fold, its seed draws the order.
        folds: two or more.

    Raises:
        SplitError: another kind of split, or fewer texts than folds.
    """
    if not isinstance(config, ByText):
        raise SplitError(
            f"evaluate.folds: folds deal out texts, and this experiment is split by {config.by}. Split by text, or "
            "leave folds out."
        )
    keys = config.keys(annotations).astype(str)
    names, text = np.unique(keys, return_inverse=True)
    if len(names) < max(3, folds):
        raise SplitError(
            f"evaluate.folds: there are {len(names):,} distinct texts, too few for {folds} folds. Use fewer folds, or "
            "give more texts."
        )
    order = np.argsort([uniform(config.seed, f"fold\0{name}") for name in names], kind="stable")
    place = np.empty(len(names), dtype=np.int64)  # of each text in the order in which folds follow each other
    place[order[np.argsort(np.arange(len(names)) % folds, kind="stable")]] = np.arange(len(names))
    fold = np.empty(len(names), dtype=np.int64)
    fold[order] = np.arange(len(names)) % folds
    chosen = max(1, round(config.fractions[1] * len(names)))
    sizes = np.bincount(fold, minlength=folds)
    splits = []
    for number, end in enumerate(np.cumsum(sizes).tolist()):
        following = (place - end) % len(names)  # 0 for the text that comes next
        parts = np.where(fold == number, "test", np.where(following < chosen, "valid", "train"))
        splits.append(cut(annotations, parts.astype(object)[text], config))
    last = np.where(place < chosen, "valid", "train").astype(object)[text]
    parts = {name: np.flatnonzero(last == name).astype(np.int64) for name in ("train", "valid")}
    whole = Split(parts, split_digest(annotations, last), 0.0)
    digest = hashlib.sha256("\0".join(split.hash for split in (*splits, whole)).encode()).hexdigest()
    return Folds(tuple(splits), whole, digest)


def with_uses(annotations: Annotations, split: Split, folds: Folds | None) -> Annotations:
    """Annotations with the columns that say what a run does with each row: `part`, and with folds `fold_uses`."""
    part = np.full(len(annotations), "", dtype=object)
    for name, rows in split.parts.items():
        part[rows] = name
    marked = annotations.with_column("part", part.tolist())
    return marked.with_column(USES, folds.uses) if folds else marked


def part_of_rows(annotations: Annotations) -> NDArray[np.object_]:
    """The part of each row of a run's annotations; empty where a row is in none. str [rows]"""
    return np.asarray(annotations.column("part"), dtype=object)


def parts_of(annotations: Annotations, fold: int | None = None) -> dict[str, Annotations]:
    """The rows of each part of a run, by what `with_uses` wrote.

    Args:
        annotations: of a run's folder.
        fold: from 0; None: what is served is fitted on.
    """
    if fold is None:
        part = part_of_rows(annotations)
        return {name: annotations.select(np.flatnonzero(part == name)) for name in sorted(set(part.tolist())) if name}
    used = np.asarray([letters[fold] for letters in annotations.column(USES)])
    pairs = zip(PARTS, (LEARNED, CHOSEN, TESTED), strict=True)
    return {name: annotations.select(np.flatnonzero(used == letter)) for name, letter in pairs}


def scored(annotations: Annotations, part: str) -> NDArray[np.int64]:
    """Row numbers of all validation or test rows of a run, in the order of its scores: fold by fold where there are."""
    if USES not in annotations.context_columns:
        return np.flatnonzero(part_of_rows(annotations) == part)
    letter = {"valid": CHOSEN, "test": TESTED}[part]
    used = np.asarray([list(letters) for letters in annotations.column(USES)])
    return np.concatenate([np.flatnonzero(column == letter) for column in used.T])


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"

"""What fine-tuning minimises, with the rows that share an input computed once.

Annotations of one input differ only in their labels, and the loss is linear in the labels: the sum over judgements
equals the number of judgements times the loss against their mean. Same gradient, a fraction of the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from beholder.data.annotations import Annotations


@dataclass(frozen=True)
class Grouped:
    """Annotations with equal inputs as one training row.

    Attributes:
        rows: int64 [groups], an annotation of each group to take the input from.
        text: int64 [groups], which distinct text each group is of.
        targets: float32 [groups, labels], mean label of those asked (0 where nobody was).
        weights: float32 [groups, labels], how many were asked.
        member: int64 [annotations], the group of each.
    """

    rows: NDArray[np.int64]
    text: NDArray[np.int64]
    targets: NDArray[np.float32]
    weights: NDArray[np.float32]
    member: NDArray[np.int64]


def group(annotations: Annotations, by_user: bool) -> Grouped:
    """Group annotations by text, or by text and user where the input holds the user."""
    _, text = annotations.distinct_texts
    key = text
    if by_user:
        _, user = annotations.by_user
        key = text * (user.max() + 1) + user
    _, rows, member = np.unique(key, return_index=True, return_inverse=True)
    asked = ~np.isnan(annotations.labels)
    weights = np.zeros((len(rows), asked.shape[1]), dtype=np.float64)
    sums = np.zeros_like(weights)
    np.add.at(weights, member, asked)
    np.add.at(sums, member, np.nan_to_num(annotations.labels))
    targets = sums / np.maximum(weights, 1)
    return Grouped(
        rows.astype(np.int64), text[rows], targets.astype(np.float32), weights.astype(np.float32), member.reshape(-1)
    )


def row_losses(logits: Tensor, targets: Tensor, weights: Tensor, kind: Literal["multilabel", "multiclass"]) -> Tensor:
    """Cross-entropy of each row's judgements, summed over them: [..., rows].

    logits, targets, weights: float [..., rows, labels]. `multilabel`: binary cross-entropy per label, summed over all
    (judgement, label) pairs that were asked. `multiclass`: cross-entropy against the mean class distribution.
    """
    if kind == "multiclass":
        per_row = -(targets * functional.log_softmax(logits, dim=-1)).sum(dim=-1)
        return weights.amax(dim=-1) * per_row
    return (weights * functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")).sum(dim=-1)


def loss(logits: Tensor, targets: Tensor, weights: Tensor, kind: Literal["multilabel", "multiclass"]) -> Tensor:
    """`row_losses` of all rows together; divide by `judgements` for the mean."""
    return row_losses(logits, targets, weights, kind).sum()


def judgements(weights: Tensor, kind: Literal["multilabel", "multiclass"]) -> float:
    """How many terms `loss` sums over."""
    return float(weights.amax(dim=1).sum() if kind == "multiclass" else weights.sum())


def probabilities(logits: Tensor, kind: Literal["multilabel", "multiclass"]) -> Tensor:
    """Scores in 0..1, of the shape of the logits: [..., labels]."""
    return torch.softmax(logits, dim=-1) if kind == "multiclass" else torch.sigmoid(logits)

"""Tendencies of users, kept out of a global model while it is trained: random intercepts.

A judgement of user u has logits f(x) + b_u, with b_u ~ N(0, variance) for each label. Where b_u is left out, what
people differ in is noise to f, and f is flattened toward chance (attenuation: Zeger, Liang & Albert 1988). Between
epochs b and its variance are fitted to f's logits of the training rows, by penalised quasi-likelihood (Breslow &
Clayton 1993); in training b is an offset. After training b is dropped: the global model knows nobody.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beholder.data.annotations import Annotations
from beholder.data.task import Kind
from beholder.training.data_parallel import Team
from beholder.training.losses import row_losses

ITERATIONS, ROUNDS = 6, 3
"""Newton's steps for b given its variance, and how often that is fitted again, after each epoch."""


class UserEffects:
    """Offsets of users' logits by label, and the judgements they are fitted to.

    Attributes:
        offset: float32 [users, labels]; zero until the first epoch is over.
        variance: float64 [labels], of offsets over users.
    """

    def __init__(self, train: Annotations, member: NDArray[np.int64], device: str) -> None:
        """Take the training rows.

        Args:
            train: the rows.
            member: int64 [rows], the group of each: judgements of one text share what is read.
            device: where the network is.
        """
        users, self._user = train.by_user
        self._member, self._device = member, device
        self._kind: Kind = train.task.kind
        self._asked = ~np.isnan(train.labels)
        self._given = np.nan_to_num(train.labels)
        self._order = np.argsort(member, kind="stable")
        self._first = np.searchsorted(member[self._order], np.arange(int(member.max()) + 2))
        labels = train.labels.shape[1]
        self._logits = torch.zeros(int(member.max()) + 1, labels)
        self.offset = np.zeros((len(users), labels), dtype=np.float32)
        self.variance = np.ones(labels)

    def loss(self, logits: Tensor, groups: NDArray[np.int64]) -> Tensor:
        """Summed loss of all judgements of some groups, each user's offset added to their logits.

        logits: [groups, labels]; kept, detached, for `fit`.
        """
        self._logits[torch.from_numpy(groups)] = logits.detach().float().cpu()
        rows = np.concatenate([self._order[self._first[each] : self._first[each + 1]] for each in groups])
        place = np.repeat(np.arange(len(groups)), self._first[groups + 1] - self._first[groups])
        own = torch.from_numpy(self.offset[self._user[rows]]).to(self._device)
        said = logits[torch.from_numpy(place).to(self._device)] + own
        targets = torch.from_numpy(self._given[rows]).to(self._device)
        asked = torch.from_numpy(self._asked[rows].astype(np.float32)).to(self._device)
        return row_losses(said, targets, asked, self._kind).sum()

    def fit(self, team: Team) -> None:
        """Fit offsets and their variance to the logits of the epoch that is over, on all workers alike."""
        team.sum_up(self._logits)
        logits = self._logits.double().numpy()[self._member]
        self._logits.zero_()
        offset = self.offset.astype(np.float64)
        count = np.maximum(self._per_user(self._asked.astype(np.float64)), 0)  # [users, labels]
        curve = np.ones_like(offset)
        for _ in range(ROUNDS):
            for _ in range(ITERATIONS):
                likely = _probability(logits + offset[self._user], self._kind)
                slope = self._per_user((likely - self._given) * self._asked) + offset / self.variance
                curve = self._per_user(likely * (1 - likely) * self._asked) + 1 / self.variance
                offset -= np.clip(slope / curve, -1, 1)
            squares = offset**2 + 1 / curve
            self.variance = np.maximum(
                (squares * (count > 0)).sum(axis=0) / np.maximum((count > 0).sum(axis=0), 1), 1e-3
            )
        self.offset = offset.astype(np.float32)

    def _per_user(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over each user's rows: float64 [rows, labels] -> [users, labels]."""
        users = len(self.offset)
        return np.stack([np.bincount(self._user, column, users).astype(np.float64) for column in values.T], axis=1)


def _probability(logits: NDArray[np.float64], kind: Kind) -> NDArray[np.float64]:
    if kind == "multiclass":
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-logits))

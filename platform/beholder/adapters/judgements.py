"""Judgements of texts by users, as a bank learns from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beholder.adapters.bank import BankModel
from beholder.adapters.fit import Batch
from beholder.adapters.layers import head_deltas_of_all
from beholder.adapters.moderation import Readings
from beholder.adapters.trunk_cache import TrunkOutputs
from beholder.models.tokenization import length_cut
from beholder.training.user_adam import Tensors

RowLosses = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, targets, weights), each [..., labels] -> the summed loss of each row [...]."""


@dataclass(frozen=True)
class JudgementRows:
    """Rows of (user, input, labels), ordered by user; see `fit.TrainingExamples`.

    Attributes:
        model, outputs: the global model, and its trunk's states of every input.
        users: how many there are.
        user: int64 [rows], positions among the users, rising.
        input: int64 [rows], positions among the trunk's outputs.
        targets, weights: float32 [rows, labels]; weight 0 = not asked.
        row_losses: what is minimised.
        device: where.
        exclusive: whether labels exclude each other.
    """

    model: BankModel
    outputs: TrunkOutputs
    users: int
    user: NDArray[np.int64]
    input: NDArray[np.int64]
    targets: NDArray[np.float32]
    weights: NDArray[np.float32]
    row_losses: RowLosses
    device: str = "cpu"
    exclusive: bool = False

    @property
    def rows(self) -> NDArray[np.int64]:
        """int64 [users]"""
        return np.bincount(self.user, minlength=self.users).astype(np.int64)

    @property
    def asked(self) -> NDArray[np.float64]:
        """float64 [users]: labels asked in all rows of each."""
        return np.bincount(self.user, self.weights.sum(axis=1), self.users).astype(np.float64)

    def terms(self, batch: Batch) -> NDArray[np.float32]:
        """How many labels were asked in each user's rows of a batch: float32 [users]."""
        return (self.weights[batch] * (batch >= 0)[..., None]).sum(axis=(1, 2))

    def losses(self, tensors: Tensors, batch: Batch) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
        """See `fit.TrainingExamples`. The head alone takes all rows as one product; a tail those of like length."""
        place, column = np.nonzero(batch >= 0)
        flat = batch[place, column]
        if not self.model.shape.top_layers:
            features = torch.from_numpy(self.outputs.values[self.input[batch]]).to(self.device)  # [users, rows, width]
            everyone = torch.arange(len(batch), device=self.device)
            user = torch.from_numpy(place).to(self.device)
            logits = self.model.head_logits(features, tensors, everyone)[user, torch.from_numpy(column).to(self.device)]
            yield self._of(logits, flat), user, flat
            return
        for piece in length_cut(self.outputs.lengths[self.input[flat]], self.model.piece):
            mine = np.sort(piece)  # rows of a user side by side
            row, user = flat[mine], torch.from_numpy(place[mine]).to(self.device)
            logits = self.model.logits(*self.outputs.batch(self.input[row], self.device), tensors, user)
            yield self._of(logits, row), user, row

    @cached_property
    def heads(self) -> JudgementRows | None:
        """See `fit.TrainingExamples`: pooled texts of the global model."""
        if not self.model.shape.top_layers:
            return None
        model = BankModel(self.model.network, self.model.shape.model_copy(update={"top_layers": 0}))
        values = self._pooled(np.arange(len(self.outputs.lengths)))
        return replace(self, model=model, outputs=TrunkOutputs(values, np.arange(len(values) + 1)))

    @property
    def readings(self) -> Readings | None:
        """See `fit.TrainingExamples`."""
        if "head.weight" not in self.model.shapes:
            return None
        values, index = self.outputs.values, self.input
        if self.model.shape.top_layers:
            inputs, index = np.unique(self.input, return_inverse=True)
            values = self._pooled(inputs)
        head = self.model.network.head
        return Readings(values, index, self.rows, self.weights, head.weight, head.bias, self.exclusive)

    def _pooled(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some texts, pooled by the global model: float32 [inputs, width]."""
        values = np.empty((len(inputs), self.model.width), np.float32)
        for some in length_cut(self.outputs.lengths[inputs], self.model.piece):
            values[some] = self.model.pooled(*self.outputs.batch(inputs[some], self.device)).float().cpu().numpy()
        return values

    def factor_losses(
        self, directions: Tensors, factors: Tensor | None, bias: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor] | None:
        """See `fit.TrainingExamples`: the head is linear; the mean and each factor are one reader of every text."""
        if self.model.shape.top_layers:
            return None
        head = self.model.network.head
        place, column = np.nonzero(batch >= 0)
        flat = batch[place, column]
        inputs, index = np.unique(self.input[flat], return_inverse=True)
        user, text = (torch.from_numpy(each).to(self.device) for each in (place, index))
        features = torch.from_numpy(self.outputs.values[inputs]).to(self.device).to(head.weight.dtype)
        said = head_deltas_of_all(features, head, directions)  # [texts, 1 + rank, labels]
        logits = (head(features) + said[:, 0])[text] + bias.to(said.dtype)[user]
        if factors is not None:
            logits = logits + torch.einsum("rkl,rk->rl", said[:, 1:][text], factors.to(said.dtype)[user])
        return self._of(logits, flat), user

    def _of(self, logits: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Losses of rows, from their logits [some, labels]."""
        return self.row_losses(logits, self._on(self.targets[rows]), self._on(self.weights[rows]))

    def _on(self, values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).to(self.device)

"""Workers that fit one model together: each reads a share of every batch, and all take the same step.

The share's losses are divided by what the whole batch holds, so that the gradients of all shares add up to the
gradient of the batch, and the result is that of one worker up to the order in which floating-point numbers are added.
(Dropout draws differ: each worker draws for its own share.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class Team:
    """One worker's place among those who fit together, over the process group of `torch.distributed`.

    Attributes:
        rank: 0 for the first, which reports, scores and writes for all.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in a batch that this worker reads, dealt out by tokens; all of them, as they are, where alone.

        lengths: int64 [rows of the batch], tokens.
        """
        if self.size == 1:
            return np.arange(len(lengths))
        return np.sort(np.argsort(-lengths, kind="stable")[self.rank :: self.size])

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Put the sum of everybody's gradients into each one's parameters, in one exchange."""
        if self.size == 1:
            return
        flat = torch.cat(
            [torch.zeros_like(each).flatten() if each.grad is None else each.grad.flatten() for each in parameters]
        )
        dist.all_reduce(flat)
        for parameter, gradient in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def sum_up(self, tensor: Tensor) -> None:
        """Put the sum of everybody's tensor into each one's."""
        if self.size > 1:
            whole = tensor.to("cuda") if dist.get_backend() == "nccl" else tensor
            dist.all_reduce(whole)
            tensor.copy_(whole)

    def total(self, value: float) -> float:
        """The sum of everybody's number."""
        if self.size == 1:
            return value
        return float(self._exchanged(value, lambda tensor: dist.all_reduce(tensor)))

    def agreed(self, compute: Callable[[], float]) -> float:
        """What the first worker computes, sent to all, so that all decide alike."""
        if self.size == 1:
            return compute()
        value = compute() if self.rank == 0 else 0.0
        return float(self._exchanged(value, lambda tensor: dist.broadcast(tensor, 0)))

    def _exchanged(self, value: float, exchange: Callable[[Tensor], object]) -> Tensor:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor([value], dtype=torch.float64, device=device)
        exchange(tensor)
        return tensor


ALONE = Team()


def everybody() -> Team:
    """All workers of this process group."""
    return Team(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE

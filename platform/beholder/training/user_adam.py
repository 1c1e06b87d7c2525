"""Adam for many users at once, each as if alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class UserAdam:
    """Adam (1412.6980) whose steps, moments and clipping are each user's own.

    A plain optimizer over stacked tensors would move users who are not in the batch (their moments are not zero), and
    scale everybody's gradient by the norm of all. Here a user who is not named in `step` is not touched.
    """

    def __init__(
        self,
        tensors: Tensors,
        clip: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
    ) -> None:
        self.tensors = tensors
        self.clip, self.betas, self.eps = clip, betas, eps
        self.first = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        self.second = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        some = next(iter(tensors.values()))
        self.steps = torch.zeros(len(some), dtype=torch.float64, device=some.device)  # [users]

    @torch.no_grad()
    def step(self, users: Tensor, gradients: Tensors, rate: Tensor, scale: Mapping[str, float] | None = None) -> None:
        """Move the given users, and nobody else.

        Args:
            users: int64 [moved], each once.
            gradients: name -> [moved, ...].
            rate: float [moved], each user's learning rate now.
            scale: name -> by how much that tensor's rate is multiplied; 1 where left out.
        """
        squares = sum(gradient.flatten(1).square().sum(dim=1) for gradient in gradients.values())
        norm = torch.as_tensor(squares).sqrt()  # [moved]
        shrink = (self.clip / (norm + 1e-6)).clamp(max=1.0)
        self.steps[users] += 1
        taken = self.steps[users]
        beta1, beta2 = self.betas
        unbias1, unbias2 = (1 - beta1**taken).float(), (1 - beta2**taken).float()  # in float64: 1 - 0.999 cancels
        for name, raw in gradients.items():
            gradient = raw * _along(shrink, raw)
            first = self.first[name].index_select(0, users).lerp_(gradient, 1 - beta1)
            second = self.second[name].index_select(0, users).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            self.first[name][users], self.second[name][users] = first, second
            mean = first / _along(unbias1, first)
            spread = (second / _along(unbias2, second)).sqrt_().add_(self.eps)
            self.tensors[name][users] -= _along(rate * (scale or {}).get(name, 1.0), mean) * mean / spread


def _along(per_user: Tensor, tensor: Tensor) -> Tensor:
    """[users] -> [users, 1, ...], to be multiplied with `tensor`."""
    return per_user.view(-1, *[1] * (tensor.dim() - 1))

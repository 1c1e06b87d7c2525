"""Users' tensors in memory, in the place of a bank on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from beholder.adapters.layers import Shapes
from beholder.adapters.shards import Bank
from beholder.training.user_adam import Tensors
from beholder.util.errors import BankError


class Overlay(Bank):
    """A bank of users' tensors in memory, for `FittedBank.with_bank`.

    Whatever the method does around its bank (its inputs, its trunk, its walk through answers) is then done for them by
    the method itself, so that they are served by every kind of bank.

    Attributes:
        shapes: of one user's tensors.
        mean: name -> [*shape], of users without any. Where it is left out, such users are refused.
    """

    def __init__(
        self,
        shapes: Shapes,
        own: Mapping[str, Tensors],
        mean: Tensors | None = None,
        grouped: Mapping[str, Tensors] | None = None,
    ) -> None:
        """Hold tensors; nothing is read from disk.

        Args:
            shapes, mean: see the attributes.
            own: user -> name -> [1, ...].
            grouped: user -> name -> [*shape], of users without any whose group has a mean of its own.
        """
        self.shapes, self.mean = shapes, mean or {}
        self._own = dict(own)
        self._grouped = dict(grouped or {})

    def __contains__(self, user: str) -> bool:
        return user in self._own

    @property
    def users(self) -> list[str]:
        """Everybody whose tensors are here."""
        return list(self._own)

    def take(self, users: Sequence[str], device: str = "cpu") -> Tensors:
        """Tensors of some users: name -> [users, ...].

        Raises:
            BankError: one of them is not here, and there is no mean.
        """
        if not self.mean and any(user not in self._own for user in users):
            raise BankError("a user is not among those whose tensors are here. Score them by the bundle.")
        nobody = {name: mean[None] for name, mean in self.mean.items()}
        grouped = {
            user: {name: mean[None] for name, mean in self._grouped[user].items()}
            for user in users
            if user in self._grouped
        }
        rows = [self._own.get(user) or grouped.get(user, nobody) for user in users]
        return {name: torch.cat([row[name] for row in rows]).to(device) for name in self.shapes}

    def parts(self, users: Sequence[str], device: str = "cpu") -> Iterator[tuple[NDArray[np.int64], Tensors]]:
        """See `Bank.parts`: all at once.

        Raises:
            BankError: one of them is not here.
        """
        if users:
            yield np.arange(len(users)), self.take(users, device)

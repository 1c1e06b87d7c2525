"""Users who were trained after a version was made, in the place of its bank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from beholder.bank.layers import Shapes, Tensors
from beholder.bank.shards import Bank
from beholder.errors import BankError


class Overlay(Bank):
    """A bank of users' tensors in memory, for `FittedBank.with_bank`: only these users can be scored by it.

    Whatever the method does around its bank (its inputs, its trunk, its walk through answers) is then done for them by
    the method itself, so that they are served by every kind of bank.

    Attributes:
        shapes: of one user's tensors.
    """

    def __init__(self, shapes: Shapes, own: Mapping[str, Tensors]) -> None:
        """Hold tensors, user -> name -> [1, ...]; nothing is read from disk."""
        self.shapes = shapes
        self._own = dict(own)

    def __contains__(self, user: str) -> bool:
        return user in self._own

    @property
    def users(self) -> list[str]:
        """Everybody whose tensors are here."""
        return list(self._own)

    def take(self, users: Sequence[str], device: str = "cpu") -> Tensors:
        """Tensors of some users: name -> [users, ...].

        Raises:
            BankError: one of them is not here.
        """
        if any(user not in self._own for user in users):
            raise BankError("a user is not among those trained since the version was made. Score them by the bundle.")
        return {name: torch.cat([self._own[user][name] for user in users]).to(device) for name in self.shapes}

    def parts(self, users: Sequence[str], device: str = "cpu") -> Iterator[tuple[NDArray[np.int64], Tensors]]:
        """See `Bank.parts`: all at once.

        Raises:
            BankError: one of them is not here.
        """
        if users:
            yield np.arange(len(users)), self.take(users, device)

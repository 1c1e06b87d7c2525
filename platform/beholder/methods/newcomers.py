"""People who come after a bank was fitted, estimated given its prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beholder.adapters.fit import fit_bank
from beholder.adapters.overlay import Overlay
from beholder.adapters.trait_values import merged, traits_of
from beholder.adapters.traits import Traits
from beholder.adapters.trunk_cache import TrunkOutputs
from beholder.data.annotations import Annotations
from beholder.training.user_adam import Tensors

if TYPE_CHECKING:
    from beholder.methods.user_adapters import FittedBank


@dataclass(frozen=True)
class NewcomerBatch:
    """People, and the trunk's outputs for what they judged.

    Attributes:
        users: their ids.
        tensors: name -> [users, *shape].
        read, index: the trunk's outputs, and the input of each row: int64 [rows].
    """

    users: list[str]
    tensors: Tensors
    read: TrunkOutputs
    index: NDArray[np.int64]

    def states(self, rows: NDArray[np.int64]) -> list[Tensor]:
        """The trunk's output for some rows: [positions, width] each."""
        return self.read.states(self.index[rows])

    def overlay(self, fitted: FittedBank, grouped: Mapping[str, Tensors] | None = None) -> Overlay:
        """A bank of them, in which everybody else is the prior's mean, or that of their group where it is given."""
        own = {user: {n: t[at : at + 1] for n, t in self.tensors.items()} for at, user in enumerate(self.users)}
        return Overlay(fitted.model.shapes, own, fitted.prior.without_rows(), grouped)


def estimate_newcomers(
    fitted: FittedBank, rows: Annotations, seed: int, traits: Mapping[str, Traits] | None = None
) -> NewcomerBatch:
    """Estimate each user from these rows alone, given the prior and as the method was fitted; in memory.

    Args:
        fitted: the method.
        rows: what they judged.
        seed: of the order in which rows are learned from; the run's.
        traits: of users, beside those in the rows' context columns.

    Raises:
        MethodError: a trait has several values for one person.
    """
    prior, settings = fitted.prior, fitted.settings
    known = merged(traits or {}, traits_of([rows], tuple(prior.traits)))
    users, user = rows.by_user
    order = np.argsort(user, kind="stable")
    backbone = fitted.backbone(fitted.shared, fitted.model, rows)
    read = backbone.outputs(settings.trunk_memory_mb, None)
    parts: list[Tensors] = []
    for first in range(0, len(users), settings.block_users):
        some = list(users[first : first + settings.block_users])
        mine = order[slice(*np.searchsorted(user[order], [first, first + len(some)]))]
        fit = fit_bank(
            prior,
            some,
            backbone.examples(read, "train", mine, len(some), user[mine] - first),
            settings,
            seed=seed,
            device=fitted.device,
            around=prior.means_of([known.get(each, {}) for each in some]),
        )
        parts.append({name: tensor.cpu() for name, tensor in fit.tensors.items()})
    tensors = {name: torch.cat([part[name] for part in parts]) for name in fitted.model.shapes}
    return NewcomerBatch(list(users), tensors, read, backbone.index["train"])


def bank_of_newcomers(fitted: FittedBank, rows: Annotations, seed: int, traits: Mapping[str, Traits]) -> Overlay:
    """Users estimated from these rows alone; those with traits and no rows are the mean of their group.

    Everybody else is the prior's mean, moderated. See `FittedBank.adapt`.
    """
    grouped = {user: fitted.prior.without_rows(each) for user, each in traits.items()}
    if not len(rows):
        return Overlay(fitted.model.shapes, {}, fitted.prior.without_rows(), grouped)
    return estimate_newcomers(fitted, rows, seed, traits).overlay(fitted, grouped)

"""The prior: what the model has learned of users in general, before it sees a judgement of one of them.

A user's tensors are

    theta_u = mean + basis z_u + spread * e_u,    z_u ~ N(0, I),  e_u ~ N(0, I)

A linear Gaussian factor model over users (Tipping & Bishop 1999): `basis` holds the directions in which people differ
together, `spread` what is left to each person alone. Given the prior, a user is a maximum a posteriori estimate of
(z_u, e_u) from their own rows and nobody else's (`fit`). `estimate` learns a prior, `choose` picks its strength.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beholder.bank.layers import Shapes, Tensors, start
from beholder.errors import BankError
from beholder.files import sha256_of, whole

FORMAT = 1
FILES = ("prior.safetensors", "prior.json")
FACTORS = "z"
"""Under this name a user's factors stand among their coordinates."""


@dataclass(frozen=True)
class Prior:
    """A distribution over users' tensors.

    Attributes:
        mean: name -> [*shape], what somebody with no rows has: a difference from the shared model.
        basis: name -> [rank, *shape]; tensors that no factor moves are left out.
        spread: name -> standard deviation of what is a user's own, broadcast over [*shape]; tensors that stay as the
            mean and the factors have them are left out.
        epochs: passes over a user's rows after which the estimate stops.
        facts: how it was learned: people, rows, what was tried and chosen. Plain values, no ids.
    """

    mean: Tensors
    basis: Tensors
    spread: Tensors
    epochs: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """How many factors users differ in."""
        return max((len(tensor) for tensor in self.basis.values()), default=0)

    @property
    def coordinates(self) -> Shapes:
        """What is estimated of one user: the factors and, by tensor, what is their own; each N(0, 1) a priori."""
        own = {name: tuple(self.mean[name].shape) for name in self.spread}
        return {FACTORS: (self.rank,), **own} if self.rank else own

    @property
    def checksum(self) -> str:
        """SHA-256 of all that an estimate depends on."""
        digest = hashlib.sha256(str(self.epochs).encode())
        for name, tensor in sorted(_flat(self).items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def compose(self, coordinates: Tensors, wider: Mapping[str, Tensor] | None = None) -> Tensors:
        """Users' tensors from their coordinates; at zero they are the mean, bit for bit.

        Args:
            coordinates: see there, users along the first dimension: name -> [users, ...].
            wider: name -> spread of each user [users, 1, ...] where users do not share one (`choose`).

        Returns:
            name -> [users, *shape]
        """
        users = len(next(iter(coordinates.values())))
        made: Tensors = {}
        for name, mean in self.mean.items():
            tensor = mean.expand(users, *mean.shape)
            if name in self.basis:
                tensor = tensor + torch.tensordot(coordinates[FACTORS], self.basis[name], 1)
            if name in coordinates:
                spread = (wider or {}).get(name, self.spread[name])
                tensor = tensor + spread * coordinates[name]
            made[name] = tensor
        return made

    def nobody(self, users: int) -> Tensors:
        """Tensors of people who have no rows: the mean, name -> [users, *shape]."""
        return {name: mean.expand(users, *mean.shape).clone() for name, mean in self.mean.items()}

    def to(self, device: str) -> Prior:
        """The same on another device."""
        moved = [{name: each.to(device) for name, each in group.items()} for group in self._groups]
        return replace(self, mean=moved[0], basis=moved[1], spread=moved[2])

    @property
    def _groups(self) -> tuple[Tensors, Tensors, Tensors]:
        return self.mean, self.basis, self.spread


def isotropic(shapes: Shapes, seed: int, epochs: int, **facts: Any) -> Prior:
    """The prior that nothing was learned for: users differ in a label's bias by one nat, from the shared model.

    shapes: of one user's tensors. `down` projections are drawn as LoRA draws them, one draw for all users.
    """
    mean = {name: tensor[0] for name, tensor in start(shapes, 1, seed, "cpu").items()}
    return Prior(mean, {}, {"head.bias": torch.ones(shapes["head.bias"])}, epochs, facts)


def isotropic_as_before(shapes: Shapes, settings: Mapping[str, Any]) -> Prior:
    """The prior of a bank written before priors were learned: of precision `pull` around the shared model."""
    flat = isotropic(shapes, 0, int(settings.get("epochs", 30)), kind="isotropic")
    width = torch.tensor(max(float(settings.get("pull", 10.0)), 1e-6) ** -0.5)
    return replace(flat, spread={name: width for name in shapes if not name.endswith(".down")})


def step_scale(name: str, shape: tuple[int, ...]) -> float:
    """By how much to shorten a tensor's steps, so that many numbers that move together move logits like one.

    Adam moves every number by the step size whatever its gradient; a logit sums over a weight's inputs, or over all of
    a low-rank change.
    """
    if name in (FACTORS, "head.bias"):
        return 1.0
    return math.prod(shape[1:] if name == "head.weight" else shape) ** -0.5


def save_prior(prior: Prior, folder: Path) -> None:
    """Write `prior.safetensors` and, last, `prior.json` with its checksum."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().float().contiguous().clone() for name, tensor in _flat(prior).items()}
    with whole(folder / FILES[0]) as temporary:
        save_file(tensors, str(temporary))
    described = {
        "format": FORMAT,
        "model": "theta = mean + basis z + spread e; z, e standard normal",
        "rank": prior.rank,
        "epochs": prior.epochs,
        **prior.facts,
        "sha256": sha256_of(folder / FILES[0]),
    }
    with whole(folder / FILES[1]) as temporary:
        temporary.write_text(json.dumps(described, indent=2) + "\n")


def load_prior(folder: Path, shapes: Shapes) -> Prior:
    """Read what `save_prior` wrote.

    Raises:
        BankError: missing, altered, of other tensors than the bank asks for, or written by a newer version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = "Fit the method again."
    try:
        described = json.loads((folder / FILES[1]).read_text())
        if described["format"] > FORMAT:
            raise BankError(
                f"{folder / FILES[1]}: format {described['format']} is newer than this version reads ({FORMAT}). "
                "Upgrade beholder."
            )
        if sha256_of(folder / FILES[0]) != described["sha256"]:
            raise BankError(f"{folder / FILES[0]}: altered since it was written (checksum differs). {remedy}")
        flat = load_file(str(folder / FILES[0]))
        epochs = int(described["epochs"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BankError(f"{folder / FILES[1]}: no readable prior ({type(error).__name__}). {remedy}") from error
    mean, basis, spread = (
        {name.partition(":")[2]: tensor for name, tensor in flat.items() if name.startswith(f"{group}:")}
        for group in ("mean", "basis", "spread")
    )
    if {name: tuple(tensor.shape) for name, tensor in mean.items()} != shapes:
        raise BankError(f"{folder / FILES[0]}: a prior of other tensors than this bank's. {remedy}")
    known = ("format", "model", "rank", "epochs", "sha256")
    facts = {key: value for key, value in described.items() if key not in known}
    return Prior(mean, basis, spread, epochs, facts)


def _flat(prior: Prior) -> Tensors:
    groups = {"mean": prior.mean, "basis": prior.basis, "spread": prior.spread}
    return {f"{group}:{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}

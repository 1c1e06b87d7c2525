"""The prior: what the model has learned of users in general, before it sees a judgement of one of them.

A user's tensors are

    theta_u = mean + basis z_u + spread * e_u,    z_u ~ N(0, I),  e_u ~ N(0, I)

A linear Gaussian factor model over users (Tipping & Bishop 1999): `basis` holds the directions in which people differ
together, `spread` what is left to each person alone. Given the prior, a user is a maximum a posteriori estimate of
(z_u, e_u) from their own rows and nobody else's (`fit`). `estimate` learns a prior, `choose` picks its strength. Where
people's traits are known (`traits`), z_u and the biases are expected at those of their group instead of zero. What a
user is scored with allows for what is not known of them (`moderation`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beholder.adapters import moderation
from beholder.adapters.layers import Shapes, init_tensors
from beholder.adapters.moderation import Moderation, moderated
from beholder.adapters.traits import Effects, Traits, shift_of
from beholder.training.user_adam import Tensors
from beholder.util.atomic import atomic_write, sha256_of
from beholder.util.errors import BankError

FORMAT = 3
"""1: without traits, 2: without moderation; both are still written where there is none."""
FILES = ("prior.safetensors", "prior.json")
FACTORS = "z"
"""Under this name a user's factors stand among their coordinates."""
BIAS = "head.bias"


@dataclass(frozen=True)
class Prior:
    """A distribution over users' tensors.

    Attributes:
        mean: name -> [*shape], what somebody with no rows has: a difference from the global model.
        basis: name -> [rank, *shape]; tensors that no factor moves are left out.
        spread: name -> standard deviation of what is a user's own, broadcast over [*shape]; tensors that stay as the
            mean and the factors have them are left out.
        epochs: passes over a user's rows after which the estimate stops.
        facts: how it was learned: people, rows, what was tried and chosen. Plain values, no ids.
        traits: column -> what its values shift; see `traits`.
        moderation: what moderated heads need; None where users are scored by their estimates as they are, as in banks
            of before, of language models, where a head is not all of a user's own, and where it did not help.
    """

    mean: Tensors
    basis: Tensors
    spread: Tensors
    epochs: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    traits: Mapping[str, Effects] = field(default_factory=dict)
    moderation: Moderation | None = None

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
        if self.traits:
            digest.update(json.dumps(_values(self), sort_keys=True).encode())
        if self.moderation is not None:
            digest.update(f"exclusive {self.moderation.exclusive}".encode())
        return digest.hexdigest()

    def compose(self, coordinates: Tensors, around: Tensors | None = None) -> Tensors:
        """Users' tensors from their coordinates; at zero they are the mean, or `around`, bit for bit.

        Args:
            coordinates: see there, users along the first dimension: name -> [users, ...].
            around: name -> [users, *shape], the means of their groups; see `means_of`.

        Returns:
            name -> [users, *shape]
        """
        users = len(next(iter(coordinates.values())))
        made: Tensors = {}
        for name, mean in self.mean.items():
            tensor = mean.expand(users, *mean.shape) if around is None else around[name]
            if name in self.basis:
                tensor = tensor + torch.tensordot(coordinates[FACTORS], self.basis[name], 1)
            if name in coordinates:
                tensor = tensor + self.spread[name] * coordinates[name]
            made[name] = tensor
        return made

    def mean_of(self, traits: Traits) -> Tensors:
        """What somebody with these traits and no rows has: the mean of their group, name -> [*shape].

        The prior's mean, bit for bit, for people of whom nothing is known that shifts it.
        """
        shift = shift_of(self.traits, traits)
        if shift is None:
            return dict(self.mean)
        shift = shift.to(self.mean[BIAS].device)
        made = dict(self.mean)
        for name, basis in self.basis.items():
            made[name] = made[name] + torch.tensordot(shift[: self.rank], basis, 1)
        made[BIAS] = made[BIAS] + shift[self.rank :].view(made[BIAS].shape)
        return made

    def means_of(self, people: Sequence[Traits]) -> Tensors | None:
        """The same of several people: name -> [users, *shape]; None where all of them have the prior's mean.

        Each group is composed once and alone, so that a group's mean is the same bits in any company.
        """
        keys = [tuple(each.get(column) for column in self.traits) for each in people]
        groups = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        means = [
            self.mean_of({column: value for column, value in zip(self.traits, key, strict=True) if value is not None})
            for key in groups
        ]
        if all(each[BIAS] is self.mean[BIAS] for each in means):
            return None
        of = torch.tensor([groups[key] for key in keys], device=self.mean[BIAS].device)
        return {name: torch.stack([each[name] for each in means])[of] for name in self.mean}

    def at_mean(self, users: int) -> Tensors:
        """As many users at the mean: name -> [users, *shape]."""
        return {name: mean.expand(users, *mean.shape).clone() for name, mean in self.mean.items()}

    @cached_property
    def kappa_without_rows(self) -> Tensor | None:
        """How far the logits of somebody who has judged nothing are shrunk: float32 [labels]; see `moderation`."""
        return None if self.moderation is None else moderation.kappa_without_rows(self)

    def without_rows(self, traits: Traits | None = None) -> Tensors:
        """What somebody who has judged nothing is scored with: the mean of their group, moderated; name -> [*shape].

        Where the mean is the global model it is that, bit for bit.
        """
        mean = self.mean_of(traits or {})
        if self.moderation is None or self.kappa_without_rows is None:
            return mean
        alone = {name: tensor[None] for name, tensor in mean.items()}
        return {n: t[0] for n, t in moderated(alone, self.kappa_without_rows[None], self.moderation).items()}

    def to(self, device: str) -> Prior:
        """The same on another device."""
        moved = [{name: each.to(device) for name, each in group.items()} for group in self._groups]
        return replace(self, mean=moved[0], basis=moved[1], spread=moved[2])

    @property
    def _groups(self) -> tuple[Tensors, Tensors, Tensors]:
        return self.mean, self.basis, self.spread


def isotropic(shapes: Shapes, seed: int, epochs: int, **facts: Any) -> Prior:
    """The prior that nothing was learned for: users differ in a label's bias by one nat, from the global model.

    shapes: of one user's tensors. `down` projections are drawn as LoRA draws them, one draw for all users.
    """
    mean = {name: tensor[0] for name, tensor in init_tensors(shapes, 1, seed, "cpu").items()}
    return Prior(mean, {}, {BIAS: torch.ones(shapes[BIAS])}, epochs, facts)


def isotropic_as_before(shapes: Shapes, settings: Mapping[str, Any]) -> Prior:
    """The prior of a bank written before priors were learned: of precision `pull` around the global model."""
    flat = isotropic(shapes, 0, int(settings.get("epochs", 30)), kind="isotropic")
    width = torch.tensor(max(float(settings.get("pull", 10.0)), 1e-6) ** -0.5)
    return replace(flat, spread={name: width for name in shapes if not name.endswith(".down")})


def step_scale(name: str, shape: tuple[int, ...]) -> float:
    """By how much to shorten a tensor's steps, so that many numbers that move together move logits like one.

    Adam moves every number by the step size whatever its gradient; a logit sums over a weight's inputs, or over all of
    a low-rank change.
    """
    if name in (FACTORS, BIAS):
        return 1.0
    return math.prod(shape[1:] if name == "head.weight" else shape) ** -0.5


def save_prior(prior: Prior, folder: Path) -> None:
    """Write `prior.safetensors` and, last, `prior.json` with its checksum."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().float().contiguous().clone() for name, tensor in _flat(prior).items()}
    with atomic_write(folder / FILES[0]) as temporary:
        save_file(tensors, str(temporary))
    traits = {"traits": _values(prior)} if prior.traits else {}
    known = {"moderation": {"exclusive": prior.moderation.exclusive}} if prior.moderation else {}
    described = {
        "format": FORMAT if known else 2 if traits else 1,
        "model": "theta = mean + basis z + spread e; z, e standard normal",
        "rank": prior.rank,
        "epochs": prior.epochs,
        **prior.facts,
        **traits,
        **known,
        "sha256": sha256_of(folder / FILES[0]),
    }
    with atomic_write(folder / FILES[1]) as temporary:
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
    known = ("format", "model", "rank", "epochs", "traits", "moderation", "sha256")
    facts = {key: value for key, value in described.items() if key not in known}
    traits: dict[str, Effects] = {}
    for column, values in described.get("traits", {}).items():
        shifts = flat.get(f"trait:{column}")
        if shifts is None or len(shifts) != len(values):
            raise BankError(f"{folder / FILES[1]}: trait {column!r} has other values than its tensor. {remedy}")
        traits[column] = Effects(tuple(values), shifts)
    known_of_heads = None
    if (how := described.get("moderation")) is not None:
        try:
            parts = [flat[f"moderation:{name}"] for name in _MODERATION]
        except KeyError as error:
            raise BankError(f"{folder / FILES[0]}: it lacks what moderates heads. {remedy}") from error
        known_of_heads = Moderation(*parts, exclusive=bool(how["exclusive"]))
    return Prior(mean, basis, spread, epochs, facts, traits, known_of_heads)


_MODERATION = ("places", "weight", "bias")


def _values(prior: Prior) -> dict[str, list[str]]:
    return {column: list(effect.values) for column, effect in prior.traits.items()}


def _flat(prior: Prior) -> Tensors:
    shifts = {column: effect.shifts for column, effect in prior.traits.items()}
    groups = {"mean": prior.mean, "basis": prior.basis, "spread": prior.spread, "trait": shifts}
    if prior.moderation is not None:
        groups["moderation"] = {name: getattr(prior.moderation, name) for name in _MODERATION}
    return {f"{group}:{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}

"""Learning the prior from all training users together: variational empirical Bayes.

Mean, basis and the spread of biases maximise a lower bound on the marginal likelihood of everybody's judgements (type
II maximum likelihood),

    sum over users of  E_q[log p(y_u | theta_u)] - KL(q(z_u, b_u) || N(0, I) N(0, spread^2))

with a Gaussian q of each user's own (variational Bayes for mixed models: Ormerod & Wand 2012), and the expectation by
one reparameterised draw a step (Kingma & Welling 2014). So the sizes of `basis` and `spread` are learned: directions in
which users do not differ beyond chance shrink to nothing, and a prior that is too wide costs likelihood. A wide
Gaussian keeps mean and basis from fitting the chance of few users.

Numbers of all tensors are taken in one unit: a change of norm 1 changes logits as much as a bias of 1, as measured by
the gradients of single judgements at the global model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from beholder.adapters.fit import Batch, TrainingExamples, backward
from beholder.adapters.layers import Shapes
from beholder.adapters.prior import FACTORS, Prior, isotropic, step_scale
from beholder.adapters.traits import TraitEstimate, Traits
from beholder.training.user_adam import Tensors, UserAdam
from beholder.util.strict_model import Section

LEAST_USERS = 4
"""From fewer people no prior is learned, only the isotropic one is."""
USERS_A_FACTOR = 4
"""People for each factor, at least."""
ROWS_A_USER = 16
"""Of one user in one step, at least; where all rows of all users cannot be read at once, each has an equal share."""
STEP_STATES = 8_192
"""States read in one step, at most about: judgements, where one state stands for a text."""
UNIT_ROWS, LAYER_UNIT_ROWS = 256, 64
"""Judgements that units are measured on: of heads, and where each goes through layers, which takes time. A root mean
square over these is right within a few per cent, and strengths are tried in steps of a factor of two."""
MOST_OF_LAYERS = 2.0
"""Largest unit of changes within layers. Where a model hardly responds to them, a larger one would magnify rounding."""
FIXED = ".down"
"""Tensors that are everybody's alike: mean only (LoRA-FA, Zhang et al. 2023, keeps them as drawn)."""
BIAS = "head.bias"


class PriorSettings(Section):
    """How the prior is learned.

    Args:
        rank: factors that users differ in, at most; fewer where there are few users. 0: mean and biases alone.
        strength: standard deviation, in logits, of what is a user's own beyond bias and factors; `auto`: chosen on the
            validation rows of all users together.
        users: people the prior is learned from, at most, drawn seeded; more only cost time.
        steps: of the learning.
        penalty: of the squared norms of mean and basis: the inverse variance of the Gaussian that holds them.
        within_layers: where users have changes within layers, learn mean and basis of these, too. It takes longer than
            training everybody does (`experiments/benchmarks/README.md` has what it gains).
        traits: context columns with one value for each person (`gender`, `age_group`). Users are expected where people
            with these values are, as far as groups differ beyond chance; kept where validation rows are likelier so.
    """

    rank: int = Field(default=8, ge=0)
    strength: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    users: int = Field(default=2_000, ge=1)
    steps: int = Field(default=150, ge=1)
    penalty: float = Field(default=30.0, gt=0)
    within_layers: bool = False
    traits: tuple[str, ...] = ()


def estimate_prior(
    shapes: Shapes,
    train: TrainingExamples,
    rank: int,
    settings: PriorSettings,
    *,
    epochs: int,
    seed: int,
    device: str = "cpu",
    traits: Sequence[Traits] = (),
    units: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prior:
    """Learn mean, basis and the spread of biases, and what traits shift.

    Mean and basis are of heads, unless `within_layers` is set: changes within layers are then expected at none,
    and their spread is chosen (`choose`).

    Args:
        shapes: of one user's tensors.
        train: the rows of all users it is learned from.
        rank: factors, at most.
        settings: see there.
        epochs: passes over a user's rows that the prior asks for; see `Prior`.
        seed: of draws and order.
        device: where.
        traits: of each user; none by default, and then nothing is learned of `settings.traits`.
        units: see `unit_of`; measured here where they are left out.
        progress: called with (steps done, steps).

    Returns:
        The prior; the isotropic one where there are fewer than `LEAST_USERS` people with rows.
    """
    people = int((train.rows > 0).sum())
    flat = isotropic(shapes, seed, epochs, people=people, rows=int(train.rows.sum()))
    if people < LEAST_USERS:
        return flat
    units = units or unit_of(flat, train, seed, device)
    heads = None if settings.within_layers else train.heads
    if heads is not None:
        of_heads = {name: shape for name, shape in shapes.items() if name.startswith("head.")}
        own: Any = {"epochs": epochs, "seed": seed, "device": device, "traits": traits, "progress": progress}
        learned = estimate_prior(of_heads, heads, rank, settings, units=units, **own)
        return replace(learned, mean={**flat.mean, **learned.mean})
    rank = min(rank, people // USERS_A_FACTOR)
    described = [each if count else {} for each, count in zip(traits, train.rows, strict=True)] if traits else []
    model = _Model(flat.to(device), units, rank, len(train.rows), seed, described, settings.traits)
    optimizer = torch.optim.Adam(model.groups(0.2, 0.05), betas=(0.9, 0.99))
    own = UserAdam(model.local, clip=math.inf, betas=(0.9, 0.99))
    positions = max(1.0, float(train.outputs.lengths.mean()))
    draws = _Draws(train.rows, np.random.default_rng([seed, 1]), max(64, int(STEP_STATES / positions)))
    noise = torch.Generator().manual_seed(seed)
    for step in range(settings.steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        batch, users, weight = draws.step()
        here = torch.from_numpy(users).to(device)
        local = {name: tensor.index_select(0, here).requires_grad_() for name, tensor in model.local.items()}
        bias, factors, divergence = model.draw(local, noise, here)
        divergence.sum().backward(retain_graph=True)
        _backward(model, train, batch, bias, factors, torch.from_numpy(weight).float().to(device))
        share = people / len(users)  # of all users in this step's
        for parameter in model.shared:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad * share
            pull = 0.0 if parameter is model.spread else settings.penalty
            parameter.grad = gradient + pull * parameter.detach()
        for group in optimizer.param_groups:
            group["lr"] = group["initial"] * decay
        optimizer.step()
        optimizer.zero_grad()
        rates = torch.full((len(users),), 0.05 * decay, device=device)
        own.step(here, {n: t.grad if t.grad is not None else torch.zeros_like(t) for n, t in local.items()}, rates)
        model.update_traits(learn_variances=2 * step >= settings.steps)
        progress(step + 1, settings.steps)
    return model.prior(flat)


def _backward(
    model: _Model, train: TrainingExamples, batch: Batch, bias: Tensor, factors: Tensor | None, weight: Tensor
) -> None:
    """Gradients of the weighted sum of losses. weight: [users], of each one's rows."""
    linear = train.factor_losses(model.directions(), factors, bias * model.units[BIAS], batch)
    if linear is not None:
        loss, place = linear
        (loss * weight[place]).sum().backward()
        return
    backward(train, batch, model.compose(bias, factors), weight)


def unit_of(flat: Prior, train: TrainingExamples, seed: int, device: str) -> dict[str, float]:
    """The unit of each tensor: a change of this norm moves logits as a bias of 1 does.

    From the gradient of one judgement's loss by each tensor at the global model, root mean square over judgements and
    over the tensors of a group (all `up`, say: one that moves next to nothing must not get a unit without bounds): the
    trace of its Fisher information, relative to that of the bias.
    """
    count = int(train.rows.sum())
    most = UNIT_ROWS if train.heads is None else LAYER_UNIT_ROWS
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(count)[:most])
    squares = dict.fromkeys(flat.mean, 0.0)
    for piece in np.array_split(rows, -(-len(rows) // 32)):
        # Every row is its own user.
        alone = {name: tensor.requires_grad_() for name, tensor in flat.to(device).at_mean(len(piece)).items()}
        for loss, _, _ in train.losses(alone, piece[:, None]):
            loss.sum().backward()
        for name, tensor in alone.items():
            squares[name] += 0.0 if tensor.grad is None else float(tensor.grad.square().sum())
    group = {name: name.rpartition(".")[2] for name in squares}
    means = {
        each: float(np.mean([square for name, square in squares.items() if group[name] == each]))
        for each in group.values()
    }
    units = {
        name: math.sqrt(squares[BIAS] / means[group[name]])
        if means[group[name]] > 0 and not name.endswith(FIXED)
        else float(flat.mean[name].square().mean().sqrt())
        for name in squares
    }  # `down` moves no logit before `up` does: its unit is the size of its numbers
    return {name: min(unit, MOST_OF_LAYERS) if name.endswith(".up") else unit for name, unit in units.items()}


class _Model:
    """What is learned: of all users mean, basis and spread in units; of each the means and deviations of q."""

    def __init__(
        self,
        flat: Prior,
        units: Mapping[str, float],
        rank: int,
        users: int,
        seed: int,
        people: Sequence[Traits],
        columns: Sequence[str],
    ) -> None:
        device = next(iter(flat.mean.values())).device
        generator = torch.Generator().manual_seed(seed + 1)
        self.start, self.units, self.rank = flat.mean, units, rank
        self.mean = {name: torch.zeros_like(tensor).requires_grad_() for name, tensor in flat.mean.items()}
        self.basis: Tensors = {}
        if rank:
            for name, tensor in sorted(flat.mean.items()):
                if name.endswith(FIXED):
                    continue
                size = 0.3 * step_scale(name, tuple(tensor.shape)) if name != BIAS else 0.01
                drawn = size * torch.randn(rank, *tensor.shape, generator=generator)
                self.basis[name] = drawn.to(device).requires_grad_()
        self.spread = torch.full(flat.mean[BIAS].shape, -0.4, device=device).requires_grad_()  # log
        labels = flat.mean[BIAS].shape
        self.local: Tensors = {"bias": torch.zeros(users, *labels), "bias.log": torch.full((users, *labels), -0.7)}
        if rank:
            self.local |= {FACTORS: torch.zeros(users, rank), f"{FACTORS}.log": torch.zeros(users, rank)}
        self.local = {name: tensor.to(device) for name, tensor in self.local.items()}
        self.traits = TraitEstimate(people, columns, rank, math.prod(labels), str(device))

    @property
    def shared(self) -> list[Tensor]:
        """All that is learned of everybody; the penalty is on all of it but the spread."""
        return [*self.mean.values(), *self.basis.values(), self.spread]

    def groups(self, rate: float, bias_rate: float) -> list[dict[str, object]]:
        """Parameters with their rates, for the optimizer."""
        made: list[dict[str, object]] = [{"params": [self.spread], "lr": bias_rate, "initial": bias_rate}]
        for tensors in (self.mean, self.basis):
            for name, tensor in tensors.items():
                shape = tuple(self.start[name].shape)
                own = bias_rate if name == BIAS else rate * step_scale(name, shape)
                made.append({"params": [tensor], "lr": own, "initial": own})
        return made

    def update_traits(self, learn_variances: bool) -> None:
        """What traits shift, given where users are now."""
        if self.traits:
            names = [FACTORS, "bias"] if self.rank else ["bias"]
            middle = torch.cat([self.local[name] for name in names], dim=1)
            variance = torch.cat([(2 * self.local[f"{name}.log"]).exp() for name in names], dim=1)
            spread = torch.cat([torch.ones(self.rank, device=middle.device), self.spread.detach().exp()])
            self.traits.update(middle, variance, spread, learn_variances)

    def _off(self, middle: Tensor, users: Tensor, factors: bool) -> Tensor:
        """Squared distance from where users are expected, its uncertainty included."""
        if not self.traits:
            return middle.square()
        some = slice(0, self.rank) if factors else slice(self.rank, None)
        return (middle - self.traits.centre[users, some]).square() + self.traits.uncertainty[users, some]

    def draw(self, local: Tensors, noise: torch.Generator, users: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Of some users, drawn from their q: biases [users, labels], factors [users, rank] where there are any; and
        each one's divergence [users].

        users: int64, their positions.
        """
        device = self.spread.device

        def drawn(name: str) -> Tensor:
            middle, width = local[name], local[f"{name}.log"].exp()
            return middle + width * torch.randn(middle.shape, generator=noise).to(device)

        bias = drawn("bias")
        middle, log = local["bias"], local["bias.log"]
        ratio = (self._off(middle, users, False) + (2 * log).exp()) / (2 * self.spread).exp()
        divergence = (0.5 * (ratio - 1) - log + self.spread).flatten(1).sum(dim=1)
        factors = None
        if self.rank:
            factors = drawn(FACTORS)
            middle, log = local[FACTORS], local[f"{FACTORS}.log"]
            square = self._off(middle, users, True) + (2 * log).exp()
            divergence = divergence + (0.5 * (square - 1) - log).sum(dim=1)
        return bias, factors, divergence

    def compose(self, bias: Tensor, factors: Tensor | None) -> Tensors:
        """Tensors of these users: name -> [users, *shape]."""
        tensors: Tensors = {}
        for name, mean in self.mean.items():
            change = mean.expand(len(bias), *mean.shape)
            if factors is not None and name in self.basis:
                change = change + torch.tensordot(factors, self.basis[name], 1)
            if name == BIAS:
                change = change + bias
            tensors[name] = self.start[name] + self.units[name] * change
        return tensors

    def directions(self) -> Tensors:
        """The mean and, after it, what each factor moves: name -> [1 + rank, *shape]."""
        found: Tensors = {}
        for name, mean in self.mean.items():
            centre = (self.start[name] + self.units[name] * mean)[None]
            moved = (
                self.units[name] * self.basis[name] if name in self.basis else centre.new_zeros(self.rank, *mean.shape)
            )
            found[name] = torch.cat([centre, moved])
        return found

    def prior(self, flat: Prior) -> Prior:
        """What was learned, in the tensors' own numbers."""
        mean = {n: (self.start[n] + self.units[n] * t).detach().cpu().clone() for n, t in self.mean.items()}
        basis = {name: (self.units[name] * tensor).detach().cpu().clone() for name, tensor in self.basis.items()}
        spread = {BIAS: self.spread.detach().exp().cpu().clone()}
        return Prior(mean, basis, spread, flat.epochs, flat.facts, self.traits.effects(self.units[BIAS]))


class _Draws:
    """Which rows are read in which step.

    Where all rows do not fit one step, each user has an equal share of it, and walks through their rows in an order
    that was drawn once.
    """

    def __init__(self, rows: NDArray[np.int64], rng: np.random.Generator, budget: int) -> None:
        """rows: int64 [users], how many each has; budget: rows in a step, at most about."""
        self._rows, self._first, self._rng, self._budget = rows, np.cumsum(rows) - rows, rng, budget
        share = max(ROWS_A_USER, budget // max(1, int((rows > 0).sum())))
        self._taken = np.minimum(rows, min(share, budget))
        user = np.repeat(np.arange(len(rows)), rows)
        self._order = np.lexsort((rng.random(len(user)), user))  # every user's rows, shuffled
        self._at = np.zeros(len(rows), dtype=np.int64)  # where each user's next share starts

    def step(self) -> tuple[Batch, NDArray[np.int64], NDArray[np.float64]]:
        """Rows [users, rows], whose they are, and of how many rows of its user each stands."""
        some = self._rng.permutation(np.flatnonzero(self._rows > 0))
        fit = np.searchsorted(np.cumsum(self._taken[some]), self._budget, side="right")
        users = np.sort(some[: max(1, int(fit))])
        taken, place = self._taken[users], np.arange(int(self._taken[users].max()))
        turn = (self._at[users][:, None] + place) % self._rows[users][:, None]
        batch = np.where(place < taken[:, None], self._order[self._first[users][:, None] + turn], -1)
        self._at[users] += taken
        return batch, users, self._rows[users] / taken


def with_spread(prior: Prior, units: Mapping[str, float], strength: float) -> dict[str, Tensor]:
    """Spread of all that is a user's own, for a strength in logits: that of biases, and equal numbers besides."""
    own = {
        name: torch.tensor(strength * units[name])
        for name in prior.mean
        if strength > 0 and name != BIAS and not name.endswith(FIXED)
    }
    return {BIAS: prior.spread[BIAS], **own}

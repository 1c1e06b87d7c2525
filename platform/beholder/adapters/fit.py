"""Training a bank: many users' tensors in one pass over shared trunk outputs, each user as if alone.

Given the prior, a user's tensors are the maximum a posteriori estimate from that user's rows: they depend on these
rows, the prior, the settings and the seed, and on nobody else. The loss is a mean per user, batches are drawn per user,
and so are step counts, moments, clipping and decay of the rate. Nothing is chosen on one user's few rows: strength and
epochs come with the prior (`choose`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from beholder.adapters.moderation import Readings, kappas, moderated
from beholder.adapters.prior import Prior, step_scale
from beholder.adapters.trunk_cache import TrunkOutputs
from beholder.training.user_adam import Tensors, UserAdam
from beholder.util.strict_model import Section

Batch = NDArray[np.int64]
"""Row positions [users, rows], -1 = none."""


STEPS = 32
"""Steps of an epoch, at most: who gave thousands of judgements takes larger batches instead."""
EPS = 1e-4
"""Gradients below this are rounding noise to Adam, which would otherwise take steps of full size along them."""


class BankTraining(Section):
    """How a user's tensors are estimated, given the prior.

    Args:
        epochs: at most; how many are best is chosen on the validation rows of all users together.
        batch_size: of the user's rows, per step; a 32nd of the rows of users who have more than 32 such batches.
        step_size: at the user's first step, in standard deviations of the prior; falls to zero over the user's steps
            (half a cosine).
        clip: norm of the user's gradient.
        learning_rate, pull, caution, patience: of files written before the prior was learned. Accepted, and without
            effect: a run notes it.
    """

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=16, ge=1)
    step_size: float = Field(default=0.1, gt=0)
    clip: float = Field(default=1.0, gt=0)
    learning_rate: float | None = Field(default=None, gt=0, exclude=True)
    pull: float | None = Field(default=None, ge=0, exclude=True)
    caution: float | None = Field(default=None, ge=0, exclude=True)
    patience: int | None = Field(default=None, ge=1, exclude=True)

    @property
    def without_effect(self) -> list[str]:
        """Settings of earlier versions that were given."""
        return [name for name in ("learning_rate", "pull", "caution", "patience") if getattr(self, name) is not None]


class TrainingExamples(Protocol):
    """Users' rows, ordered by user, and losses under users' tensors. See `classifier_examples.ClassifierExamples`.

    Attributes:
        outputs: the trunk's output for each input.
        rows: int64 [users], how many each has.
        asked: float64 [users], how many terms the summed loss of all of them has.
    """

    @property
    def outputs(self) -> TrunkOutputs: ...

    @property
    def rows(self) -> NDArray[np.int64]: ...

    @property
    def asked(self) -> NDArray[np.float64]: ...

    def losses(self, tensors: Tensors, batch: Batch) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
        """Pieces of (loss of each row [some], its place in the batch's first dimension [some], its position [some]).

        Args:
            tensors: of the batch's users, in its order.
            batch: see there.
        """
        ...

    def terms(self, batch: Batch) -> NDArray[np.float32]:
        """How many terms each user's summed loss has: [users]."""
        ...

    @property
    def heads(self) -> TrainingExamples | None:
        """The same rows, of users who differ in their heads alone, read from the global model's last states.

        None where heads alone are a user's own anyway.
        """
        ...

    @property
    def readings(self) -> Readings | None:
        """The same rows as a head reads them, from the global model's last states, for moderating users' heads.

        None where this is not done: of language models, and where a head is not all of a user's own.
        """
        ...

    def factor_losses(
        self, directions: Tensors, factors: Tensor | None, bias: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor] | None:
        """The losses of rows whose users differ in factors and biases alone, with each input read once for all users.

        Args:
            directions: the mean and, after it, what each factor moves: name -> [1 + rank, *shape].
            factors: [users, rank] of the batch's users, None at rank 0.
            bias: [users, labels], their own.
            batch: see there.

        Returns:
            The loss of each row [some] and its place in the batch's first dimension [some]; None where logits are not
            linear in the tensors, or this is not done; use `losses` then.
        """
        ...


@dataclass(frozen=True)
class BankFit:
    """Users' estimates.

    Attributes:
        tensors: name -> [users, ...], moderated where the prior has a moderation; `Prior.without_rows`
            of their group, bit for bit, for users without rows.
        coordinates: what they were composed of before (`Prior.coordinates`).
        losses: float64 [epochs, users], each user's summed loss on their held-out rows after each epoch, where such
            rows were given.
    """

    tensors: Tensors
    coordinates: Tensors
    losses: NDArray[np.float64] | None


def fit_bank(
    prior: Prior,
    users: Sequence[str],
    train: TrainingExamples,
    settings: BankTraining,
    *,
    seed: int,
    device: str = "cpu",
    held_out: TrainingExamples | None = None,
    around: Tensors | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BankFit:
    """Estimate every user's tensors.

    Args:
        prior: of users in general; its `epochs` are run, on the schedule of the settings' epochs.
        users: names; with the seed they decide the order of each user's rows.
        train: rows to learn from.
        settings: see there.
        seed: of order.
        device: where.
        held_out: rows to measure on after each epoch. They have no say in what is estimated.
        around: name -> [users, *shape], where each user is expected and pulled to; the prior's mean by default.
        progress: called with (epochs done, epochs).
    """
    kappa = None
    if prior.moderation is not None and (readings := train.readings) is not None:
        kappa = kappas(prior, readings).to(device)
    prior, count = prior.to(device), len(users)
    around = around and {name: tensor.to(device) for name, tensor in around.items()}
    coordinates = {name: torch.zeros(count, *shape, device=device) for name, shape in prior.coordinates.items()}
    optimizer = UserAdam(coordinates, settings.clip, eps=EPS)
    schedule = _Schedule(users, train.rows, settings, seed)
    pieces = None if held_out is None else held_out_batches(held_out.rows)
    losses = np.zeros((prior.epochs, count))
    asked = train.asked

    def scored_with() -> Tensors:
        """Everybody's tensors as they stand, moderated."""
        tensors = prior.compose(coordinates, around)
        known = prior.moderation
        return tensors if kappa is None or known is None else moderated(tensors, kappa, known)

    for epoch in range(prior.epochs):
        for batch, moving in schedule.epoch():
            here = torch.from_numpy(moving).to(device)
            local = {name: tensor.index_select(0, here).requires_grad_() for name, tensor in coordinates.items()}
            middle = around and {name: tensor.index_select(0, here) for name, tensor in around.items()}
            share = torch.from_numpy(1 / np.maximum(train.terms(batch), 1)).to(device)  # [users]
            backward(train, batch, prior.compose(local, middle), share)
            weight = torch.from_numpy(1 / np.maximum(asked[moving], 1)).float().to(device)
            gradients = {name: _with_prior(tensor, weight) for name, tensor in local.items()}
            rate = torch.from_numpy(schedule.rates(moving)).float().to(device)
            optimizer.step(here, gradients, rate, {n: step_scale(n, tuple(t.shape[1:])) for n, t in local.items()})
        if held_out is not None and pieces is not None:
            rows = row_losses(held_out, pieces, scored_with())
            losses[epoch] = np.bincount(np.repeat(np.arange(count), held_out.rows), rows, count)
        progress(epoch + 1, prior.epochs)
    tensors = {name: tensor.contiguous() for name, tensor in scored_with().items()}
    return BankFit(tensors, coordinates, losses if held_out is not None else None)


def backward(train: TrainingExamples, batch: Batch, tensors: Tensors, weight: Tensor) -> None:
    """Gradients of the weighted sum of losses, into what the tensors were composed of.

    weight: [users], of each one's rows.
    """
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    for loss, place, _ in train.losses(leaves, batch):  # piece by piece, so that memory is bounded by a piece
        (loss * weight[place]).sum().backward()
    moved = [name for name, tensor in tensors.items() if tensor.requires_grad and leaves[name].grad is not None]
    torch.autograd.backward([tensors[name] for name in moved], [leaves[name].grad for name in moved])


def _with_prior(coordinate: Tensor, weight: Tensor) -> Tensor:
    """A coordinate's gradient, that of its standard normal prior included. weight: [users], 1 / terms of the loss."""
    gradient = coordinate.grad if coordinate.grad is not None else torch.zeros_like(coordinate)
    return gradient + weight.view(-1, *[1] * (coordinate.dim() - 1)) * coordinate.detach()


@torch.no_grad()
def row_losses(
    rows: TrainingExamples, batches: list[tuple[Batch, NDArray[np.int64]]], tensors: Tensors
) -> NDArray[np.float64]:
    """The loss of each row: float64 [rows]. `batches`: see `held_out_batches`; `tensors`: of all users."""
    found = np.zeros(int(rows.rows.sum()))
    for whole, users_of in batches:
        here = torch.from_numpy(users_of)
        local = {name: tensor[here.to(tensor.device)] for name, tensor in tensors.items()}
        for loss, _, positions in rows.losses(local, whole):
            found[positions] = loss.double().cpu().numpy()
    return found


def mean_losses(rows: TrainingExamples, tensors: Tensors) -> NDArray[np.float64]:
    """Each user's mean loss over what they were asked: float64 [users]; NaN for users without rows."""
    found = row_losses(rows, held_out_batches(rows.rows), tensors)
    total = np.bincount(np.repeat(np.arange(len(rows.rows)), rows.rows), found, len(rows.rows))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(rows.rows > 0, total / rows.asked, np.nan)


def held_out_batches(rows: NDArray[np.int64], size: int = 64) -> list[tuple[Batch, NDArray[np.int64]]]:
    """All rows in batches of at most `size` a user, each with the users it is of."""
    first = np.cumsum(rows) - rows
    batches = []
    for start_at in range(0, int(rows.max(initial=0)), size):
        users = np.flatnonzero(rows > start_at)
        place = start_at + np.arange(min(size, int(rows.max()) - start_at))
        batches.append((np.where(place < rows[users][:, None], first[users][:, None] + place, -1), users))
    return batches


class _Schedule:
    """Whose rows come when: for every user an order and a step size of their own."""

    def __init__(self, users: Sequence[str], rows: NDArray[np.int64], settings: BankTraining, seed: int) -> None:
        self._rows, self._first = rows, np.cumsum(rows) - rows
        self._settings = settings
        self._size = np.maximum(settings.batch_size, -(-rows // STEPS))  # [users]
        self._per_epoch = -(-rows // self._size)
        self._taken = np.zeros(len(users), dtype=np.int64)
        self._random = [np.random.default_rng(_user_seed(seed, user)) for user in users]

    def epoch(self) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
        """(row positions, the users they are of) of every step. Memory is bounded by the rows, however skewed."""
        order = [self._first[user] + random.permutation(self._rows[user]) for user, random in enumerate(self._random)]
        for step in range(int(self._per_epoch.max(initial=0))):
            moving = np.flatnonzero(self._per_epoch > step)
            rows = [order[user][step * self._size[user] : (step + 1) * self._size[user]] for user in moving]
            batch = np.full((len(moving), max(map(len, rows))), -1, dtype=np.int64)
            for place, mine in enumerate(rows):
                batch[place, : len(mine)] = mine
            yield batch, moving
            self._taken[moving] += 1

    def rates(self, users: NDArray[np.int64]) -> NDArray[np.float64]:
        """Each user's step size at their present step."""
        share = self._taken[users] / (self._per_epoch[users] * self._settings.epochs)
        return self._settings.step_size * 0.5 * (1 + np.cos(math.pi * share))


def _user_seed(seed: int, user: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {user}".encode()).digest()[:8], "little")

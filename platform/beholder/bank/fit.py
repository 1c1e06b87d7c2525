"""Training a bank: many users' tensors in one pass over shared trunk outputs, each user as if alone.

What a user's tensors become depends on that user's rows, the settings and the seed, and on nobody else: the loss is a
mean per user, batches are drawn per user, and so are step counts, moments, clipping, decay of the rate and stopping.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from beholder.bank.layers import Tensors, start
from beholder.bank.model import BankModel
from beholder.bank.optimizer import UserAdam
from beholder.bank.outputs import TrunkOutputs
from beholder.bases.tokens import length_cut

PIECE = {"cpu": 2_048, "cuda": 32_768}
"""Positions, with padding, that go through the tail at once, by kind of device."""

Losses = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, targets, weights), each [..., labels] -> the summed loss of each row [...]."""


class BankTraining(BaseModel):
    """How a user's tensors are trained.

    Args:
        epochs: at most.
        patience: epochs without a lower loss on the user's own validation rows before the user stops. The best epoch is
            kept; it may be none at all.
        batch_size: of the user's rows, per step.
        learning_rate: at the user's first step; falls to zero over the user's steps (half a cosine).
        pull: toward the shared model: `pull / (2 * rows)` times the squared distance is added to the user's mean loss,
            a Gaussian prior centred on the shared model, worth the less the more rows a user has.
        clip: norm of the user's gradient.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=20, ge=1)
    patience: int = Field(default=5, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    pull: float = Field(default=1.0, ge=0)
    clip: float = Field(default=1.0, gt=0)


@dataclass(frozen=True)
class Rows:
    """Judgements as the bank sees them, ordered by user.

    Attributes:
        user: int64 [rows], positions among the bank's users, rising.
        input: int64 [rows], positions among the trunk's outputs.
        targets, weights: float32 [rows, labels]; weight 0 = not asked.
    """

    user: NDArray[np.int64]
    input: NDArray[np.int64]
    targets: NDArray[np.float32]
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class BankFit:
    """A trained bank.

    Attributes:
        tensors: name -> [users, ...].
        rows: int64 [users], training rows of each.
        epoch: int64 [users], the epoch kept; 0 = the shared model was better on the user's validation rows.
        loss, start_loss: float64 [users], mean loss on the user's validation rows of what is kept, and of the shared
            model; NaN for users without any.
    """

    tensors: Tensors
    rows: NDArray[np.int64]
    epoch: NDArray[np.int64]
    loss: NDArray[np.float64]
    start_loss: NDArray[np.float64]


def fit_bank(
    model: BankModel,
    outputs: TrunkOutputs,
    users: Sequence[str],
    train: Rows,
    valid: Rows,
    losses: Losses,
    settings: BankTraining,
    *,
    seed: int,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BankFit:
    """Train every user's tensors.

    Args:
        model: the frozen, shared model.
        outputs: of its trunk, for every input of `train` and `valid`.
        users: names; with the seed they decide the order of each user's rows.
        train, valid: see `Rows`.
        losses: what is minimised.
        settings: see there.
        seed: of order and start.
        device: where.
        progress: told (epochs done, epochs at most).
    """
    count = len(users)
    tensors = start(model.shapes, count, seed, device)
    best = {name: tensor.clone() for name, tensor in tensors.items()}
    optimizer = UserAdam(tensors, settings.clip)
    work = _Work(model, outputs, losses, device)
    schedule = _Schedule(users, train, settings, seed)
    held_out = _Held(valid, count)

    start_loss = work.mean_losses(tensors, held_out)
    best_loss, best_epoch = start_loss.copy(), np.zeros(count, dtype=np.int64)
    running = schedule.rows > 0
    for epoch in range(1, settings.epochs + 1):
        for batch, users_now in schedule.epoch(epoch, running):
            moved = torch.from_numpy(users_now).to(device)
            local = {name: tensor[moved].requires_grad_() for name, tensor in tensors.items()}
            work.backward(local, train, batch)
            rows = torch.from_numpy(schedule.rows[users_now]).to(device)
            gradients = {}
            for name, tensor in local.items():
                gradient = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
                if not name.endswith(".down"):  # `down` alone changes nothing: it starts at random, not at zero
                    gradient += settings.pull * tensor.detach() / rows.view(-1, *[1] * (tensor.dim() - 1))
                gradients[name] = gradient
            optimizer.step(moved, gradients, torch.from_numpy(schedule.rates(users_now)).float().to(device))
        loss = work.mean_losses(tensors, held_out, running)
        better = running & ((loss < best_loss) | np.isnan(start_loss))
        best_loss[better], best_epoch[better] = loss[better], epoch
        keep = torch.from_numpy(np.flatnonzero(better)).to(device)
        for name, tensor in tensors.items():
            best[name][keep] = tensor[keep]
        running &= (epoch - best_epoch) < settings.patience
        progress(epoch, settings.epochs)
        if not running.any():
            break
    return BankFit(best, schedule.rows, best_epoch, best_loss, start_loss)


class _Schedule:
    """Whose rows come when: for every user an order of their own."""

    def __init__(self, users: Sequence[str], train: Rows, settings: BankTraining, seed: int) -> None:
        self.rows = np.bincount(train.user, minlength=len(users)).astype(np.int64)
        self._first = np.concatenate([[0], np.cumsum(self.rows)])[:-1]
        self._size, self._settings = settings.batch_size, settings
        self._per_epoch = np.ceil(self.rows / self._size).astype(np.int64)
        self._taken = np.zeros(len(users), dtype=np.int64)
        self._random = [
            np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed} {user}".encode()).digest()[:8], "little"))
            for user in users
        ]

    def epoch(self, epoch: int, running: NDArray[np.bool_]):  # noqa: ANN201
        """(row positions [users, batch size], -1 = none; which users) of every step."""
        order = {
            int(user): self._first[user] + self._random[user].permutation(self.rows[user])
            for user in np.flatnonzero(running)
        }
        for step in range(int(self._per_epoch[running].max(initial=0))):
            users = np.flatnonzero(running & (self._per_epoch > step))
            batch = np.full((len(users), self._size), -1, dtype=np.int64)
            for place, user in enumerate(users):
                mine = order[int(user)][step * self._size : (step + 1) * self._size]
                batch[place, : len(mine)] = mine
            yield batch, users
            self._taken[users] += 1

    def rates(self, users: NDArray[np.int64]) -> NDArray[np.float64]:
        """Each user's learning rate at their present step."""
        share = self._taken[users] / np.maximum(1, self._per_epoch[users] * self._settings.epochs)
        return self._settings.learning_rate * 0.5 * (1 + np.cos(math.pi * share))


class _Held:
    """Validation rows, in batches of at most 64 rows a user."""

    def __init__(self, valid: Rows, users: int) -> None:
        self.rows = valid
        counts = np.bincount(valid.user, minlength=users)
        first = np.concatenate([[0], np.cumsum(counts)])[:-1]
        self.batches: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for start_at in range(0, int(counts.max(initial=0)), 64):
            mine = np.flatnonzero(counts > start_at)
            place = start_at + np.arange(64)
            batch = np.where(place < counts[mine][:, None], first[mine][:, None] + place, -1)
            self.batches.append((batch[:, : int((counts[mine] - start_at).max())], mine))


class _Work:
    """Losses of batches [users, rows] of row positions, -1 = none."""

    def __init__(self, model: BankModel, outputs: TrunkOutputs, losses: Losses, device: str) -> None:
        self._model, self._outputs, self._losses, self._device = model, outputs, losses, device

    def backward(self, local: Tensors, rows: Rows, batch: NDArray[np.int64]) -> None:
        """Gradients of the sum over users of each user's mean loss."""
        terms = self._terms(rows, batch)
        for value, users in self._summed(local, rows, batch):
            (value / terms[users]).sum().backward()

    @torch.no_grad()
    def mean_losses(
        self, tensors: Tensors, held: _Held, running: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Each user's mean loss on their rows: float64 [users]; NaN for users without any, or not running."""
        count = len(next(iter(tensors.values())))
        total, terms = np.zeros(count), np.zeros(count)
        for batch, users in held.batches:
            chosen = slice(None) if running is None else running[users]
            batch, users = batch[chosen], users[chosen]
            if not len(users):
                continue
            here = torch.from_numpy(users).to(self._device)
            local = {name: tensor[here] for name, tensor in tensors.items()}
            terms[users] += self._terms(held.rows, batch).cpu().numpy()
            for value, places in self._summed(local, held.rows, batch):
                np.add.at(total, users[places.cpu().numpy()], value.double().cpu().numpy())
        with np.errstate(invalid="ignore"):
            return np.where(terms > 0, total / terms, np.nan)

    def _terms(self, rows: Rows, batch: NDArray[np.int64]) -> Tensor:
        weights = rows.weights[batch] * (batch >= 0)[..., None]
        return torch.from_numpy(np.maximum(weights.sum(axis=(1, 2)), 1).astype(np.float32)).to(self._device)

    def _summed(self, local: Tensors, rows: Rows, batch: NDArray[np.int64]):  # noqa: ANN202
        """Pieces of (summed losses [places], the place in the batch's first dimension of each)."""
        to = self._device
        if not self._model.shape.top_layers:
            inside = batch >= 0
            features = torch.from_numpy(self._outputs.values[rows.input[batch]]).to(to)  # [users, rows, width]
            weights = torch.from_numpy(rows.weights[batch] * inside[..., None]).to(to)
            everyone = torch.arange(len(batch), device=to)
            logits = self._model.head_logits(features, local, everyone)
            yield self._losses(logits, torch.from_numpy(rows.targets[batch]).to(to), weights).sum(dim=1), everyone
            return
        place, _ = np.nonzero(batch >= 0)
        flat = batch[batch >= 0]
        for piece in length_cut(self._outputs.lengths[rows.input[flat]], PIECE[torch.device(to).type]):
            mine = np.sort(piece)  # rows of a user side by side
            row, user = flat[mine], torch.from_numpy(place[mine]).to(to)
            logits = self._model.logits(*self._outputs.batch(rows.input[row], to), local, user)
            targets, weights = torch.from_numpy(rows.targets[row]).to(to), torch.from_numpy(rows.weights[row]).to(to)
            yield self._losses(logits, targets, weights), user

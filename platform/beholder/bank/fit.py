"""Training a bank: many users' tensors in one pass over shared trunk outputs, each user as if alone.

What a user's tensors become depends on that user's rows, the settings and the seed, and on nobody else: the loss is a
mean per user, batches are drawn per user, and so are step counts, moments, clipping, decay of the rate and stopping.
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
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from beholder.bank.layers import Shapes, Tensors, start
from beholder.bank.optimizer import UserAdam

Batch = NDArray[np.int64]
"""Row positions [users, rows], -1 = none."""


class BankTraining(BaseModel):
    """How a user's tensors are trained.

    Args:
        epochs: at most.
        patience: epochs without a lower loss on the user's own validation rows before the user stops. The best epoch is
            kept, where it is surely better than the shared model; else the user has nothing of their own.
        caution: how sure: by so many standard errors of the mean over these rows (1 is the one-standard-error rule of
            Breiman et al. 1984). Users with few rows need more of a difference.
        batch_size: of the user's rows, per step.
        learning_rate: at the user's first step; falls to zero over the user's steps (half a cosine).
        pull: toward the shared model: half of it times the squared distance is added to the user's summed loss. A
            Gaussian prior of this precision around the shared model, which weighs the less the more a user has judged.
        clip: norm of the user's gradient.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=30, ge=1)
    patience: int = Field(default=6, ge=1)
    caution: float = Field(default=0.5, ge=0)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    pull: float = Field(default=10.0, ge=0)
    clip: float = Field(default=1.0, gt=0)


class Examples(Protocol):
    """Users' rows, ordered by user, and how far users' tensors are from them. See `judgements.Judgements`.

    Attributes:
        rows: int64 [users], how many each has.
        asked: float64 [users], how many terms the summed loss of all of them has.
    """

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


@dataclass(frozen=True)
class BankFit:
    """A trained bank.

    Attributes:
        tensors: name -> [users, ...].
        epoch: int64 [users], the epoch kept; 0 = on the user's validation rows none was surely better than the shared
            model, or the user has no rows to learn from.
        loss, shared_loss: float64 [users], mean loss on the user's validation rows of what is kept, and of the shared
            model; NaN for users without any.
    """

    tensors: Tensors
    epoch: NDArray[np.int64]
    loss: NDArray[np.float64]
    shared_loss: NDArray[np.float64]


def fit_bank(
    shapes: Shapes,
    users: Sequence[str],
    train: Examples,
    valid: Examples,
    settings: BankTraining,
    *,
    seed: int,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BankFit:
    """Train every user's tensors.

    Args:
        shapes: of one user's tensors.
        users: names; with the seed they decide the order of each user's rows.
        train, valid: rows to learn from, and to choose the epoch by. A user without the latter keeps the last epoch.
        settings: see there.
        seed: of order and start.
        device: where.
        progress: told (epochs done, epochs at most).
    """
    count = len(users)
    tensors = start(shapes, count, seed, device)
    best = {name: tensor.clone() for name, tensor in tensors.items()}
    optimizer = UserAdam(tensors, settings.clip)
    schedule = _Schedule(users, train.rows, settings, seed)
    held_out = _held_out(valid.rows)
    asked = train.asked

    shared_rows = _row_losses(valid, held_out, tensors, np.ones(count, dtype=bool))
    best_rows, user_of = shared_rows.copy(), np.repeat(np.arange(count), valid.rows)
    shared_loss = _means(shared_rows, valid)
    best_loss, best_epoch = shared_loss.copy(), np.zeros(count, dtype=np.int64)
    running = train.rows > 0
    for epoch in range(1, settings.epochs + 1):
        for batch, moving in schedule.epoch(running):
            here = torch.from_numpy(moving).to(device)
            local = {name: tensor.index_select(0, here).requires_grad_() for name, tensor in tensors.items()}
            _backward(train, batch, local)
            pull = torch.from_numpy(settings.pull / np.maximum(asked[moving], 1)).float().to(device)
            gradients = {name: _pulled(name, tensor, pull) for name, tensor in local.items()}
            optimizer.step(here, gradients, torch.from_numpy(schedule.rates(moving)).float().to(device))
        rows = _row_losses(valid, held_out, tensors, running)
        loss = _means(rows, valid)
        better = running & ((loss < best_loss) | np.isnan(shared_loss))
        best_loss[better], best_epoch[better] = loss[better], epoch
        best_rows[better[user_of]] = rows[better[user_of]]
        keep = torch.from_numpy(np.flatnonzero(better)).to(device)
        for name, tensor in tensors.items():
            best[name][keep] = tensor[keep]
        running &= (epoch - best_epoch) < settings.patience
        progress(epoch, settings.epochs)
        if not running.any():
            break
    unsure = ~np.isnan(shared_loss) & ~_surely_better(best_rows, shared_rows, valid.rows, settings.caution)
    best_epoch[unsure], best_loss[unsure] = 0, shared_loss[unsure]
    nothing = torch.from_numpy(best_epoch == 0).to(device)
    for tensor in best.values():
        tensor[nothing] = 0  # nothing of their own, not even a random `down`
    return BankFit(best, best_epoch, best_loss, shared_loss)


def _backward(train: Examples, batch: Batch, local: Tensors) -> None:
    """Gradients of the sum over users of each user's mean loss, into `local`."""
    device = next(iter(local.values())).device
    share = torch.from_numpy(1 / np.maximum(train.terms(batch), 1)).to(device)  # [users]
    for loss, place, _ in train.losses(local, batch):
        (loss * share[place]).sum().backward()


def _pulled(name: str, tensor: Tensor, pull: Tensor) -> Tensor:
    """A tensor's gradient, and the pull toward zero. `down` is not pulled: alone it changes nothing."""
    gradient = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
    if name.endswith(".down"):
        return gradient
    return gradient + pull.view(-1, *[1] * (tensor.dim() - 1)) * tensor.detach()


@torch.no_grad()
def _row_losses(
    valid: Examples, held_out: list[tuple[Batch, NDArray[np.int64]]], tensors: Tensors, running: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The loss of each row: float64 [rows]; NaN for rows of users who are not running."""
    found = np.full(int(valid.rows.sum()), np.nan)
    for whole, users_of in held_out:
        chosen = running[users_of]
        if not chosen.any():
            continue
        here = torch.from_numpy(users_of[chosen])
        local = {name: tensor[here.to(tensor.device)] for name, tensor in tensors.items()}
        for loss, _, rows in valid.losses(local, whole[chosen]):
            found[rows] = loss.double().cpu().numpy()
    return found


def _means(row_losses: NDArray[np.float64], valid: Examples) -> NDArray[np.float64]:
    """Each user's mean loss over what they were asked: float64 [users]; NaN for users without rows, or not running."""
    total = np.bincount(np.repeat(np.arange(len(valid.rows)), valid.rows), row_losses, len(valid.rows))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(valid.rows > 0, total / valid.asked, np.nan)


def _surely_better(
    own: NDArray[np.float64], shared: NDArray[np.float64], rows: NDArray[np.int64], caution: float
) -> NDArray[np.bool_]:
    """Whose rows are better by more than `caution` standard errors of the mean difference: bool [users]."""
    user, better = np.repeat(np.arange(len(rows)), rows), shared - own
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(user, better, len(rows)) / rows
        spread = np.bincount(user, (better - mean[user]) ** 2, len(rows)) / (rows - 1)
        return (rows > 1) & (mean > caution * np.sqrt(spread / rows))


def _held_out(rows: NDArray[np.int64], size: int = 64) -> list[tuple[Batch, NDArray[np.int64]]]:
    """All rows in batches of at most `size` a user, each with the users it is of."""
    first = np.cumsum(rows) - rows
    batches = []
    for start_at in range(0, int(rows.max(initial=0)), size):
        users = np.flatnonzero(rows > start_at)
        place = start_at + np.arange(min(size, int(rows.max()) - start_at))
        batches.append((np.where(place < rows[users][:, None], first[users][:, None] + place, -1), users))
    return batches


class _Schedule:
    """Whose rows come when: for every user an order and a learning rate of their own."""

    def __init__(self, users: Sequence[str], rows: NDArray[np.int64], settings: BankTraining, seed: int) -> None:
        self._rows, self._first = rows, np.cumsum(rows) - rows
        self._size, self._settings = settings.batch_size, settings
        self._per_epoch = -(-rows // self._size)
        self._taken = np.zeros(len(users), dtype=np.int64)
        self._random = [np.random.default_rng(_user_seed(seed, user)) for user in users]

    def epoch(self, running: NDArray[np.bool_]) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
        """(row positions, the users they are of) of every step."""
        mine = np.flatnonzero(running)
        steps = int(self._per_epoch[mine].max(initial=0))
        order = np.full((len(mine), steps * self._size), -1, dtype=np.int64)
        for place, user in enumerate(mine):
            order[place, : self._rows[user]] = self._first[user] + self._random[user].permutation(self._rows[user])
        for step in range(steps):
            moving = self._per_epoch[mine] > step
            yield order[moving, step * self._size : (step + 1) * self._size], mine[moving]
            self._taken[mine[moving]] += 1

    def rates(self, users: NDArray[np.int64]) -> NDArray[np.float64]:
        """Each user's learning rate at their present step."""
        share = self._taken[users] / (self._per_epoch[users] * self._settings.epochs)
        return self._settings.learning_rate * 0.5 * (1 + np.cos(math.pi * share))


def _user_seed(seed: int, user: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {user}".encode()).digest()[:8], "little")

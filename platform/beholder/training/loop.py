"""The loop that fine-tunes: AdamW, warm-up, cosine, clipping, early stopping on the reported metric."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from beholder.training.batches import training_batches
from beholder.training.context import Progress, Training, no_epochs
from beholder.training.data_parallel import ALONE, Team
from beholder.training.user_adam import UserAdam
from beholder.util.errors import MethodError


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: at most.
        patience: epochs without a better validation score before stopping.
        batch_size: distinct texts per step.
        learning_rate: of the adapter and the head, at its peak.
        weight_decay, warmup (share of all steps), clip (norm of the gradient): as usual.
        known: epochs after which to stop, and keep what there is then; None: the validation score decides. Rates fall
            as if there were `epochs` either way.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip: float = 1.0
    known: int | None = None


@dataclass(frozen=True)
class UserVectors:
    """Trained vectors of users: a user who is not in a batch is not moved by it, neither by momentum nor by decay.

    The gradient is clipped together with that of all other parameters, and there is no weight decay: it would pull a
    user the more, the more often they are seen.

    Attributes:
        weight: [users, width], one of the network's parameters.
        slots: int64 [rows], the user of each training row; -1 for none.
    """

    weight: Tensor
    slots: NDArray[np.int64]


Losses = Callable[[NDArray[np.int64], NDArray[np.int64]], Iterator[tuple[Tensor, int]]]
"""Rows of a batch, and which of them to read -> pieces as (its share of the batch's loss, tokens read).

Gradients of pieces add up: a batch of any size goes through the network in pieces of bounded size (gradient
accumulation), and may be read by several workers (`team`).
"""


def nothing_between() -> None:
    """For those who do nothing between epochs."""


def fine_tune(
    network: nn.Module,
    lengths: NDArray[np.int64],
    text: NDArray[np.int64],
    losses: Losses,
    schedule: Schedule,
    validate: Callable[[], float],
    *,
    seed: int,
    progress: Progress,
    after_epoch: Callable[[int, float], None] = no_epochs,
    team: Team = ALONE,
    users: UserVectors | None = None,
    between: Callable[[], None] = nothing_between,
) -> Training:
    """Fit the trainable parameters of `network` in place and leave the best epoch's in it.

    Args:
        network: where it computes, frozen parameters already set so.
        lengths: int64 [rows], tokens of each training row.
        text: int64 [rows], which distinct text each is of, numbered from 0 without gaps.
        losses: see there.
        schedule: see there.
        validate: the validation score of the network as it is; higher is better.
        seed: of order and dropout.
        progress: called after each step.
        after_epoch, team: see `Context`.
        users: vectors of users among the parameters, which have an optimizer of their own.
        between: called by every worker when an epoch is over, before its score.

    Raises:
        MethodError: the loss is no longer a number.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed + team.rank)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = _adamw([each for each in parameters if users is None or each is not users.weight], schedule)
    of_users = None if users is None else UserAdam({"users": users.weight}, clip=math.inf)
    steps = math.ceil((int(text.max()) + 1) / schedule.batch_size) * schedule.epochs
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, schedule.warmup))

    best, best_epoch, state = -math.inf, 0, _trainable(network)
    history: list[dict[str, float]] = []
    step, tokens, seconds = 0, 0, 0.0
    for epoch in range(1, (schedule.known or schedule.epochs) + 1):
        network.train()
        started, total = time.perf_counter(), 0.0
        batches = training_batches(lengths, text, schedule.batch_size, rng)
        for batch in batches:
            for parameter in parameters:  # users' vectors, which are not the optimizer's, among them
                parameter.grad = None
            for value, read in losses(batch, batch[team.share(lengths[batch])]):
                value.backward()
                tokens, total = tokens + read, total + float(value.detach())
            team.add_gradients(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, schedule.clip)
            optimizer.step()
            if users is not None and of_users is not None:
                _step_users(users, of_users, batch, float(rates.get_last_lr()[0]))
            rates.step()
            step += 1
            progress(step, steps, f"epoch {epoch}/{schedule.epochs}")
        seconds += time.perf_counter() - started
        total = team.total(total)
        if not math.isfinite(total):
            raise MethodError(f"the training loss is {total} in epoch {epoch}. Lower learning_rate.")
        between()
        score = team.agreed(validate)
        history.append({"epoch": epoch, "loss": total / len(batches), "valid_macro_f1": score})
        progress(step, steps, f"epoch {epoch}/{schedule.epochs}, valid macro-F1 {100 * score:.1f}")
        after_epoch(epoch, score)
        if schedule.known or score > best:
            best, best_epoch, state = score, epoch, _trainable(network)
        elif epoch - best_epoch >= schedule.patience:
            break
    network.load_state_dict(state, strict=False)
    network.eval()
    count = sum(parameter.numel() for parameter in parameters)
    speed = team.total(tokens) / seconds
    return Training(seconds, tokens_per_second=speed, history=history, parameters=count, epochs=best_epoch)


def _adamw(parameters: Sequence[nn.Parameter], schedule: Schedule) -> torch.optim.AdamW:
    """Weight decay is of matrices alone, not of biases and norms."""
    decay = [parameter for parameter in parameters if parameter.ndim >= 2]
    rest = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": decay, "weight_decay": schedule.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate)


@torch.no_grad()
def _step_users(users: UserVectors, optimizer: UserAdam, batch: NDArray[np.int64], rate: float) -> None:
    """Update the vectors of the users in a batch, on all workers alike; other users' vectors do not move."""
    gradient = users.weight.grad
    assert gradient is not None  # of the whole batch: `Team.add_gradients` has put it together
    slots = np.unique(users.slots[batch])
    here = torch.from_numpy(slots[slots >= 0]).to(gradient.device)
    optimizer.step(here, {"users": gradient[here]}, torch.full((len(here),), rate, device=gradient.device))


def _rate(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over the first share of steps, then half a cosine down to zero."""
    ramp = max(1, int(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def _trainable(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.detach().clone() for name, parameter in network.named_parameters() if parameter.requires_grad
    }

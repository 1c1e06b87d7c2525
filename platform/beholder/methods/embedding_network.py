"""A small network on the pooled features of a frozen classifier, with or without an embedding for each user.

With users it is HuBi-Medium (Kocoń et al. 2021, "Learning Personal Human Biases and Representations for Subjective
Tasks in Natural Language Processing", ICDM) and close to the annotator embeddings of Deng et al. 2023 ("You Are What
You Annotate", Findings of EMNLP): what a text is like and what a user is like are multiplied, feature by feature, and
every user has a bias for each label besides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from beholder.data.annotations import Annotations
from beholder.data.task import Kind, Task
from beholder.evaluation.headline import scored_headline
from beholder.evaluation.metrics import fit_thresholds
from beholder.training.context import Progress, Training
from beholder.training.losses import loss, probabilities
from beholder.util.errors import MethodError

NOBODY = -1
"""The slot of a user who is not known."""
PAIRS = 1 << 20
"""Numbers that scoring makes at once, of rows times hidden features or of users times labels times hidden features."""


class EmbeddingNetwork(nn.Module):
    """Logits of a text as a user reads it: S f + V [softplus(W f + c) * softplus(U e_u + d)] + b_u.

    `e_u` and `b_u` are those of nobody in particular plus what is the user's own, so that zeros stand for a stranger.
    Without users (`dim` 0) the logits are S f + V softplus(W f + c) + b. `f` are the features, standardised over the
    training texts.

    Args:
        width: of the features.
        labels: how many.
        hidden: features that text and user are compared in.
        dim: of a user's embedding; 0 for a network without users.
        users: how many have one.
        dropout: share of the features, and of the hidden features, left out at each step of training.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, labels: int, hidden: int, dim: int, users: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.head = nn.Linear(width, labels)
        self.text = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, labels, bias=False)
        self.reader: nn.Linear | None = None
        if dim:
            self.reader = nn.Linear(dim, hidden)
            self.nobody = nn.Parameter(torch.randn(dim) * 0.1)
            self.embeddings = nn.Parameter(torch.randn(users, dim) * 0.01)
            self.biases = nn.Parameter(torch.zeros(users, labels))

    def start_from(self, head: nn.Linear, features: Tensor) -> None:
        """Begin as the classifier whose features these are: its head, and a hidden part that adds nothing yet.

        features: float32 [texts, width], of the training texts.
        """
        with torch.no_grad():
            self.mean.copy_(features.mean(dim=0))
            self.scale.copy_(features.std(dim=0, correction=0).clamp(min=1e-6))
            weight, bias = head.weight.float(), head.bias.float()
            self.head.weight.copy_(weight * self.scale)
            self.head.bias.copy_(bias + weight @ self.mean)
            self.out.weight.zero_()

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What does not depend on the user: logits [texts, labels] and hidden features [texts, hidden]."""
        f = (features - self.mean) / self.scale
        f = functional.dropout(f, self.dropout, self.training)
        return self.head(f), functional.softplus(self.text(f))

    def users(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """What users multiply the hidden features by [users, hidden], and their biases [users, labels].

        slots: int64 [users]; `NOBODY` is a stranger.
        """
        assert self.reader is not None
        known = (slots >= 0)[:, None]
        place = slots.clamp(min=0)
        own = torch.where(known, self.embeddings[place], 0.0)  # [users, dim]
        gate = functional.softplus(self.reader(self.nobody + own))
        return gate, torch.where(known, self.biases[place], 0.0)

    def forward(self, features: Tensor, slots: Tensor) -> Tensor:
        """Logits of (text, user) rows: [rows, width] and int64 [rows] -> [rows, labels]."""
        return self.combine(*self.read(features), slots)

    def combine(self, logits: Tensor, hidden: Tensor, slots: Tensor) -> Tensor:
        """The same from what `read` gave of each row's text."""
        if self.reader is None:
            return logits + self.out(functional.dropout(hidden, self.dropout, self.training))
        gate, bias = self.users(slots)
        return logits + self.out(functional.dropout(hidden * gate, self.dropout, self.training)) + bias

    def everybody(self, logits: Tensor, hidden: Tensor, slots: Tensor) -> Tensor:
        """Logits of every text for every user: [texts, users, labels]. Users' gates and the output are one matrix.

        logits, hidden: of the texts, from `read`. slots: int64 [users].
        """
        if self.reader is None:
            return (logits + self.out(hidden))[:, None].expand(-1, len(slots), -1)
        said = logits.new_empty(len(hidden), len(slots), logits.shape[1])
        for some in torch.arange(len(slots)).split(max(1, PAIRS // self.out.weight.numel())):
            gate, bias = self.users(slots[some])
            weights = gate[:, None] * self.out.weight  # [users, labels, hidden]
            said[:, some] = logits[:, None] + torch.einsum("th,ulh->tul", hidden, weights) + bias
        return said


@dataclass(frozen=True)
class Judged:
    """Judgements over features that are computed already.

    Attributes:
        features: float32 [texts, width].
        text: int64 [rows], positions among them.
        slots: int64 [rows], users; `NOBODY` where unknown.
        labels: float32 [rows, labels], NaN = not asked.
    """

    features: Tensor
    text: Tensor
    slots: Tensor
    labels: Tensor


@dataclass(frozen=True)
class JointTraining:
    """How a network is trained.

    Attributes:
        epochs: maximum. patience: epochs without a lower validation log-loss before training stops.
        batch_size: judgements per step.
        learning_rate: constant, of Adam.
        weight_decay: of the network (decoupled, as in AdamW).
        user_decay: of what is users' own: it pulls them toward nobody in particular.
        strangers: weight of the loss of all rows read as a stranger's, so that users never seen are predicted well; the
            rest is that of the rows read as their users'.
        known: epochs after which to stop, and keep what there is then; None: the validation log-loss decides.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    user_decay: float
    strangers: float
    known: int | None = None


def train_jointly(
    network: EmbeddingNetwork,
    train: Judged,
    valid: Judged,
    task: Task,
    settings: JointTraining,
    *,
    seed: int,
    progress: Progress,
    after_epoch: Callable[[int, float], None],
) -> Training:
    """Fit the network and all users' embeddings in place; leave those of the epoch with the lowest validation log-loss,
    or of the last where it is known how many there are to be.

    Raises:
        MethodError: the loss is no longer a number.
    """
    started = time.perf_counter()
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    own = [each for name, each in network.named_parameters() if name in ("embeddings", "biases")]
    shared = [each for name, each in network.named_parameters() if name not in ("embeddings", "biases")]
    groups = [{"params": shared, "weight_decay": settings.weight_decay}]
    groups += [{"params": own, "weight_decay": settings.user_decay}] if own else []
    adam = torch.optim.AdamW(groups, lr=settings.learning_rate)
    asked = ~torch.isnan(train.labels)
    targets, weights = torch.nan_to_num(train.labels), asked.float()
    rows = len(train.text)
    steps = -(-rows // settings.batch_size)
    history: list[dict[str, float]] = []
    best, best_epoch, state = math.inf, 0, _copy(network)
    for epoch in range(1, (settings.known or settings.epochs) + 1):
        network.train()
        order = torch.from_numpy(rng.permutation(rows))
        total = torch.zeros((), dtype=torch.float64)
        for step, batch in enumerate(order.split(settings.batch_size)):
            logits, hidden = network.read(train.features[train.text[batch]])
            slots, terms = train.slots[batch], _terms(weights[batch], task.kind)
            value = loss(network.combine(logits, hidden, slots), targets[batch], weights[batch], task.kind) / terms
            if settings.strangers:
                said = network.combine(logits, hidden, torch.full_like(slots, NOBODY))
                of_strangers = loss(said, targets[batch], weights[batch], task.kind) / terms
                value = (1 - settings.strangers) * value + settings.strangers * of_strangers
            adam.zero_grad()
            value.backward()
            adam.step()
            total += value.detach().cpu().double()
            progress((epoch - 1) * steps + step + 1, settings.epochs * steps, f"epoch {epoch}/{settings.epochs}")
        if not math.isfinite(float(total)):
            raise MethodError(f"the loss became {float(total)} in epoch {epoch}. Lower learning_rate.")
        valid_loss, score = validation(network, valid, task)
        history.append(
            {"epoch": epoch, "loss": float(total) / steps, "valid_loss": valid_loss, "valid_macro_f1": score}
        )
        after_epoch(epoch, score)
        if settings.known or valid_loss < best:
            best, best_epoch, state = valid_loss, epoch, _copy(network)
        elif epoch - best_epoch >= settings.patience:
            break
    network.load_state_dict(state)
    network.eval()
    count = sum(each.numel() for each in network.parameters())
    return Training(time.perf_counter() - started, history=history, parameters=count, epochs=best_epoch)


def validation(network: EmbeddingNetwork, rows: Judged, task: Task) -> tuple[float, float]:
    """Mean log-loss of what was asked, and the headline under the thresholds that fit these rows best."""
    kind = task.kind
    logits = score_rows(network, rows.features, rows.text, rows.slots)
    asked = ~torch.isnan(rows.labels)
    weights = asked.float()
    value = float(loss(logits, torch.nan_to_num(rows.labels), weights, kind)) / _terms(weights, kind)
    scores, labels = probabilities(logits, kind).cpu().numpy(), rows.labels.cpu().numpy()
    return value, scored_headline(scores, fit_thresholds(scores, labels, kind, task.scaled), labels, task) or 0.0


def score_rows(network: EmbeddingNetwork, features: Tensor, text: Tensor, slots: Tensor) -> Tensor:
    """Logits of (text, user) rows, each text read once: [rows, labels]. Leaves the network in evaluation mode."""
    network.eval()
    with torch.inference_mode():
        logits, hidden = network.read(features)
        size = max(1, PAIRS // hidden.shape[1])
        pieces = zip(text.split(size), slots.split(size), strict=True)
        return torch.cat([network.combine(logits[mine], hidden[mine], users) for mine, users in pieces])


def _terms(weights: Tensor, kind: Kind) -> float:
    """How many terms a summed loss has; 1 where nothing was asked."""
    return max(1.0, float(weights.amax(dim=1).sum() if kind == "multiclass" else weights.sum()))


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def in_order(rows: Annotations) -> NDArray[np.int64]:
    """Row positions sorted by user, text and labels, so that the order of a table does not change what is learned."""
    texts, text = rows.distinct_texts
    rank = np.empty(len(texts), dtype=np.int64)
    rank[sorted(range(len(texts)), key=texts.__getitem__)] = np.arange(len(texts))
    return np.lexsort([*np.nan_to_num(rows.labels, nan=-1.0).T, rank[text], rows.by_user[1]]).astype(np.int64)

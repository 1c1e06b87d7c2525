"""One frozen classifier read by many users at once, each with their own tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from beholder.adapters.layers import (
    ActiveUsers,
    HeadForm,
    Shapes,
    head_delta,
    head_deltas_of_all,
    head_shapes,
    init_tensors,
    inject_user_lora,
)
from beholder.adapters.trunk import Tail, Trunk
from beholder.models.classifier import Classifier
from beholder.training.user_adam import Tensors
from beholder.util.errors import BankError
from beholder.util.strict_model import Section

PIECE = {"cpu": 2_048, "cuda": 32_768}
"""Positions, with padding, that go through the tail at once, by kind of device: what fits its caches."""


class BankShape(Section):
    """What each user has of their own.

    Args:
        top_layers: in how many layers, counted from the top; 0 is the head alone.
        rank, alpha: of the low-rank changes, as in LoRA: they are scaled by alpha / rank.
        targets: which projections are changed: `auto` (PEFT's choice for the architecture), `all-linear`, or names.
        head: `bias` (a number a label), `gate` (a number a feature, and the bias), `full` (a weight matrix, and the
            bias).
    """

    top_layers: int = Field(default=0, ge=0)
    rank: int = Field(default=4, ge=1)
    alpha: float = Field(default=8, gt=0)
    targets: Literal["auto", "all-linear"] | tuple[str, ...] = "auto"
    head: HeadForm = "full"


class BankModel:
    """The shared classifier in two parts, and the shapes of what is a user's own.

    The tail is run on the trunk's states; see `trunk` and `outputs`. One `BankModel` may score in several threads.
    """

    def __init__(self, network: Classifier, shape: BankShape) -> None:
        self.network = network.eval()
        self.shape = shape
        self.labels, self.width = network.head.weight.shape
        self.shapes: Shapes = head_shapes(shape.head, self.labels, self.width)
        self.scale = shape.alpha / shape.rank
        self._reader = ActiveUsers()
        self._trunk: Trunk | None = None
        self._tail: Tail | None = None
        if shape.top_layers:
            self._trunk = Trunk(network.model, shape.top_layers)
            self._tail = Tail(network.model, shape.top_layers)
            targets = pefts_choice(network) if shape.targets == "auto" else shape.targets
            self.shapes |= inject_user_lora(self._tail.top, targets, shape.rank, self.scale, self._reader)
        for parameter in network.parameters():
            parameter.requires_grad_(False)

    @property
    def piece(self) -> int:
        """Positions, with padding, that go through the tail at once."""
        return PIECE[self.network.head.weight.device.type]

    @torch.no_grad()
    def trunk(self, tokens: Tensor, mask: Tensor, slot: Tensor | None = None) -> tuple[Tensor, NDArray[np.int64]]:
        """What does not depend on the user: [rows, positions, width], and how many positions of each row count.

        For the head alone that is one position, the pooled text. See `Classifier.inputs` for the arguments.
        """
        if self._trunk is None:
            return self.network.features(tokens, mask, slot)[:, None], np.ones(len(tokens), dtype=np.int64)
        called, mask = self.network.inputs(tokens, mask, slot)
        return self._trunk(called), mask.sum(dim=1).cpu().numpy()

    def logits(self, values: Tensor, mask: Tensor, tensors: Tensors, user: Tensor) -> Tensor:
        """Logits of each row under its user's tensors: [rows, labels].

        Args:
            values, mask: of the trunk's outputs, [rows, positions, width] and [rows, positions].
            tensors: of some users.
            user: int64 [rows], positions among them.
        """
        features = self._features(values, mask, tensors, user)
        return self.network.head(features) + head_delta(features[:, None], self.network.head, tensors, user)[:, 0]

    def head_logits(self, features: Tensor, tensors: Tensors, user: Tensor) -> Tensor:
        """The same for the head alone, rows ordered by user: [users, rows, width] -> [users, rows, labels]."""
        return self.network.head(features) + head_delta(features, self.network.head, tensors, user)

    def everybody(self, values: Tensor, mask: Tensor, tensors: Tensors) -> Tensor:
        """Logits of every text under every user's tensors: [texts, users, labels].

        With the head alone, the heads of all users are one matrix; otherwise the tail is run for every user.
        """
        head = self.network.head
        if self._tail is None:
            features = values[:, 0].to(head.weight.dtype)  # [texts, width]
            return head(features)[:, None] + head_deltas_of_all(features, head, tensors)
        users = len(tensors["head.bias"])
        said = head.weight.new_empty(len(values), users, self.labels)
        size = max(1, self.piece // values.shape[1])
        for text in range(len(values)):
            for first in range(0, users, size):
                some = torch.arange(first, min(first + size, users), device=values.device)
                said[text, some] = self.logits(
                    values[text].expand(len(some), -1, -1), mask[text].expand(len(some), -1), tensors, some
                )
        return said

    @torch.no_grad()
    def pooled(self, values: Tensor, mask: Tensor) -> Tensor:
        """Pooled texts of the global model: [rows, width]. See `logits` for the arguments."""
        nobody = init_tensors(self.shapes, 1, 0, str(values.device))
        return self._features(values, mask, nobody, torch.zeros(len(values), dtype=torch.int64, device=values.device))

    def _features(self, values: Tensor, mask: Tensor, tensors: Tensors, user: Tensor) -> Tensor:
        dtype = self.network.head.weight.dtype  # a base may compute in bfloat16; heads do not
        if self._tail is None:
            return values[:, 0].to(dtype)
        self._reader.tensors, self._reader.user = tensors, user
        return self.network.pool(self._tail(values, mask), mask).to(dtype)


def pefts_choice(network: Classifier) -> Sequence[str]:
    """The projections PEFT changes by default in this architecture."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOICE

    kind = str(network.model.config.model_type)  # type: ignore[union-attr]
    if kind not in CHOICE:
        raise BankError(f"bank.targets: auto does not know {kind!r} models. Name the projections, or say all-linear.")
    return CHOICE[kind]

"""What is a user's own: low-rank changes to projections in the top layers, and a change of the head.

All are differences from the frozen global model. A user whose tensors are zero is the global model, bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from beholder.training.user_adam import Tensors
from beholder.util.errors import BankError

"""Per-user tensors by name, users along the first dimension."""
Shapes = dict[str, tuple[int, ...]]
"""One user's tensors: name -> shape."""
HeadForm = Literal["bias", "gate", "full"]


class ActiveUsers(threading.local):
    """Who reads each row of the batch that runs in this thread."""

    tensors: Tensors
    user: Tensor


class UserLinear(nn.Module):
    """A shared projection plus each row's own low-rank change: y = W x + scale * up[u] down[u] x (LoRA, 2106.09685)."""

    def __init__(self, shared: nn.Module, name: str, scale: float, reader: ActiveUsers) -> None:
        super().__init__()
        self.shared, self.name, self.scale, self.reader = shared, name, scale, reader

    @property
    def weight(self) -> Tensor:
        """The shared weight: some models look at its type before they call a projection (T5)."""
        return self.shared.weight  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """x: [rows, tokens, in] -> [rows, tokens, out]."""
        tensors, user = self.reader.tensors, self.reader.user
        down = tensors[f"{self.name}.down"].index_select(0, user).to(x.dtype)  # [rows, rank, in]
        up = tensors[f"{self.name}.up"].index_select(0, user).to(x.dtype)  # [rows, out, rank]
        return self.shared(x) + self.scale * (x @ down.mT @ up.mT)


def inject_user_lora(
    top: Mapping[str, nn.Module],
    targets: Sequence[str] | Literal["all-linear"],
    rank: int,
    scale: float,
    reader: ActiveUsers,
) -> Shapes:
    """Put a `UserLinear` around every targeted projection in the given layers; returns what one user then has.

    Args:
        top: the layers, by name.
        targets: last parts of module names, as PEFT has them, or `all-linear`.
        rank, scale: of the change.
        reader: holds the users of the present batch, for the projections.

    Raises:
        BankError: nothing in these layers has such a name; lists what there is.
    """
    shapes: Shapes = {}
    seen: set[str] = set()
    for layer_name, layer in top.items():
        for path, parent, last, module in _projections(layer, layer_name):
            seen.add(last)
            if targets != "all-linear" and last not in targets:
                continue
            name = path.removeprefix("base_model.model.")
            setattr(parent, last, UserLinear(module, name, scale, reader))
            shapes[f"{name}.down"] = (rank, int(module.in_features))  # type: ignore[arg-type]
            shapes[f"{name}.up"] = (int(module.out_features), rank)  # type: ignore[arg-type]
    if not shapes:
        raise BankError(
            f"bank.targets: none of {', '.join(targets)} is in the top layers. There are: {', '.join(sorted(seen))}."
        )
    return shapes


def head_shapes(form: HeadForm, labels: int, width: int) -> Shapes:
    """What one user has of the head."""
    own: dict[HeadForm, Shapes] = {
        "bias": {},
        "gate": {"head.gate": (width,)},
        "full": {"head.weight": (labels, width)},
    }
    return {"head.bias": (labels,), **own[form]}


def head_delta(features: Tensor, head: nn.Linear, tensors: Tensors, user: Tensor) -> Tensor:
    """What a user's own head adds to the shared head's logits.

    `bias`: b[u]. `gate`: W (f * g[u]) + b[u], the pooled features times 1 + g[u]. `full`: V[u] f + b[u].

    Args:
        features: [groups, rows, width], each group one user's.
        head: the shared one, weight W [labels, width].
        tensors: `head.bias` [users, labels] and, by form, `head.gate` [users, width] or `head.weight` [users, labels,
            width].
        user: int64 [groups].

    Returns:
        [groups, rows, labels]
    """
    bias = tensors["head.bias"].index_select(0, user)  # [groups, labels]
    change = bias[:, None].to(features.dtype).expand(-1, features.shape[1], -1)
    if "head.weight" in tensors:
        weight = tensors["head.weight"].index_select(0, user).to(features.dtype)  # [groups, labels, width]
        return torch.baddbmm(change, features, weight.mT)
    if "head.gate" in tensors:
        gate = tensors["head.gate"].index_select(0, user).to(features.dtype)  # [groups, width]
        return change + functional.linear(features * gate[:, None], head.weight)
    return change


def head_deltas_of_all(features: Tensor, head: nn.Linear, tensors: Tensors) -> Tensor:
    """The same for every text and every user: the heads of all users are one matrix.

    features: [texts, width]; returns [texts, users, labels].
    """
    bias = tensors["head.bias"].to(features.dtype)  # [users, labels]
    if "head.weight" in tensors:
        weight = tensors["head.weight"].to(features.dtype)  # [users, labels, width]
        return (features @ weight.flatten(0, 1).mT).view(len(features), *bias.shape) + bias
    if "head.gate" in tensors:
        gate = tensors["head.gate"].to(features.dtype)  # [users, width]
        return functional.linear(features[:, None] * gate, head.weight) + bias
    return bias.expand(len(features), -1, -1)


def own_head(head: nn.Linear, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """Every user's head as they read with it: weight [users, labels, width] and bias [users, labels]."""
    change: Tensor | float = 0.0
    if "head.weight" in tensors:
        change = tensors["head.weight"]
    elif "head.gate" in tensors:
        change = head.weight * tensors["head.gate"][:, None]
    bias = head.bias + tensors["head.bias"]
    return (head.weight + change).expand(len(bias), -1, -1), bias


def init_tensors(shapes: Shapes, users: int, seed: int, device: str) -> Tensors:
    """Tensors of users who do not differ from the global model yet: all zero, but for `down`.

    `down` is drawn (Kaiming uniform, as PEFT does) once for all users: nobody's start depends on who else is there.
    """
    tensors: Tensors = {}
    for place, (name, shape) in enumerate(sorted(shapes.items())):
        if name.endswith(".down"):
            drawn = torch.empty(shape)
            bound = shape[1] ** -0.5
            drawn.uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed + place))
            tensors[name] = drawn.to(device).repeat(users, 1, 1)
        else:
            tensors[name] = torch.zeros(users, *shape, device=device)
    return tensors


def _projections(layer: nn.Module, name: str) -> list[tuple[str, nn.Module, str, nn.Module]]:
    """(path, parent, last part of the name, module) of every projection; what lies inside one (PEFT's parts) is not."""
    found: list[tuple[str, nn.Module, str, nn.Module]] = []
    for last, child in layer.named_children():
        path = f"{name}.{last}"
        if hasattr(child, "in_features") and hasattr(child, "out_features"):
            found.append((path, layer, last, child))
        else:
            found += _projections(child, path)
    return found

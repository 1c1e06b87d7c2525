"""A frozen model in two parts: the trunk, run once per distinct input, and the tail, run per (input, user).

Both are cut from the model as it is, whatever its architecture: a copy of its modules that shares every weight, in
which the layers that belong to the other part pass on what they get. So masks, positions and norms stay the model's own
code.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from beholder.util.errors import BankError


def layer_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The name and the list of a model's layers: of all lists of the length in its config, the one with most weights.

    Raises:
        BankError: there is none.
    """
    count = int(getattr(model.config, "num_hidden_layers", 0))  # type: ignore[arg-type]
    found = [
        (sum(parameter.numel() for parameter in module.parameters()), name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not found:
        raise BankError(
            f"{type(model).__name__} has no list of {count} layers to split it at. "
            "Use bank.top_layers: 0, the head alone."
        )
    _, name, layers = max(found, key=lambda each: each[0])
    return name, layers


def sharing_copy(model: nn.Module) -> nn.Module:
    """A copy of all modules that shares all weights: its structure may be changed, the model's stays."""
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


class Trunk:
    """The model up to its top `top_layers` layers: [rows, tokens] -> hidden states [rows, tokens, width]."""

    def __init__(self, model: nn.Module, top_layers: int) -> None:
        self.model = sharing_copy(model)
        _, layers = layer_list(self.model)
        if not 1 <= top_layers <= len(layers):
            raise BankError(
                f"bank.top_layers: {top_layers} of {len(layers)} layers. Give 0 (head alone) to {len(layers)}."
            )
        layers[len(layers) - top_layers] = _Stop()

    @torch.no_grad()
    def __call__(self, called: Mapping[str, Tensor]) -> Tensor:
        """`called`: what the model would be called with."""
        try:
            self.model(**called)
        except _Reached as reached:
            return reached.hidden
        raise BankError(f"{type(self.model).__name__} ended before its top layers. Use bank.top_layers: 0.")


class Tail:
    """The top `top_layers` layers and what follows them: hidden states -> last hidden states."""

    def __init__(self, model: nn.Module, top_layers: int) -> None:
        self.model = sharing_copy(model)
        name, layers = layer_list(self.model)
        self._state = threading.local()  # one tail may serve several threads
        below = len(layers) - top_layers
        for place in range(below):
            layers[place] = _Skipped(layers[place], self._state, first=place == 0)
        layers[below].register_forward_pre_hook(self._inject, with_kwargs=True)
        self.top: dict[str, nn.Module] = {f"{name}.{place}": layers[place] for place in range(below, len(layers))}
        """The layers themselves, by name in the model."""

    def __call__(self, hidden: Tensor, mask: Tensor, depth: Tensor | None = None) -> Tensor:
        """hidden: [rows, tokens, width] -> [rows, tokens, width].

        Args:
            hidden: the trunk's states.
            mask: int64 [rows, tokens], or [rows, 1, tokens, tokens], see `language_model.added_mask`.
            depth: int64 [rows, tokens], positions where they do not count up from 0.
        """
        hidden = hidden.to(next(self.model.parameters()).dtype)
        self._state.hidden = hidden
        # What the model's embeddings make of this input is thrown away; its shape makes masks and positions.
        placed = {} if depth is None else {"position_ids": depth}
        return self.model(inputs_embeds=hidden, attention_mask=mask, use_cache=False, **placed).last_hidden_state

    def _inject(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args:
            return (self._state.hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._state.hidden}


class _Reached(Exception):  # noqa: N818 - not an error: how a forward pass ends early
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class _Stop(nn.Module):
    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        raise _Reached(hidden_states)


class _Skipped(nn.Module):
    """Stands for a layer of the trunk: passes on what it gets.

    Where layers hand on more than hidden states (T5: the position bias that its first layer makes), the first one is
    run for that, and the others pass it on.
    """

    def __init__(self, original: nn.Module, state: threading.local, first: bool) -> None:
        super().__init__()
        self.original, self.state = original, state
        self.asks: bool = first

    def __getattr__(self, name: str) -> Any:
        """Attributes a model asks its layers for (`attention_type`, say) are those of the layer that is stood for."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("original"), name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.asks:
            with torch.no_grad():
                made = self.original(hidden_states, *args, **kwargs)
            self.asks = isinstance(made, tuple)
            self.state.rest = made[1:] if isinstance(made, tuple) else ()
        return (hidden_states, *self.state.rest) if getattr(self.state, "rest", ()) else hidden_states

"""LoRA around a base: put on, measured, written and read back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import nn

from beholder.models.info import BaseFacts
from beholder.models.loading import Base
from beholder.models.precision import split_form
from beholder.util.errors import MethodError, first_line
from beholder.util.strict_model import Section

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LoraSettings(Section):
    """The adapter's shape. `targets`: `auto` (PEFT's choice for the architecture), `all-linear`, or module names."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: Literal["auto", "all-linear"] | tuple[str, ...] = "auto"


def check_trainable(base: BaseFacts, lora: LoraSettings | None) -> None:
    """Raise a MethodError where all weights are to be trained that are not held in float32: small steps round away."""
    if lora is None and base.form != "float32":
        raise MethodError(
            f"lora: null trains all weights, and those of base {base.name!r} are not float32. "
            f"Give lora, or use {split_form(base.name)[0]}."
        )


def adapted(base: Base, lora: LoraSettings | None) -> PreTrainedModel:
    """The base's model with a new adapter to train, or all its weights to train where `lora` is None.

    Raises:
        MethodError: `lora.targets` names nothing in this base, or its weights cannot be trained.
    """
    check_trainable(base, lora)
    if lora is None:
        base.model.requires_grad_(True)
        return base.model
    from peft import LoraConfig, get_peft_model

    # What is frozen needs no dropout of its own: noise in it only blurs what the adapter learns, at a third of the
    # time of a step. The adapter has its own.
    for module in base.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if base.form == "nf4":  # who asks for it has little memory: forward passes are made again for their gradients
        base.model.gradient_checkpointing_enable({"use_reentrant": False})
    targets = lora.targets
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=None if targets == "auto" else targets if isinstance(targets, str) else list(targets),
    )
    try:
        model: Any = get_peft_model(base.model, config)
    except ValueError as error:
        reason = first_line(error)
        raise MethodError(f"methods.*.lora.targets does not fit base {base.name!r}: {reason}") from error
    return model


def fold(model: Any, base: Base) -> None:
    """Add a trained adapter to the weights, so that a forward pass does not pay for it.

    In 4-bit weights it would be lost: there it stays beside them. (In bfloat16 the sum is as near to float32 as the two
    apart: of SmolLM2's logits, 0.09 to 0.13 against 0.10 to 0.15 on average.)
    """
    if hasattr(model, "peft_config") and base.form != "nf4":
        model.merge_adapter()


def adapter_checksum(model: nn.Module, base: Base) -> str:
    """SHA-256 of the base and of what was trained: the adapter, or all weights where there is none."""
    digest = hashlib.sha256(base.identity.encode())
    whole = not hasattr(model, "peft_config")
    for name, tensor in sorted(model.state_dict().items()):
        if whole or ".lora_" in name:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_adapter(model: Any, base: Base, folder: Path) -> None:
    """The adapter in PEFT's own format under `adapter/`, or all weights as `weights.safetensors`."""
    from safetensors.torch import save_model

    if hasattr(model, "peft_config"):
        model.peft_config["default"].base_model_name_or_path = base.name
        model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    else:
        save_model(model, str(folder / "weights.safetensors"))


def load_adapter(model: Any, folder: Path) -> Any:
    """`model` with what `save_adapter` wrote.

    Raises:
        MethodError: a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        if (folder / "adapter").is_dir():
            from peft import PeftModel

            return PeftModel.from_pretrained(model, str(folder / "adapter"), is_trainable=False)
        load_model(model, str(folder / "weights.safetensors"))
    except (OSError, SafetensorError, ValueError) as error:
        raise MethodError(f"{folder}: damaged or incomplete weights ({error}). Fit it again.") from error
    return model

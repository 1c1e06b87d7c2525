"""What a base's folder states of it, before any weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from beholder.models.catalog import resolve
from beholder.models.precision import Form, split_form
from beholder.util.errors import BaseModelError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Architecture = Literal["encoder", "decoder", "encoder-decoder"]


@dataclass
class BaseFacts:
    """What can be known of a base at once.

    Attributes:
        name: as in the experiment file.
        form: how its weights are held.
        folder: where they are.
        architecture: how it reads; an encoder-decoder is used through its encoder where only features are needed.
        tokenizer: has a padding token.
        width: size of a hidden state.
        max_tokens: longest input, in tokens.
    """

    name: str
    form: Form
    folder: Path
    architecture: Architecture
    tokenizer: PreTrainedTokenizerBase
    width: int
    max_tokens: int


def facts_of(name: str, download: bool = False) -> BaseFacts:
    """Read a base's configuration and tokenizer.

    Args:
        name: see `catalog.resolve`.
        download: allow a download from the hub.

    Raises:
        BaseModelError: not found, or the folder does not hold a model transformers knows.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    folder = resolve(name, download)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise BaseModelError(f"base {name!r}: {folder} could not be loaded: {reason}") from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise BaseModelError(
                f"base {name!r}: its tokenizer has neither a padding nor an end token; set one in its folder."
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    limit = int(getattr(config, "max_position_embeddings", None) or 512)
    return BaseFacts(
        name=name,
        form=split_form(name)[1],
        folder=folder,
        architecture=_architecture(config),
        tokenizer=tokenizer,
        width=int(config.hidden_size),
        max_tokens=min(limit, 4096),
    )


def _architecture(config: Any) -> Architecture:
    """Of the models that can fill masks some can also be set to write (BERT): by default, they are encoders."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    if config.is_encoder_decoder:
        return "encoder-decoder"
    masked, causal = type(config) in MODEL_FOR_MASKED_LM_MAPPING, type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    return "decoder" if causal and (not masked or getattr(config, "is_decoder", False)) else "encoder"

"""One function that loads any base: encoder, decoder or encoder-decoder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from beholder.bases.catalog import resolve
from beholder.errors import BaseModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Architecture = Literal["encoder", "decoder", "encoder-decoder"]


@dataclass
class Base:
    """A pretrained model, and what goes with it.

    Attributes:
        name: as the experiment file says it.
        folder: where the weights are.
        architecture: how it reads; an encoder-decoder is used through its encoder where only features are asked for.
        model: gives `last_hidden_state` float [rows, tokens, width]; with its language-modelling head where that was
            asked for (see `language`).
        tokenizer: has a padding token.
        width: size of a hidden state.
        max_tokens: longest input, in tokens.
        checksum: SHA-256 of the weight files; a bundle is only served on the very base it was trained on.
    """

    name: str
    folder: Path
    architecture: Architecture
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    width: int
    max_tokens: int
    checksum: str


def load_base(name: str, download: bool = False, head: bool = False) -> Base:
    """Load a base by name, folder or hub id, in float32 on the CPU.

    Args:
        name: see `catalog.resolve`.
        download: allow the hub to be asked.
        head: with the head that makes it write.

    Raises:
        BaseModelError: not found, the folder does not hold a model transformers can load, or it has no such head.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    folder = resolve(name, download)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.is_encoder_decoder:
            architecture: Architecture = "encoder-decoder"
        else:
            architecture = "encoder" if _is_encoder(config) else "decoder"
        if head and architecture == "encoder":
            raise BaseModelError(
                f"base {name!r}: a {config.model_type} encoder cannot write, which query and lm need. "
                "Use cls with it, or another base."
            )
        kinds: dict[Architecture, Any] = {"encoder-decoder": AutoModelForSeq2SeqLM, "decoder": AutoModelForCausalLM}
        kind = kinds[architecture] if head else AutoModel
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = kind.from_pretrained(folder, local_files_only=True, dtype="float32", use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BaseModelError(f"base {name!r}: {folder} could not be loaded: {reason}") from error
    if architecture == "encoder-decoder" and not head:
        model = model.get_encoder()
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise BaseModelError(
                f"base {name!r}: its tokenizer has neither a padding nor an end token; set one in its folder."
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    model.config.use_cache = False  # features are read in one pass
    limit = int(getattr(config, "max_position_embeddings", None) or 512)
    return Base(
        name=name,
        folder=folder,
        architecture=architecture,
        model=model.eval(),
        tokenizer=tokenizer,
        width=int(config.hidden_size),
        max_tokens=min(limit, 4096),
        checksum=weights_checksum(folder),
    )


@lru_cache(maxsize=16)
def weights_checksum(folder: Path) -> str:
    """SHA-256 over the names and bytes of a model folder's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BaseModelError(f"{folder}: no safetensors weights. Save the model with save_pretrained first.")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


@lru_cache(maxsize=16)
def tokenizer_checksum(folder: Path) -> str:
    """SHA-256 over the files that decide how text becomes tokens."""
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model")
    digest = hashlib.sha256()
    for name in names:
        if (folder / name).is_file():
            digest.update(name.encode())
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _is_encoder(config: Any) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    return masked and (not causal or not getattr(config, "is_decoder", False))

"""One function that loads any base: encoder, decoder or encoder-decoder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.models.info import Architecture, BaseFacts, facts_of
from beholder.models.precision import loading_options, require_form
from beholder.util.errors import BaseModelError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Base(BaseFacts):
    """A pretrained model, and what goes with it.

    Attributes:
        model: gives `last_hidden_state` float [rows, tokens, width]; with its language-modelling head where that was
            requested (see `language`).
        checksum: SHA-256 of the weight files; a bundle is only served on the very base it was trained on.
    """

    model: PreTrainedModel
    checksum: str

    @property
    def identity(self) -> str:
        """Of its weights as they are held: equal for the same model, bit for bit."""
        return f"{self.checksum} {self.form}"


def load_base(name: str, download: bool = False, head: bool = False) -> Base:
    """Load a base by name, folder or hub id, held in the form in its name: on the CPU, but for 4-bit weights.

    Args:
        name: see `catalog.resolve`.
        download: allow a download from the hub.
        head: with the head that makes it write.

    Raises:
        BaseModelError: not found, the folder does not hold a model transformers can load, it has no such head, or its
            weights cannot be held so here.
    """
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    require_form(name)
    facts = facts_of(name, download)
    if head and facts.architecture == "encoder":
        raise BaseModelError(
            f"base {name!r} is an encoder, a base that cannot write, which query and lm need. "
            "Use cls with it, or another base."
        )
    kinds: dict[Architecture, Any] = {"encoder-decoder": AutoModelForSeq2SeqLM, "decoder": AutoModelForCausalLM}
    kind = kinds[facts.architecture] if head else AutoModel
    try:
        model: Any = kind.from_pretrained(
            facts.folder, local_files_only=True, use_safetensors=True, **loading_options(facts.form)
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = first_line(error)
        raise BaseModelError(f"base {name!r}: {facts.folder} could not be loaded: {reason}") from error
    if facts.architecture == "encoder-decoder" and not head:
        model = model.get_encoder()
    model.config.use_cache = False  # features are read in one pass
    return Base(**vars(facts), model=model.eval(), checksum=weights_checksum(facts.folder))


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


def weights_bytes(name: str) -> int:
    """How large a base's safetensors files are together. name: see `catalog.resolve`."""
    return sum(file.stat().st_size for file in facts_of(name).folder.glob("*.safetensors"))


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

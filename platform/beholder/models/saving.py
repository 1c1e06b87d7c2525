"""Writing a model as an ordinary folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_base(model: Any, tokenizer: Any, folder: Path) -> None:
    """Config, safetensors and tokenizer, as `save_pretrained` writes them, in whichever process this is.

    Where several workers compute together, transformers lets the first alone write: the others would leave a folder
    without weights. Here each writes for itself, or one of a machine for all (`atomic.made_once`).
    """
    model.should_save_on_this_rank = lambda is_main_process: True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

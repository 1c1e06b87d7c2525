"""Tiny, randomly initialised models of real architectures.

They know nothing; they exist so that every code path an architecture takes can be run anywhere, in a second, without a
download. Their tokenizer reads bytes, so that no vocabulary is needed either.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.models.saving import save_base
from beholder.util.atomic import made_once

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ARCHITECTURES = ("bert", "llama", "mistral", "phi", "gpt-neox", "t5")
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def make_tiny(architecture: str, folder: Path, seed: int = 0) -> Path:
    """Write a model folder as `save_pretrained` would: config, safetensors, tokenizer.

    Args:
        architecture: one of `ARCHITECTURES`.
        folder: written whole or not at all; left alone where it is there already.
        seed: of the random weights.
    """
    with made_once(folder, "config.json") as written:
        if written:
            _make(architecture, written, seed)
    return folder


def _make(architecture: str, folder: Path, seed: int) -> None:
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = _byte_tokenizer(adds_start=architecture != "t5", adds_end=architecture in ("bert", "t5"))
        save_base(_BUILDERS[architecture](len(tokenizer)), tokenizer, folder)


def _byte_tokenizer(adds_start: bool, adds_end: bool) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*_SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    template = ("<s> " if adds_start else "") + "$A" + (" </s>" if adds_end else "")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, vocabulary[token]) for token in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )


def _bert(vocabulary: int) -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(vocab_size=vocabulary, pad_token_id=0, **_SIZES, intermediate_size=64))


def _llama(vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, intermediate_size=64, **_SIZES, **_TOKENS))


def _mistral(vocabulary: int) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {**_SIZES, "num_key_value_heads": 2}
    return MistralForCausalLM(MistralConfig(vocab_size=vocabulary, intermediate_size=64, **sizes, **_TOKENS))


def _phi(vocabulary: int) -> Any:
    from transformers import PhiConfig, PhiForCausalLM

    return PhiForCausalLM(PhiConfig(vocab_size=vocabulary, intermediate_size=64, **_SIZES, **_TOKENS))


def _gpt_neox(vocabulary: int) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=vocabulary, intermediate_size=64, **_SIZES, **_TOKENS))


def _t5(vocabulary: int) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            pad_token_id=0,
            eos_token_id=2,
        )
    )


_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
_TOKENS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BUILDERS: dict[str, Callable[[int], Any]] = {
    "bert": _bert,
    "llama": _llama,
    "mistral": _mistral,
    "phi": _phi,
    "gpt-neox": _gpt_neox,
    "t5": _t5,
}

"""How surprised a base is by a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from beholder.models.language_model import LanguageModel
from beholder.models.prefix_tree import PACK, packs


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean -log p of a text's tokens. `tokens`: how many were scored."""

    value: float
    tokens: int


@torch.inference_mode()
def perplexity(language: LanguageModel, text: str, window: int) -> Perplexity:
    """Of a text as a base's own tokens, without special ones, cut into windows that are read each on its own.

    A decoder predicts every token of a window but the first. An encoder-decoder reads the first half and predicts
    the second: what was done to either of its parts is seen.

    Args:
        language: the model as it is; training mode is left.
        text: longer than a token.
        window: tokens, at most; the last window is what is left.
    """
    tokenizer = language.base.tokenizer
    tokens: Sequence[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[assignment]
    windows = [tuple(tokens[start : start + window]) for start in range(0, len(tokens), window)]
    prompts: dict[tuple[tuple[int, ...]], int] = {}
    answers: list[tuple[int, tuple[int, ...]]] = []
    for each in windows:
        if len(each) > 1:
            read = len(each) // 2 if language.encodes else 1
            answers.append((prompts.setdefault((each[:read],), len(prompts)), each[read:]))
    language.model.eval()
    device = next(language.model.parameters()).device
    total, count = 0.0, 0
    for pack in packs(language, list(prompts), answers, PACK[device.type]):
        said = language.logits(pack.hidden(language)).float()  # [places, vocabulary]
        place, token = (torch.from_numpy(each).to(device) for each in (pack.asked.place, pack.asked.token))
        total += float(functional.cross_entropy(said[place], token, reduction="none").double().sum())
        count += len(token)
    return Perplexity(math.exp(total / count), count)

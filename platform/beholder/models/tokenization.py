"""From texts to batches of token ids, cut by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beholder.data.texts import SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """Tokenised inputs.

    Attributes:
        tokens: one list of token ids per input.
        lengths: int64 [inputs].
        pad: the padding token's id.
    """

    tokens: list[list[int]]
    lengths: NDArray[np.int64]
    pad: int

    def batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Token ids int64 [rows, tokens] and mask int64 [rows, tokens], padded to the longest of these rows only."""
        width = int(self.lengths[rows].max())
        ids = np.full((len(rows), width), self.pad, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for position, row in enumerate(rows):
            length = self.lengths[row]
            ids[position, :length] = self.tokens[row]
            mask[position, :length] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int) -> Encoded:
    """Tokenise, cutting texts longer than `max_tokens`.

    A text with context (`SEPARATOR` between the two) is read as two segments; see `_pair`. Where it is too long its
    context is cut, from the start: what is judged, and what it directly answers, stay.
    """
    tokens = tokenizer(
        [text.replace(SEPARATOR, " ") for text in texts],
        truncation=True,
        max_length=max_tokens,
        return_attention_mask=False,
    )["input_ids"]
    for row, text in enumerate(texts):
        if SEPARATOR in text:
            tokens[row] = _pair(tokenizer, text, max_tokens)  # type: ignore[index]
    lists: list[list[int]] = [list(ids) or [int(tokenizer.pad_token_id)] for ids in tokens]  # type: ignore[arg-type, call-overload]
    lengths = np.asarray([len(ids) for ids in lists], dtype=np.int64)
    return Encoded(lists, lengths, int(tokenizer.pad_token_id))  # type: ignore[arg-type]


def _pair(tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> list[int]:
    """Token ids of a context and of what is judged.

    As a pair of segments where the base's tokenizer puts a separator between them; else as one text with an empty line
    between. Segment ids are not passed on: bases are read without them.
    """
    context, _, judged = text.rpartition(SEPARATOR)
    context = context.replace(SEPARATOR, "\n")
    special = set(tokenizer.all_special_ids)
    alone = _ids(tokenizer, context, add_special_tokens=False)
    whole = _ids(tokenizer, context, judged)
    start = next((place for place, token in enumerate(whole) if token not in special), 0)
    if len(whole) <= start + len(alone) or whole[start + len(alone)] not in special:
        alone = _ids(tokenizer, f"{context}\n\n", add_special_tokens=False)
        whole = _ids(tokenizer, f"{context}\n\n{judged}")
        start = next((place for place, token in enumerate(whole) if token not in special), 0)
    over = len(whole) - most
    if over <= 0:
        return whole
    if over < len(alone):
        return whole[:start] + whole[start + over :]
    return _ids(tokenizer, judged, truncation=True, max_length=most)


def _ids(tokenizer: PreTrainedTokenizerBase, *texts: str, **settings: Any) -> list[int]:
    return list(tokenizer(*texts, verbose=False, **settings)["input_ids"])  # type: ignore[arg-type]


def tokens_at_once(device: str) -> int:
    """How many tokens, with padding, go through a network at once: what suits a CPU's caches, or fills a GPU."""
    return 16_384 if torch.device(device).type == "cuda" else 2_048


def length_cut(lengths: NDArray[np.int64], token_budget: int) -> Iterator[NDArray[np.int64]]:
    """Every row once, longest first, each batch at most `token_budget` tokens with its padding (or one row)."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, token_budget // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count

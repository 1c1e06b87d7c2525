"""Many answers to many prompts, every shared beginning read once.

Prompts of one arm begin alike: the instruction is the same in all, a text the same for all its readers (or a reader's
examples the same for all texts), and all answers to a prompt share the prompt. Laid side by side as one tree of tokens,
in which a token attends to its own ancestors only and its position is its depth, each part costs one reading (key and
value reuse by attention mask, as in tree attention, 2305.09781). The answers' hidden states are those of each
(prompt, answer) read alone, and gradients flow through them all the same, so that training shares what scoring shares.
What scoring reads in several trees that begin alike, it reads once (`TreeReader`).

An encoder-decoder encodes each distinct prompt once; its answers are rows of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from beholder.models.language_model import LanguageModel, added_mask

Segments = tuple[tuple[int, ...], ...]
AnswerTokens = tuple[int, ...]
PACK = {"cpu": 768, "cuda": 4_096}
"""Tokens of one tree, by kind of device: more share more, and attention grows with the square."""


@dataclass(frozen=True)
class Targets:
    """Which answer token each hidden state has to say.

    Attributes:
        request: int64 [answer tokens], which (prompt, answer) it is of.
        place: int64 [answer tokens], the row of the pack's hidden states that predicts it.
        token: int64 [answer tokens].
    """

    request: NDArray[np.int64]
    place: NDArray[np.int64]
    token: NDArray[np.int64]


@dataclass(frozen=True)
class PrefixTree:
    """Some requests as one tree of tokens, for a decoder.

    Attributes:
        tokens, depth, parent: int64 [nodes]; a node's parent stands before it, -1 at a root.
        predicts: int64 [places], the nodes whose hidden state predicts what comes next.
        asked: see there.
    """

    tokens: NDArray[np.int64]
    depth: NDArray[np.int64]
    parent: NDArray[np.int64]
    predicts: NDArray[np.int64]
    asked: Targets

    @property
    def size(self) -> int:
        """Tokens that are read."""
        return len(self.tokens)

    def sees(self) -> NDArray[np.bool_]:
        """Whether a node is itself or an ancestor of another's: bool [nodes, nodes]."""
        seen = np.eye(self.size, dtype=bool)
        for node, parent in enumerate(self.parent):
            if parent >= 0:
                seen[node, :node] = seen[parent, :node]
        return seen

    def hidden(self, language: LanguageModel) -> Tensor:
        """[places, width]"""
        body: Any = language.body
        said = body(**trees_called([self], body), use_cache=False).last_hidden_state[0]
        return said[torch.from_numpy(self.predicts).to(said.device)]

    def begins_like(self, other: PrefixTree) -> int:
        """How many nodes at the root of both are the same, one after another, and predict nothing."""
        most = min(self.size, other.size, int(self.predicts.min()), int(other.predicts.min()))
        line = np.arange(most) - 1
        same = (
            (self.tokens[:most] == other.tokens[:most]) & (self.parent[:most] == line) & (other.parent[:most] == line)
        )
        return most if same.all() else int(same.argmin())


def trees_called(trees: Sequence[PrefixTree], body: nn.Module) -> dict[str, Tensor]:
    """What a decoder is called with to read trees, one a row: input_ids, position_ids, attention_mask.

    Rows are padded on the right with nodes that see themselves alone; nothing else sees them.
    """
    like = next(body.parameters())
    width = max(tree.size for tree in trees)
    ids, depth = np.zeros((len(trees), width), dtype=np.int64), np.zeros((len(trees), width), dtype=np.int64)
    sees = np.tile(np.eye(width, dtype=bool), (len(trees), 1, 1))
    for row, tree in enumerate(trees):
        ids[row, : tree.size], depth[row, : tree.size] = tree.tokens, tree.depth
        sees[row, : tree.size, : tree.size] = tree.sees()
    return {
        "input_ids": torch.from_numpy(ids).to(like.device),
        "position_ids": torch.from_numpy(depth).to(like.device),
        "attention_mask": added_mask(torch.from_numpy(sees)[:, None].to(like.device), like.dtype),
    }


@dataclass(frozen=True)
class EncodedPrompts:
    """Some requests for an encoder-decoder: prompts that are encoded, answers that are decoded.

    Attributes:
        prompts: token ids of each distinct prompt.
        of: int64 [answers], the prompt of each.
        answers: token ids of each.
        asked: see there; places run along all answers' tokens.
    """

    prompts: list[tuple[int, ...]]
    of: NDArray[np.int64]
    answers: list[AnswerTokens]
    asked: Targets

    @property
    def size(self) -> int:
        """Tokens that are read."""
        return sum(map(len, self.prompts)) + sum(map(len, self.answers))

    def hidden(self, language: LanguageModel) -> Tensor:
        """[places, width]"""
        model: Any = language.model
        inner = model.get_base_model() if hasattr(model, "peft_config") else model
        device, pad = _device(language), int(language.base.tokenizer.pad_token_id)  # type: ignore[arg-type]
        ids, mask = _padded(self.prompts, pad)
        encoded = inner.get_encoder()(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        start = getattr(inner.config, "decoder_start_token_id", None)
        start = pad if start is None else int(start)  # T5 starts its answers with padding
        inputs, inside = _padded([(start, *answer[:-1]) for answer in self.answers], pad)
        of = torch.from_numpy(self.of).to(device)
        said = language.body(
            input_ids=inputs.to(device),
            attention_mask=inside.to(device),
            encoder_hidden_states=encoded.index_select(0, of),
            encoder_attention_mask=mask.to(device).index_select(0, of),
            use_cache=False,
        ).last_hidden_state  # [answers, longest, width]
        return said[inside.bool().to(device)]


Pack = PrefixTree | EncodedPrompts


class TreeReader:
    """Reads packs one after another, without gradients; what one begins with as the last did is not read again.

    Attributes:
        tokens: how many were read.
    """

    def __init__(self, language: LanguageModel) -> None:
        self._language, self.tokens = language, 0
        self._last: PrefixTree | None = None
        self._cache: Any = None

    def hidden(self, pack: Pack) -> Tensor:
        """[places, width]"""
        if isinstance(pack, EncodedPrompts):
            self.tokens += pack.size
            return pack.hidden(self._language)
        from transformers import DynamicCache

        body: Any = self._language.body
        known = pack.begins_like(self._last) if self._last is not None else 0
        if known and self._last is not None:
            self._cache.crop(known - self._last.size)  # a number of tokens to take off, below zero
        else:
            self._cache = DynamicCache()
        called = trees_called([pack], body)
        said = body(
            input_ids=called["input_ids"][:, known:],
            position_ids=called["position_ids"][:, known:],
            attention_mask=called["attention_mask"][:, :, known:],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = said.past_key_values
        self._last = pack if self._cache is not None else None
        self.tokens += pack.size - known
        return said.last_hidden_state[0, torch.from_numpy(pack.predicts - known).to(called["input_ids"].device)]


def packs(
    language: LanguageModel, prompts: Sequence[Segments], answers: Sequence[tuple[int, AnswerTokens]], budget: int
) -> Iterator[Pack]:
    """Cut requests into packs of about `budget` tokens; requests of one prompt stay together.

    Args:
        language: decides how they are read.
        prompts: distinct.
        answers: (position of the prompt, tokens) of each request; `Asked.request` counts them.
        budget: tokens read at once; one prompt with all its answers may be more.
    """
    of: list[list[int]] = [[] for _ in prompts]
    for request, (prompt, _) in enumerate(answers):
        of[prompt].append(request)
    build = _rows if language.encodes else _tree
    size = _row_tokens if language.encodes else _tree_tokens
    some: list[int] = []
    read: set[Segments] = set()
    total = 0
    for prompt in sorted((place for place in range(len(prompts)) if of[place]), key=lambda place: prompts[place]):
        added = size(prompts[prompt], [answers[request][1] for request in of[prompt]], read)
        if some and total + added > budget:
            yield build(prompts, answers, of, some)
            some, read, total = [], set(), 0
            added = size(prompts[prompt], [answers[request][1] for request in of[prompt]], read)
        some.append(prompt)
        read |= {prompts[prompt][:depth] for depth in range(1, len(prompts[prompt]) + 1)}
        total += added
    if some:
        yield build(prompts, answers, of, some)


def _tree_tokens(prompt: Segments, answers: list[AnswerTokens], read: set[Segments]) -> int:
    new = sum(len(prompt[depth - 1]) for depth in range(1, len(prompt) + 1) if prompt[:depth] not in read)
    return new + sum(len(answer) - 1 for answer in answers)


def _row_tokens(prompt: Segments, answers: list[AnswerTokens], read: set[Segments]) -> int:
    return sum(map(len, prompt)) + sum(map(len, answers))


def _tree(
    prompts: Sequence[Segments], answers: Sequence[tuple[int, AnswerTokens]], of: list[list[int]], some: list[int]
) -> PrefixTree:
    tokens: list[int] = []
    depth: list[int] = []
    parents: list[int] = []
    ends: dict[Segments | tuple[int, AnswerTokens], int] = {(): -1}  # beginnings that were laid down -> their last node

    def lay(parent: int, segment: Sequence[int]) -> int:
        for token in segment:
            depth.append(depth[parent] + 1 if parent >= 0 else 0)
            parents.append(parent)
            tokens.append(token)
            parent = len(tokens) - 1
        return parent

    places: dict[int, int] = {}
    request_of, place_of, token_of = [], [], []
    for prompt in some:
        segments = prompts[prompt]
        for count in range(1, len(segments) + 1):
            if segments[:count] not in ends:
                ends[segments[:count]] = lay(ends[segments[: count - 1]], segments[count - 1])
        for request in of[prompt]:
            node, answer = ends[segments], answers[request][1]
            for count, token in enumerate(answer):
                request_of.append(request)
                place_of.append(places.setdefault(node, len(places)))
                token_of.append(token)
                if count < len(answer) - 1:
                    key = (prompt, answer[: count + 1])
                    if key not in ends:
                        ends[key] = lay(node, (token,))
                    node = ends[key]
    return PrefixTree(
        np.asarray(tokens),
        np.asarray(depth),
        np.asarray(parents),
        np.fromiter(places, np.int64, len(places)),
        Targets(np.asarray(request_of), np.asarray(place_of), np.asarray(token_of)),
    )


def _rows(
    prompts: Sequence[Segments], answers: Sequence[tuple[int, AnswerTokens]], of: list[list[int]], some: list[int]
) -> EncodedPrompts:
    requests = [request for prompt in some for request in of[prompt]]
    lengths = np.asarray([len(answers[request][1]) for request in requests])
    place = {prompt: position for position, prompt in enumerate(some)}
    return EncodedPrompts(
        [tuple(token for segment in prompts[prompt] for token in segment) for prompt in some],
        np.asarray([place[answers[request][0]] for request in requests]),
        [answers[request][1] for request in requests],
        Targets(
            np.repeat(requests, lengths),
            np.arange(int(lengths.sum())),
            np.asarray([token for request in requests for token in answers[request][1]]),
        ),
    )


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, int64 [rows, longest], padded on the right."""
    width = max(map(len, rows))
    ids, mask = np.full((len(rows), width), pad, dtype=np.int64), np.zeros((len(rows), width), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)], mask[place, : len(row)] = row, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _device(language: LanguageModel) -> torch.device:
    return next(language.model.parameters()).device

"""Prompts as tokens, part by part, within what the base reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from beholder.prompts.prompt import CUTS, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Segments = tuple[tuple[int, ...], ...]
"""A prompt's tokens, part by part: prompts that begin with the same parts share them."""
_MARK = "\ue000"


class PromptTokens:
    """Tokenises prompts for one base.

    Parts are tokenised one by one, so that a part has the same tokens wherever it stands; the base's chat template, or
    its start and end tokens where it has none, go around the whole.

    Attributes:
        chat: whether the base has a chat template.
        lead: what stands between a prompt and its answer: nothing after a template, else a space.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, system: str | None = None) -> None:
        self._tokenizer, self._limit = tokenizer, max_tokens
        self.chat = bool(getattr(tokenizer, "chat_template", None))
        self.lead = "" if self.chat else " "
        self._ids = lru_cache(maxsize=65_536)(self._tokenise)
        self._before, self._after = self._chat_frame(system) if self.chat else self._special_tokens()

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a piece of text, without special tokens."""
        return self._ids(text)

    def segments(self, prompts: Sequence[Prompt], room: int) -> tuple[list[Segments], Counter[str]]:
        """Tokens of prompts, and how many prompts had to be cut where.

        Args:
            prompts: in any order.
            room: tokens to leave for the answer.
        """
        cuts: Counter[str] = Counter()
        return [self._fitted(prompt, self._limit - room, cuts) for prompt in prompts], cuts

    def _fitted(self, prompt: Prompt, limit: int, cuts: Counter[str]) -> Segments:
        cut: set[str] = set()
        for block in CUTS:
            while self.length(prompt) > limit and any(name == block for name, _ in prompt.blocks):
                prompt = prompt.without_last(block)
                cut.add(block)
        parts = [self._part(prompt, part) for part in prompt.parts]
        over = sum(map(len, (self._before, *parts, self._after))) - limit
        if over > 0:
            place = prompt.parts.index(prompt.text)
            parts[place] = parts[place][: max(1, len(parts[place]) - over)]
            cut.add("text")
        cuts.update(cut)
        return (self._before + parts[0], *parts[1:-1], parts[-1] + self._after)

    def length(self, prompt: Prompt) -> int:
        """Tokens of a prompt, uncut."""
        return len(self._before) + sum(len(self._part(prompt, part)) for part in prompt.parts) + len(self._after)

    def _part(self, prompt: Prompt, part: str) -> tuple[int, ...]:
        if part != prompt.user:
            return self.ids(part)
        return tuple(token for _, lines in prompt.blocks for line in lines for token in self.ids(line))

    def _tokenise(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]

    def _chat_frame(self, system: str | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        messages = [{"role": "user", "content": _MARK}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        framed = str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        before, _, after = framed.partition(_MARK)
        return self._tokenise(before), self._tokenise(after)

    def _special_tokens(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        bare = self._tokenise("a")
        whole = tuple(self._tokenizer("a")["input_ids"])  # type: ignore[arg-type]
        start = next(place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
        return whole[:start], whole[start + len(bare) :]

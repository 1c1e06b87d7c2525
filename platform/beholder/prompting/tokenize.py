"""Prompts as tokens, part by part, within what the base reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from beholder.prompting.builder import Prompt, shortened

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Segments = tuple[tuple[int, ...], ...]
"""A prompt's tokens, part by part: prompts that begin with the same parts share them."""
_ASKED, _ANSWERED = "\ue000", "\ue001"


class PromptTokens:
    """Tokenises prompts for one base.

    Parts are tokenised one by one, so that a part has the same tokens wherever it stands, and as a continuation of
    what stands before it: some tokenizers put a space before anything that stands alone. The base's chat template, or
    its start and end tokens where it has none, go around the whole. A text's own words are text: tokens that steer the
    base are none of its.

    Attributes:
        chat: whether the base has a chat template.
        end: the token that ends an answer: of a template, what it ends its own answers with; else the tokenizer's.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, system: str | None = None) -> None:
        self._tokenizer, self._limit = tokenizer, max_tokens
        self.chat = bool(getattr(tokenizer, "chat_template", None))
        self._ids = lru_cache(maxsize=65_536)(self._continued)
        self._start: tuple[int, ...] = ()
        self._stop: tuple[int, ...] = ()
        self._opening, self._closing, self._lead = "", "", " "
        self.end: int | None = tokenizer.eos_token_id  # type: ignore[assignment]
        if self.chat:
            self._opening, self._closing, self._lead, self.end = self._chat_frame(system)
        else:
            self._start, self._stop = self._special_tokens()

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a text at the beginning of a line, without special tokens."""
        return self._ids(text, "\n")

    def answer_ids(self, word: str) -> tuple[int, ...]:
        """Token ids of the first word of an answer."""
        return self._ids(self._lead + word, self._closing or ":", True)

    def further_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a continuation of a word."""
        return self._ids(text, "a", True)

    def segments(self, prompts: Sequence[Prompt], room: int) -> tuple[list[Segments], Counter[str]]:
        """Tokens of prompts, and how many prompts had to be cut where.

        Args:
            prompts: in any order.
            room: tokens to leave for the answer.
        """
        cuts: Counter[str] = Counter()
        return [self._fitted(prompt, self._limit - room, cuts) for prompt in prompts], cuts

    def length(self, prompt: Prompt) -> int:
        """Tokens of a prompt, uncut."""
        return sum(map(len, self._parts(prompt)))

    def _fitted(self, prompt: Prompt, limit: int, cuts: Counter[str]) -> Segments:
        prompt, cut = shortened(prompt, limit, self.length)
        parts = self._parts(prompt)
        over = sum(map(len, parts)) - limit
        if over > 0:
            place, line_end = prompt.parts.index(prompt.text), self.further_ids("\n")
            left = max(1, len(parts[place]) - over - len(line_end))
            parts[place] = self.ids(prompt.text.rstrip("\n"))[:left] + line_end
            cut.add("text")
        cuts.update(cut)
        return tuple(part for part in parts if part)

    def _parts(self, prompt: Prompt) -> list[tuple[int, ...]]:
        first, *middle = prompt.parts[: -1 if prompt.answer else None]
        return [
            self._start + self._ids(self._opening + first, "", True),
            *(self._part(prompt, part) for part in middle),
            self._ids(prompt.answer + self._closing, "\n", True) + self._stop,
        ]

    def _part(self, prompt: Prompt, part: str) -> tuple[int, ...]:
        if part != prompt.user:
            return self.ids(part)
        return tuple(token for _, lines in prompt.blocks for line in lines for token in self.ids(line))

    def _continued(self, text: str, after: str, steers: bool = False) -> tuple[int, ...]:
        """Token ids of a continuation of `after`, as far as tokens end there.

        `steers`: the words are the wording's or the template's own, and special tokens have their effect.
        """
        before, both = self._tokenise(after, steers), self._tokenise(after + text, steers)
        return both[len(before) :] if both[: len(before)] == before else self._tokenise(text, steers)

    def _tokenise(self, text: str, steers: bool = True) -> tuple[int, ...]:
        said = self._tokenizer(text, add_special_tokens=False, split_special_tokens=not steers)
        return tuple(said["input_ids"])  # type: ignore[arg-type]

    def _chat_frame(self, system: str | None) -> tuple[str, str, str, int | None]:
        """What stands before a prompt and behind it, then before an answer and behind it."""
        from jinja2.exceptions import TemplateError

        def render(messages: list[dict[str, str]], prompt: bool) -> str:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))

        asked, end = [{"role": "user", "content": _ASKED}], self._tokenizer.eos_token_id
        try:
            framed = render([{"role": "system", "content": system}, *asked] if system else asked, True)
        except TemplateError:  # some know no system messages
            framed = render(asked, True).replace(_ASKED, f"{system}\n\n{_ASKED}")
        opening, _, closing = framed.partition(_ASKED)
        try:
            answered = render([*asked, {"role": "assistant", "content": _ANSWERED}], False)
        except TemplateError:
            return opening, closing, "", end  # type: ignore[return-value]
        turn, _, after = answered.partition(_ASKED)[2].partition(_ANSWERED)
        if turn.startswith(closing):  # with what more stands before every answer, such as a thought that is left empty
            closing = turn
        stops = self._tokenise(after.strip())[:1]
        if stops and self._steers(stops[0]):
            end = stops[0]
        bare = closing.rstrip(" ")
        return opening, bare, closing[len(bare) :], end  # type: ignore[return-value]

    def _steers(self, token: int) -> bool:
        added = self._tokenizer.added_tokens_decoder  # type: ignore[attr-defined]
        return token in self._tokenizer.all_special_ids or (token in added and added[token].special)

    def _special_tokens(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        bare = self._tokenise("a")
        whole = tuple(self._tokenizer("a")["input_ids"])  # type: ignore[arg-type]
        start = next(place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
        return whole[:start], whole[start + len(bare) :]

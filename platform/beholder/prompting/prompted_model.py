"""A language model, the prompts of an arm, and what it makes of them: shared by prompting and by fine-tuning."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.models.info import BaseFacts
from beholder.models.language_model import LanguageModel, load_language_model
from beholder.models.prefix_tree import PACK, TreeReader, packs
from beholder.prompting.builder import Prompter, numbered, say_cuts
from beholder.prompting.config import PromptSettings
from beholder.prompting.constrained_decoding import AnswerSpace, Tokens, Walk, first_step, walk
from beholder.prompting.tokenize import PromptTokens, Segments
from beholder.util.atomic import atomic_write
from beholder.util.errors import MethodError

ROOM = 16
"""Tokens of a text there has to be room for, at least."""


def answer_space(base: BaseFacts, prompter: Prompter, max_tokens: int) -> tuple[PromptTokens, AnswerSpace]:
    """How a base reads prompts, and what it may answer: known without its weights.

    Raises:
        MethodError: in this base an answer has no end, or two labels are the same tokens; or instruction and answer
            leave no room for a text.
    """
    limit = min(max_tokens, base.max_tokens)
    tokens = PromptTokens(base.tokenizer, limit, prompter.wording.system)
    if tokens.end is None:
        raise MethodError(f"base {base.name!r}: its tokenizer has no end token. Set one in its folder.")
    space = AnswerSpace.of(prompter.task, prompter.words, tokens)
    names = [*prompter.task.labels, *([prompter.words.none] if space.kind == "multilabel" else [])]
    pieces: dict[Tokens, str] = {}
    for name, piece in zip(names, (*space.first, space.none), strict=False):
        if pieces.setdefault(piece, name) != name:
            raise MethodError(
                f"base {base.name!r} cannot write {pieces[piece]!r} and {name!r} apart: its tokenizer makes the same "
                "tokens of both. Rename one of them."
            )
    told = tokens.length(replace(prompter.prompt("", ""), blocks=()))
    if told + space.longest + ROOM > limit:
        raised = "Raise it" if limit == max_tokens else f"Base {base.name!r} reads no more: use another"
        raise MethodError(
            f"max_tokens: {limit} leaves no room for a text: the instruction takes {told} tokens, the longest answer "
            f"{space.longest}. {raised}, or leave labels out."
        )
    return tokens, space


class Prompted:
    """Answers of a language model to the prompts of (text, user) rows.

    Args:
        language: the model; it may be trained after this was made.
        prompter: makes the prompts.
        max_tokens: of a prompt with its answer.
        device: where the model is.
    """

    def __init__(self, language: LanguageModel, prompter: Prompter, max_tokens: int, device: str) -> None:
        self.language, self.prompter, self.device = language, prompter, device
        self.max_tokens = min(max_tokens, language.base.max_tokens)
        self.tokens, self.space = answer_space(language.base, prompter, max_tokens)
        self.cuts: Counter[str] = Counter()
        self._prompts_made = 0

    def distinct(self, texts: Sequence[str], users: Sequence[str]) -> tuple[list[Segments], NDArray[np.int64]]:
        """The distinct prompts of (text, user) rows, and the position of each row's: int64 [rows]."""
        pairs, pair = self.prompter.pairs(texts, users)
        made, cuts = self.tokens.segments([self.prompter.prompt(*each) for each in pairs], self.space.longest)
        self.cuts += cuts
        self._prompts_made += len(made)
        position: dict[Segments, int] = {}
        of_pair = [position.setdefault(segments, len(position)) for segments in made]
        return list(position), np.asarray(of_pair, dtype=np.int64)[pair]

    def notes(self) -> list[str]:
        """What a person should know of the prompts made so far, a line each."""
        lines = []
        if not self.tokens.chat:
            lines.append(f"{self.language.base.name} has no chat template: prompts are plain text")
        if self.cuts:
            lines.append(say_cuts(self.cuts, self._prompts_made, self.max_tokens))
        return lines + self.prompter.notes()

    @property
    def answer_head(self) -> nn.Linear:
        """The rows of the output projection that make answer tokens: [width] -> [answer tokens], float32."""
        vocabulary = torch.from_numpy(self.space.vocabulary)
        projection: Any = self.language.head
        weight = projection.weight.detach()
        head = nn.Linear(weight.shape[1], len(vocabulary), device=weight.device)
        with torch.no_grad():
            head.weight.copy_(self.language.scale * weight[vocabulary].float())
            head.bias.zero_()
            if getattr(projection, "bias", None) is not None:
                head.bias.copy_(self.language.scale * projection.bias.detach()[vocabulary].float())
        return head.requires_grad_(False)

    def loglikelihoods(
        self, prompts: Sequence[Segments], head: nn.Linear, tell: Callable[[int], None] | None = None
    ) -> Callable[[Sequence[tuple[int, Tokens]]], NDArray[np.float64]]:
        """How likely answers are where only answer tokens can be written. See `constrained_decoding.LogLikelihoods`."""

        @torch.inference_mode()
        def found(requests: Sequence[tuple[int, Tokens]]) -> NDArray[np.float64]:
            sums, reader = np.zeros(len(requests)), TreeReader(self.language)
            for pack in packs(self.language, prompts, requests, self.budget):
                hidden = reader.hidden(pack).float()
                said = functional.log_softmax(head(hidden), dim=-1).double().cpu().numpy()
                token = np.searchsorted(self.space.vocabulary, pack.asked.token)
                np.add.at(sums, pack.asked.request, said[pack.asked.place, token])
                if tell is not None:
                    tell(len(np.unique([requests[request][0] for request in np.unique(pack.asked.request)])))
            return sums

        return found

    def walk(self, prompts: Sequence[Segments], in_order: bool, tell: Callable[[int], None] | None = None) -> Walk:
        """Answers to distinct prompts, with the model as it is. See `constrained_decoding.walk`."""
        self.language.model.eval()
        return walk(len(prompts), self.space, self.loglikelihoods(prompts, self.answer_head, tell), in_order)

    def first_step(self, prompts: Sequence[Segments], tell: Callable[[int], None] | None = None) -> NDArray[np.float64]:
        """float64 [prompts, labels + 1]. See `constrained_decoding.first_step`."""
        self.language.model.eval()
        return first_step(len(prompts), self.space, self.loglikelihoods(prompts, self.answer_head, tell))

    def write(self, named: Sequence[int]) -> str:
        """An answer as the model writes it."""
        ids = list(self.space.written(named, closed=not named))
        return str(self.language.base.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    @property
    def budget(self) -> int:
        """Tokens read at once."""
        return PACK[torch.device(self.device).type]

    def answer_losses(self, hidden: Tensor, token: Tensor) -> Tensor:
        """-log p of each answer token over the whole vocabulary: hidden [tokens, width], token [tokens] -> [tokens]."""
        return functional.cross_entropy(self.language.logits(hidden).float(), token, reduction="none")


def write_prompted(folder: Path, prompted: Prompted, more: dict[str, Any]) -> None:
    """What `read_prompted` needs."""
    base = prompted.language.base
    write_prompter(folder, prompted.prompter, base.name, base.checksum, {"max_tokens": prompted.max_tokens, **more})


def read_prompted(folder: Path, task: Task, base: str, device: str) -> tuple[Prompted, dict[str, Any]]:
    """Read back what `write_prompted` wrote, on a freshly loaded base, and the settings.

    Raises:
        MethodError: the base or the wording is another one than it was, or a file is damaged.
    """
    prompter, settings = read_prompter(folder, task)
    language = load_language_model(base)
    if language.base.checksum != settings["base_checksum"]:
        raise MethodError(
            f"{folder}: made with base {settings['base']!r} with other weights than {base!r} has here. "
            "Give the same base, or fit again."
        )
    language.model.to(device)  # type: ignore[arg-type]
    return Prompted(language, prompter, settings["max_tokens"], device), settings


def write_prompter(folder: Path, prompter: Prompter, base: str, checksum: str, more: dict[str, Any]) -> None:
    """How prompts are made, and for which base: settings as JSON; what prompts say of users as training rows."""
    settings = {
        "prompt": prompter.settings.model_dump(mode="json"),
        "wording": prompter.wording.digest,
        "personal": prompter.personal,
        "seed": prompter.seed,
        "vacant": sorted(prompter.vacant),
        "base": base,
        "base_checksum": checksum,
        **more,
    }
    (folder / "prompted.json").write_text(json.dumps(settings, indent=2) + "\n")
    if prompter.train is not None and prompter.needs_train:
        prompter.train.write_parquet(folder / "told.parquet")


def erase_prompter(folder: Path, user: str) -> bool:
    """See `methods.base.erase_saved`. The user's number stays vacant, so that others keep theirs.

    Where prompts show other people's examples, or rates that everybody's judgements are part of, those of the user are
    not among them any more: such prompts change.
    """
    told, file = folder / "told.parquet", folder / "prompted.json"
    train = Annotations.read_parquet(told) if told.is_file() else None
    if train is None or not (mine := train.user_ids == user).any():
        return False
    settings = json.loads(file.read_text())
    if settings["personal"]:
        settings["vacant"] = sorted([*settings["vacant"], numbered(train, settings["vacant"])[user]])
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n")
    train.select(np.flatnonzero(~mine)).write_parquet(told)
    return True


def read_prompter(folder: Path, task: Task) -> tuple[Prompter, dict[str, Any]]:
    """Read back what `write_prompter` wrote, and the settings.

    Raises:
        MethodError: the wording is another one than it was, or a file is damaged.
    """
    try:
        settings = json.loads((folder / "prompted.json").read_text())
        asked = PromptSettings.model_validate(settings["prompt"])
    except (OSError, ValueError, KeyError) as error:
        raise MethodError(f"{folder / 'prompted.json'}: damaged ({type(error).__name__}). Fit it again.") from error
    told = folder / "told.parquet"
    train = Annotations.read_parquet(told) if told.is_file() else None
    prompter = Prompter(task, asked, train, settings["personal"], settings["seed"], settings["vacant"])
    if prompter.wording.digest != settings["wording"]:
        raise MethodError(f"{folder}: the words of {asked.wording!r} have changed since. Fit it again.")
    return prompter, settings

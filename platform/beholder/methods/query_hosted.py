"""Prompting a hosted model: nothing of it is here, it writes freely, and what it wrote is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beholder.data.task import Task
from beholder.data.written_points import scores_of_points
from beholder.methods.base import Scores, score_every_pair
from beholder.models.hosted import Endpoint, Messages, ask, estimate
from beholder.prompting.builder import Prompt, Prompter, say_cuts, shortened
from beholder.prompting.prompted_model import ROOM, read_prompter, write_prompter
from beholder.training.context import Progress, Training, no_progress, no_words
from beholder.util.errors import MethodError
from beholder.util.paths import home


def answers_folder() -> Path:
    """Where the answers of all hosted models are kept, so that none is paid for twice."""
    return home() / "answers"


def require_room(endpoint: Endpoint, prompter: Prompter, max_tokens: int) -> None:
    """Check that a text fits into a prompt.

    Raises:
        MethodError: instruction and answer leave no room for one.
    """
    told = math.ceil(estimate(_messages(prompter, prompter.prompt("", ""))))
    if told + endpoint.max_tokens + ROOM > max_tokens:
        raise MethodError(
            f"max_tokens: {max_tokens} leaves no room for a text: the instruction takes about {told} tokens, the "
            f"answer up to base.max_tokens: {endpoint.max_tokens}. Raise the one, or lower the other."
        )


class FittedHosted:
    """A hosted model and the prompts of an arm; nothing is learned. See `methods.base.Fitted` for the attributes.

    A label's score is 1 where the answer names it, else 0; the threshold is 0.5. `multiclass`: the label that is named
    first. An answer that names no label counts as none; a `multiclass` row without any is decided as all equal scores
    are, for the first label of the task (`metrics.decide`).

    How the server counts tokens is not known here: they are estimated, see `hosted.estimate`.

    Args:
        method: its name in `METHODS`.
        prompter: makes the prompts.
        endpoint: where prompts go.
        max_tokens: of a prompt with its answer; of longer ones the user's blocks give way, then the text's end.
        progress: called with the number of answers.
        say: receives notes for people, never answers.
    """

    def __init__(
        self,
        method: str,
        prompter: Prompter,
        endpoint: Endpoint,
        max_tokens: int,
        progress: Progress = no_progress,
        say: Callable[[str], None] = no_words,
    ) -> None:
        self.method, self.prompter, self.endpoint, self.max_tokens = method, prompter, endpoint, max_tokens
        self.task: Task = prompter.answered
        self.thresholds: NDArray[np.float32] = np.full(len(self.task.labels), 0.5, dtype=np.float32)
        self.training = Training()
        self._progress, self._say = progress, say
        self._said: set[str] = set()

    def score(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [rows, labels]. Equal prompts are sent once, and none whose answer is kept.

        Raises:
            BaseModelError: the endpoint does not answer; what it did answer is kept.
        """
        prompts, index, cuts = self.prompts(texts, users)
        answers = ask(self.endpoint, prompts, answers_folder(), self._progress, self.prompter.seed)
        scores, silent = self._read(answers)
        if cuts:
            self._tell(f"{say_cuts(cuts, len(prompts), self.max_tokens)} (estimated; max_tokens may be raised)")
        for line in self.prompter.notes():
            self._tell(line)
        if silent:
            self._tell(f"{silent:,} of {len(answers):,} answers named no label and count as none")
        return scores[index]

    def score_all(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [texts, users, labels]."""
        return score_every_pair(self, texts, users)

    def prompts(
        self, texts: Sequence[str], users: Sequence[str]
    ) -> tuple[list[Messages], NDArray[np.int64], Counter[str]]:
        """What is sent for (text, user) rows: prompts, the position of each row's, and how many were cut where."""
        pairs, index = self.prompter.pairs(texts, users)
        cuts: Counter[str] = Counter()
        return [self._fitting(self.prompter.prompt(*pair), cuts) for pair in pairs], index, cuts

    @property
    def known(self) -> list[str]:
        """See `base.Fitted`."""
        return sorted(self.prompter.users)

    def knows(self, user: str) -> bool:
        """Whether prompts describe this user."""
        return user in self.prompter.users

    def save(self, folder: Path) -> None:
        """Settings as JSON, the training rows that prompts are made of as Parquet. Neither key nor answers."""
        endpoint = self.endpoint
        write_prompter(folder, self.prompter, endpoint.identity, endpoint.checksum, {"max_tokens": self.max_tokens})

    @classmethod
    def load(
        cls, folder: Path, method: str, task: Task, thresholds: NDArray[np.float32], endpoint: Endpoint
    ) -> FittedHosted:
        """Read `save`'s files.

        Raises:
            MethodError: the endpoint is another one, or a file is missing or damaged.
        """
        prompter, settings = read_prompter(folder, task)
        if settings["base_checksum"] != endpoint.checksum:
            raise MethodError(
                f"{folder}: made with base {settings['base']!r}, and not with {endpoint.identity!r} as set "
                "here. Give the same base, or fit again."
            )
        fitted = cls(method, prompter, endpoint, settings["max_tokens"])
        fitted.thresholds = thresholds
        return fitted

    def _fitting(self, prompt: Prompt, cuts: Counter[str]) -> Messages:
        """A prompt as messages that leave room for the answer."""
        limit = self.max_tokens - self.endpoint.max_tokens
        prompt, cut = shortened(prompt, limit, lambda prompt: estimate(_messages(self.prompter, prompt)))
        over = estimate(_messages(self.prompter, prompt)) - limit
        if over > 0:
            text = prompt.text.rstrip("\n").encode()
            kept = text[: max(1, len(text) - math.ceil(4 * over))].decode(errors="ignore")
            prompt = replace(prompt, text=f"{kept}\n")
            cut.add("text")
        cuts.update(cut)
        return _messages(self.prompter, prompt)

    def _read(self, answers: Sequence[str]) -> tuple[Scores, int]:
        """Scores, float32 [answers, labels], and how many answers named neither a label nor the word for none."""
        task = self.prompter.task
        scores = np.zeros((len(answers), len(task.labels)), dtype=np.float32)
        one, silent = task.kind == "multiclass", 0
        for row, answer in enumerate(answers):
            named = self.prompter.words.named(answer)
            silent += not named if one else named is None
            scores[row, (named or [])[: 1 if one else None]] = 1
        return scores_of_points(self.task, scores), silent

    def _tell(self, line: str) -> None:
        """Say it once."""
        if line not in self._said:
            self._said.add(line)
            self._say(f"{self.method}: {line}")


def _messages(prompter: Prompter, prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as a conversation: the wording's system message, where it has one, and one message of the user's."""
    system = prompter.wording.system
    asked = [{"role": "user", "content": "".join(prompt.parts)}]
    return [{"role": "system", "content": system}, *asked] if system else asked

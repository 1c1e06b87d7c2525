"""From a text and a user to a prompt, in parts that many prompts share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count

import numpy as np
from numpy.typing import NDArray

from beholder.data.annotations import GROUP, Annotations
from beholder.data.folds import USES
from beholder.data.task import Task
from beholder.data.written_points import written_rows, written_task
from beholder.prompting.config import ORDER, PromptSettings
from beholder.prompting.few_shot import FewShotExamples
from beholder.prompting.label_text import LabelWords
from beholder.prompting.wording import load_wording


@dataclass(frozen=True)
class Prompt:
    """A prompt, in parts. Every part ends its own line.

    Attributes:
        instruction: what to do and the list of labels: the same in all prompts of an arm.
        blocks: (name, lines) that describe the user, in the order in which they stand.
        text: the text to label.
        answer: the line an answer follows.
        user_first: whether the blocks stand before the text.
    """

    instruction: str
    blocks: tuple[tuple[str, tuple[str, ...]], ...]
    text: str
    answer: str
    user_first: bool

    @property
    def user(self) -> str:
        """All that describes the user."""
        return "".join(line for _, lines in self.blocks for line in lines)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts in order, without empty ones; joined they are the prompt."""
        middle = (self.user, self.text) if self.user_first else (self.text, self.user)
        return tuple(part for part in (self.instruction, *middle, self.answer) if part)

    def without_last(self, block: str) -> Prompt:
        """The same with the last line of a block less; a block of which only its heading is left goes whole."""
        kept = []
        for name, lines in self.blocks:
            left = lines[:-1] if name == block else lines
            if len(left) > (name == block == "examples"):
                kept.append((name, left))
        return replace(self, blocks=tuple(kept))


def numbered(train: Annotations, vacant: Collection[int] = ()) -> dict[str, int]:
    """The number by which prompts call each user: their place among all, where those who left keep theirs."""
    free = (number for number in count() if number not in vacant)
    return dict(zip(train.users, free, strict=False))


class Prompter:
    """Makes the prompts of one arm.

    Args:
        task: its labels are listed, or the points of its scale; kept as `answered`.
        settings: what prompts contain.
        train: the rows users and examples are known from; they go no further than this object.
        personal: whether prompts describe the user; else they have other people's examples.
        seed: of the choice of examples.
        vacant: numbers that no user has: those of users who were erased.

    Raises:
        ExperimentError: labels read alike, see `LabelWords.require_readable`.
    """

    def __init__(
        self,
        task: Task,
        settings: PromptSettings,
        train: Annotations | None,
        personal: bool,
        seed: int,
        vacant: Collection[int] = (),
    ) -> None:
        self.vacant, self.answered = vacant, task
        task, train = written_task(task), written_rows(train) if train is not None else None
        self.task, self.settings, self.train, self.personal, self.seed = task, settings, train, personal, seed
        self.wording = load_wording(settings.wording)
        self.words = LabelWords(task.labels, self.wording.none)
        self.words.require_readable(with_none=task.kind == "multilabel")
        self.users = numbered(train, vacant) if train is not None and personal else {}
        self._blocks = [block for block in ORDER if block in settings.blocks and (personal or block == "examples")]
        self._examples: FewShotExamples | None = None
        if train is not None and settings.shots and "examples" in self._blocks:
            self._examples = FewShotExamples(train, settings.choose, settings.shots, own=personal, seed=seed)

    @property
    def needs_train(self) -> bool:
        """Whether prompts say anything that comes from training rows."""
        return bool(self._examples or self.users)

    @property
    def short_of_examples(self) -> int:
        """How many users have fewer training rows to show than there should be examples."""
        if self._examples is None or not self.personal:
            return 0
        return sum(len(rows) < self.settings.shots for rows in self._examples.rows_of.values())

    def notes(self) -> list[str]:
        """What a person should know of the examples, a line each."""
        lines = []
        if self._examples is not None and self._examples.left_out:
            lines.append(
                f"{self._examples.left_out:,} of {len(self._examples.train):,} training rows leave labels unasked and "
                "are not shown as examples, where an unasked label would read as a no"
            )
        if short := self.short_of_examples:
            lines.append(
                f"{short:,} users have fewer training rows to show than prompt.shots: {self.settings.shots}; all they "
                "have are shown"
            )
        return lines

    @cached_property
    def instruction(self) -> str:
        """The first part of every prompt."""
        listed = self.words.listed(with_none=self.task.kind == "multilabel")
        return f"{self.wording.instruction}\n{self.wording.labels.format(labels=listed)}\n\n"

    def pairs(self, texts: Sequence[str], users: Sequence[str]) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
        """The (text, user) rows whose prompts may differ, and the position of each row's among them: int64 [rows]."""
        pairs: dict[tuple[str, str], int] = {}
        position = [
            pairs.setdefault((text, user if self.needs_train else ""), len(pairs))
            for text, user in zip(texts, users, strict=True)
        ]
        return list(pairs), np.asarray(position, dtype=np.int64)

    def prompt(self, text: str, user: str) -> Prompt:
        """The prompt for one text and user. A user nobody has trained on is not spoken of."""
        said = {
            "id": self._id,
            "profile": self._profile,
            "statistics": self._statistics,
            "examples": lambda user: self._shown(user, text),
        }
        blocks = [(name, said[name](user)) for name in self._blocks if not self.personal or user in self.users]
        return Prompt(
            instruction=self.instruction,
            blocks=tuple((name, lines) for name, lines in blocks if lines),
            text=f"{self.wording.text.format(text=text.strip())}\n",
            answer=self.wording.answer,
            user_first=self.settings.placement == "before",
        )

    def _id(self, user: str) -> tuple[str, ...]:
        # A position among the training users, as plain digits: never the id itself, which may be personal.
        return (f"{self.wording.id.format(number=self.users[user])}\n",)

    def _profile(self, user: str) -> tuple[str, ...]:
        facts = self._facts.get(user)
        return (f"{self.wording.profile.format(facts=facts)}\n",) if facts else ()

    def _statistics(self, user: str) -> tuple[str, ...]:
        rates = self._rates[user]
        words = self.words.words
        said = ", ".join(
            f"{words[label]} {100 * rates[label]:.0f}%" for label in self.words.order if not np.isnan(rates[label])
        )
        return (f"{self.wording.statistics.format(rates=said)}\n",)

    def _shown(self, user: str, text: str) -> tuple[str, ...]:
        rows = self._examples.of(user, text) if self._examples else []
        if not rows:
            return ()
        assert self.train is not None
        words = self.wording.examples
        shown = [
            words.each.format(
                text=self.train.texts[row].strip(), labels=self.words.write(self.train.labels[row] >= 0.5)
            )
            for row in rows
        ]
        return (f"{words.own if self.personal else words.others}\n", *(f"{line}\n" for line in shown))

    @cached_property
    def _rates(self) -> dict[str, NDArray[np.float64]]:
        """How often each user gives each label, with one row's worth of everybody's rate: float64 [labels].

        NaN for a label that the user was never asked.
        """
        assert self.train is not None
        row = {user: position for position, user in enumerate(self.users)}
        user = np.asarray([row[each] for each in self.train.user_ids])
        asked, given = ~np.isnan(self.train.labels), np.nan_to_num(self.train.labels)
        overall = given.sum(axis=0) / np.maximum(asked.sum(axis=0), 1)
        counts, sums = np.zeros((len(row), len(overall))), np.zeros((len(row), len(overall)))
        np.add.at(counts, user, asked)
        np.add.at(sums, user, given)
        return dict(zip(row, np.where(counts > 0, (sums + overall) / (counts + 1), np.nan), strict=True))

    @cached_property
    def _facts(self) -> dict[str, str]:
        """What context columns say of each user: those with one value a user, not the same for all, and no ids."""
        assert self.train is not None
        facts: dict[str, list[str]] = {user: [] for user in self.users}
        for name in self.train.context_columns:
            if name in ("part", USES, GROUP):
                continue
            values: dict[str, set[str]] = {user: set() for user in self.users}
            for user, value in zip(self.train.user_ids, self.train.column(name), strict=True):
                values[user].add("" if value is None else str(value))
            of_users = all(len(each) == 1 and user not in each for user, each in values.items())
            if of_users and len(set().union(*values.values())) > 1:
                for user, (value,) in values.items():
                    if value:
                        facts[user].append(f"{name.replace('_', ' ')} {value}")
        return {user: ", ".join(each) for user, each in facts.items() if each}


CUTS = ("examples", "statistics", "profile", "id")
"""Which user blocks give way, in this order, where a prompt is longer than the base reads; then the text's end."""


def shortened(prompt: Prompt, limit: int, length: Callable[[Prompt], float]) -> tuple[Prompt, set[str]]:
    """A prompt without as many lines of its user blocks as make it too long, and the blocks that gave way.

    It may still be too long, by its text.
    """
    cut: set[str] = set()
    for block in CUTS:
        while length(prompt) > limit and any(name == block for name, _ in prompt.blocks):
            prompt = prompt.without_last(block)
            cut.add(block)
    return prompt, cut


def say_cuts(cuts: Counter[str], prompts: int, limit: int) -> str:
    """One line about prompts that were longer than the base reads."""
    said = ", ".join(f"{block} in {cuts[block]:,}" for block in (*CUTS, "text") if cuts[block])
    return f"prompts longer than the {limit:,} tokens the base reads were cut, of {prompts:,}: {said}"

"""Answers as tokens: what may be written, and walking through it.

The model can write label names, separators, the word for none and its end token, and nothing else, so that every answer
can be read back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from beholder.data.task import Task
from beholder.prompting.label_text import SEPARATOR, LabelWords
from beholder.prompting.tokenize import PromptTokens

Tokens = tuple[int, ...]
END = -1
"""The option of saying no (more) labels, beside those of naming label 0, 1, ..."""
LogLikelihoods = Callable[[Sequence[tuple[int, Tokens]]], NDArray[np.float64]]
"""(row, answer tokens) of each request -> its log-likelihood after the row's prompt: float64 [requests]."""


@dataclass(frozen=True)
class AnswerSpace:
    """All answers to a task's prompts, piece by piece.

    Attributes:
        kind: `multilabel`: any labels, alphabetically where they are trained on; `multiclass`: one.
        first, later: tokens of each label, as the first one named and as a further one.
        none, end: tokens of the word for none, and what ends an answer.
        order: positions of the labels in the order of trained answers.
    """

    kind: Literal["multilabel", "multiclass"]
    first: tuple[Tokens, ...]
    later: tuple[Tokens, ...]
    none: Tokens
    end: Tokens
    order: tuple[int, ...]

    @classmethod
    def of(cls, task: Task, words: LabelWords, tokens: PromptTokens) -> AnswerSpace:
        """The space of a task in a base's tokens."""
        assert tokens.end is not None
        return cls(
            kind=task.kind,
            first=tuple(tokens.answer_ids(word) for word in words.words),
            later=tuple(tokens.further_ids(SEPARATOR + word) for word in words.words),
            none=tokens.answer_ids(words.none),
            end=(tokens.end,),
            order=tuple(words.order),
        )

    @cached_property
    def vocabulary(self) -> NDArray[np.int64]:
        """The tokens answers are made of, sorted: int64 [answer tokens]."""
        return np.unique([token for piece in (*self.first, *self.later, self.none, self.end) for token in piece])

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return max(len(self.none), sum(max(map(len, both)) for both in zip(self.first, self.later, strict=True))) + 1

    def answer(self, given: NDArray[np.bool_]) -> Tokens:
        """The answer that names exactly these labels, in order, with its end: what is trained on."""
        named = [label for label in self.order if given[label]]
        if not named:
            return self.none + self.end
        return sum((self.later[label] for label in named[1:]), self.first[named[0]]) + self.end

    def written(self, named: Sequence[int], closed: bool) -> Tokens:
        """The beginning of an answer that names these labels, in this order."""
        if not named:
            return self.none + self.end if closed else ()
        return sum((self.later[label] for label in named[1:]), self.first[named[0]]) + (self.end if closed else ())

    def piece(self, named: Sequence[int], option: int) -> Tokens:
        """What an option adds to the beginning of an answer."""
        if option == END:
            return self.end if named else self.none
        return self.later[option] if named else self.first[option]


@dataclass(frozen=True)
class Walk:
    """What came of walking through the answers of some rows.

    Attributes:
        scores: float32 [rows, labels].
        named: the labels each answer names, in the order in which it names them.
    """

    scores: NDArray[np.float32]
    named: list[list[int]]


def first_step(rows: int, space: AnswerSpace, loglikelihoods: LogLikelihoods) -> NDArray[np.float64]:
    """Log-likelihood of each label as the first one named, and of none: float64 [rows, labels + 1]."""
    options = [*range(len(space.first)), END]
    pieces = [space.piece((), option) for option in options]
    found = loglikelihoods([(row, piece) for row in range(rows) for piece in pieces])
    return whole(pieces, found.reshape(rows, len(options)))


def whole(pieces: Sequence[Tokens], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-likelihoods of pieces as the whole answer, not as the beginnings of longer ones.

    Whatever writes "hate speech" has written "hate" on the way: of the likelihood of tokens that begin other pieces,
    theirs is taken off.

    Args:
        pieces: of the options at a step, all different.
        found: float64 [.., options], of each as the beginning of what is written.
    """
    left = found.copy()
    for option, others in longer(tuple(pieces)):
        share = np.exp(found[..., others] - found[..., [option]]).sum(axis=-1)
        left[..., option] += np.log(np.maximum(1 - share, 1e-12))
    return left


@lru_cache(maxsize=4_096)
def longer(pieces: tuple[Tokens, ...]) -> list[tuple[int, list[int]]]:
    """The pieces that begin others, and those others, without what these begin in turn."""
    begun = [
        (option, [other for other in range(len(pieces)) if _begins(piece, pieces[other])])
        for option, piece in enumerate(pieces)
    ]
    return [
        (option, [other for other in longer if not any(_begins(pieces[each], pieces[other]) for each in longer)])
        for option, longer in begun
        if longer
    ]


def _begins(piece: Tokens, other: Tokens) -> bool:
    return len(piece) < len(other) and other[: len(piece)] == piece


def walk(rows: int, space: AnswerSpace, loglikelihoods: LogLikelihoods, in_order: bool) -> Walk:
    """Write every row's answer, the likeliest option at each step, and score labels on the way.

    With q the likelihoods of the options at a step, scaled to one: `in_order` (labels are named alphabetically, as in
    training), answers are chains of yes and no, and a label's score is the probability of naming it when its turn
    comes, `q[label] / (q[label] + q of what comes after it)`. Else labels come in any order, and a label's score is
    that of being named at some step, `1 - prod(1 - q[label])`. `multiclass`: the q of the only step.

    Args:
        rows: how many prompts.
        space: of answers.
        loglikelihoods: of the prompts, by the model.
        in_order: see above.
    """
    labels = len(space.first)
    scores = np.zeros((rows, labels))
    named: list[list[int]] = [[] for _ in range(rows)]
    running = list(range(rows))
    if space.kind == "multiclass":
        scores = _softmax(first_step(rows, space, loglikelihoods)[:, :labels])
        return Walk(scores.astype(np.float32), [[int(best)] for best in scores.argmax(axis=1)])
    while running:
        options = [_options(space, named[row], in_order) for row in running]
        requests = [
            (row, space.written(named[row], closed=False) + space.piece(named[row], option))
            for row, mine in zip(running, options, strict=True)
            for option in mine
        ]
        found = loglikelihoods(requests)
        going_on = []
        for row, mine, said in zip(
            running, options, np.split(found, np.cumsum([*map(len, options)])[:-1]), strict=True
        ):
            q = _softmax(whole([space.piece(named[row], option) for option in mine], said))
            chosen = mine[int(q.argmax())]
            if in_order:
                # Options stand in order with the end last: what is left of q from each option on.
                hazard = q / np.maximum(q[::-1].cumsum()[::-1], 1e-300)
                for option, probability in zip(mine, hazard, strict=True):
                    if option != END:
                        scores[row, option] = probability
                    if option == chosen:
                        break
            else:
                for option, probability in zip(mine, q, strict=True):
                    if option != END:
                        scores[row, option] = 1 - (1 - scores[row, option]) * (1 - probability)
            if chosen != END:
                named[row].append(chosen)
                if len(_options(space, named[row], in_order)) > 1:
                    going_on.append(row)
        running = going_on
    return Walk(scores.astype(np.float32), named)


def _options(space: AnswerSpace, named: list[int], in_order: bool) -> list[int]:
    """Labels that may be named next, and the end."""
    if in_order:
        start = space.order.index(named[-1]) + 1 if named else 0
        return [*space.order[start:], END]
    return [*(label for label in space.order if label not in named), END]


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)

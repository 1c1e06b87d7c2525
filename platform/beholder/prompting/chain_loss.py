"""What a judgement decides of an answer where some labels were not asked: the loss of a chain observed in part.

An answer is a chain of yes and no over the labels in alphabetical order, and a label's score is the probability of
naming it when its turn comes: with q the likelihoods of what may be written next, `q[label] / (q[label] + q of what
comes after it)` (`constrained_decoding.walk`). The loss of a judgement is therefore a sum over labels, -log of the
score of each label given and -log(1 - score) of each label passed over, and a label that was not asked has no term in
it.

Which tokens decide a label depends on the step. Before the next label is named, every later label and the end compete,
and they may share tokens (a separator, the beginning of a name). So at every step with something asked, all options are
read from beginning to end, and the terms are taken from their likelihoods as `walk` takes the scores. Tokens that are
shared with labels that were not asked then count in as far as the labels asked depend on them, and no further.

Two consequences:

* In the beginning of an answer, a label that was not asked stands as passed over, so that later labels are learned
  given "not named". Rows in which it was asked and given teach them given "named".
* After the last label that was asked nothing is decided: neither the end nor a further label is learned there.

Rows in which every label was asked keep the plain loss, -log p of the whole answer: the same sum, and beside it how
likely anything is that is no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beholder.prompting.constrained_decoding import END, AnswerSpace, Tokens, longer


@dataclass(frozen=True)
class Step:
    """One step of an answer at which a label that was asked may be named.

    Attributes:
        pieces: what each option adds to the answer, in order, the end last.
        first: position of the first option among `Decisions.answers`.
        chosen: position of the option that the judgement takes.
        asked: positions of the labels asked, up to the chosen one.
    """

    pieces: tuple[Tokens, ...]
    first: int
    chosen: int
    asked: tuple[int, ...]


@dataclass(frozen=True)
class ChainDecisions:
    """What a judgement decides, where some labels were not asked. See `language_examples.Decided`.

    Attributes:
        answers: beginnings of answers up to each option of each step, whose likelihoods the loss depends on.
        steps: see there.
        vocabulary: the sorted tokens that can be written.
        count: how many tokens of the judgement's answer decide something that was asked.
    """

    answers: tuple[Tokens, ...]
    steps: tuple[Step, ...]
    vocabulary: tuple[int, ...]
    count: int

    @cached_property
    def beginnings(self) -> tuple[Tokens, ...]:
        """The distinct beginnings of answers behind which a token is predicted."""
        return tuple(dict.fromkeys(answer[:length] for answer in self.answers for length in range(len(answer))))

    @cached_property
    def terms(self) -> NDArray[np.int64]:
        """The tokens of all answers: int64 [tokens, 3], of (answer, beginning it follows, position in `vocabulary`)."""
        place = {beginning: position for position, beginning in enumerate(self.beginnings)}
        return np.asarray(
            [
                (number, place[answer[:length]], int(np.searchsorted(self.vocabulary, token)))
                for number, answer in enumerate(self.answers)
                for length, token in enumerate(answer)
            ],
            dtype=np.int64,
        )

    def losses(self, predicted: Tensor) -> Tensor:
        """The loss of some judgements that decide the same: float64 [rows].

        predicted: [rows, beginnings, tokens of `vocabulary`], log-probabilities of what is written next.
        """
        answer, beginning, token = torch.from_numpy(self.terms).to(predicted.device).unbind(dim=1)
        found = predicted.new_zeros(len(predicted), len(self.answers), dtype=torch.float64)
        return self.of_likelihoods(found.index_add(1, answer, predicted[:, beginning, token].double()))

    def of_likelihoods(self, found: Tensor) -> Tensor:
        """The same from the log-likelihoods of `answers`: float64 [rows, answers] -> [rows]."""
        total = found.new_zeros(len(found))
        for step in self.steps:
            options = _whole(step.pieces, found[:, step.first : step.first + len(step.pieces)])
            left = options.flip(-1).logcumsumexp(dim=-1).flip(-1)  # [rows, options]: of each option and all behind it
            for option in step.asked:
                taken = options[:, option] if option == step.chosen else left[:, option + 1]
                total = total + left[:, option] - taken
        return total


def target(space: AnswerSpace, labels: NDArray[np.floating]) -> Tokens | ChainDecisions | None:
    """What a judgement teaches to write: a whole answer, what it decides of one, or nothing.

    Args:
        space: of answers.
        labels: float [labels], NaN = not asked. Of a multiclass task the class given decides all others.
    """
    asked, given = ~np.isnan(labels), labels >= 0.5
    if asked.all() or (space.kind == "multiclass" and given.any()):
        return space.answer(given)
    if space.kind == "multiclass" or not asked.any():
        return None
    return _decisions(space, tuple(asked.tolist()), tuple(given.tolist()))


@lru_cache(maxsize=65_536)
def _decisions(space: AnswerSpace, asked: tuple[bool, ...], given: tuple[bool, ...]) -> ChainDecisions:
    answers: list[Tokens] = []
    steps: list[Step] = []
    named: list[int] = []
    count = 0
    rest = list(space.order)
    while any(asked[label] for label in rest):
        options = [*rest, END]
        chosen = next((label for label in rest if given[label]), END)
        place = options.index(chosen)
        pieces = tuple(space.piece(named, option) for option in options)
        mine = tuple(at for at, label in enumerate(options[: place + 1]) if label != END and asked[label])
        steps.append(Step(pieces, len(answers), place, mine))
        begun = space.written(named, closed=False)
        answers += [begun + piece for piece in pieces]
        count += len(pieces[place])
        named, rest = [*named, chosen], options[place + 1 : -1]
    return ChainDecisions(tuple(answers), tuple(steps), tuple(space.vocabulary.tolist()), count)


def _whole(pieces: tuple[Tokens, ...], found: Tensor) -> Tensor:
    """See `constrained_decoding.whole`: the same with gradients, [rows, options] -> [rows, options]."""
    columns = list(found.unbind(dim=-1))
    for option, others in longer(pieces):
        share = (found[:, others] - found[:, [option]]).exp().sum(dim=-1)
        columns[option] = columns[option] + (1 - share).clamp(min=1e-12).log()
    return torch.stack(columns, dim=-1)

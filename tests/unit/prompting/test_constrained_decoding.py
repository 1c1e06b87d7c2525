"""Answers are written in label names alone, and scored on the way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from crowd import crowd
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from beholder.data.task import Task
from beholder.models.info import facts_of
from beholder.models.language_model import load_language_model
from beholder.prompting.builder import Prompter
from beholder.prompting.calibration import fit_calibration
from beholder.prompting.config import PromptSettings
from beholder.prompting.constrained_decoding import AnswerSpace, LogLikelihoods, Tokens, first_step, walk
from beholder.prompting.prompted_model import Prompted, answer_space

pytestmark = pytest.mark.long

quick = settings(max_examples=40, deadline=None)
LABELS = st.lists(
    st.sampled_from(["anger", "joy", "hate", "hate_speech", "no hate", "ha", "nonexistent", "Zorn", "very sad"]),
    min_size=2,
    max_size=5,
    unique=True,
).map(tuple)


def space_of(labels: tuple[str, ...], kind, base="tiny-llama") -> tuple[Prompter, AnswerSpace]:
    prompter = Prompter(Task(labels, kind), PromptSettings(), None, personal=False, seed=0)
    return prompter, answer_space(facts_of(base), prompter, 400)[1]


class Writer:
    """A language model without a network: each beginning of an answer has its own likelihoods of what comes next."""

    def __init__(self, space: AnswerSpace, seed: int, sure: float = 3.0) -> None:
        self.place = {int(token): place for place, token in enumerate(space.vocabulary)}
        self.seed, self.sure = seed, sure
        self._known: dict[tuple[int, Tokens], NDArray[np.float64]] = {}

    def next(self, row: int, begun: Tokens) -> NDArray[np.float64]:
        if (row, begun) not in self._known:
            drawn = np.random.default_rng([self.seed, row, *begun]).normal(size=len(self.place)) * self.sure
            self._known[row, begun] = drawn - np.log(np.exp(drawn).sum())
        return self._known[row, begun]

    def __call__(self, requests: Sequence[tuple[int, Tokens]]) -> NDArray[np.float64]:
        return np.asarray(
            [
                sum(self.next(row, answer[:place])[self.place[token]] for place, token in enumerate(answer))
                for row, answer in requests
            ]
        )


@pytest.mark.parametrize("base", ["tiny-llama", "tiny-t5"])
@quick
@given(
    labels=LABELS, kind=st.sampled_from(["multilabel", "multiclass"]), in_order=st.booleans(), seed=st.integers(0, 99)
)
def test_every_answer_that_can_be_written_is_read_as_what_it_names(base, labels, kind, in_order, seed):
    prompter, space = space_of(labels, kind, base)
    tokenizer = facts_of(base).tokenizer
    walked = walk(4, space, Writer(space, seed), in_order)
    assert walked.scores.dtype == np.float32 and walked.scores.shape == (4, len(labels))
    assert np.isfinite(walked.scores).all() and walked.scores.min() >= 0 and walked.scores.max() <= 1
    for named, scores in zip(walked.named, walked.scores, strict=True):
        written = tokenizer.decode(list(space.written(named, closed=True)), skip_special_tokens=True)
        assert prompter.words.named(written) == named
        assert len(space.written(named, closed=True)) <= space.longest
        if kind == "multiclass":
            assert named == [int(scores.argmax())]
            assert scores.sum() == pytest.approx(1, abs=1e-5)
        elif in_order:
            assert named == [label for label in space.order if label in named]
            assert tokenizer.decode(list(space.answer(np.isin(range(len(labels)), named)))) == (
                tokenizer.decode(list(space.written(named, closed=True)))
            )


def chain(space: AnswerSpace, writer: LogLikelihoods, row: int) -> dict[tuple[int, ...], float]:
    """Every set of labels, in order, with the probability that a model that can write nothing else writes it."""
    labels = space.order
    likely: dict[tuple[int, ...], float] = {}
    for size in range(len(labels) + 1):
        for answer in itertools.combinations(labels, size):
            probability = 1.0
            for step in range(size + 1):
                named, rest = answer[:step], labels[labels.index(answer[step - 1]) + 1 :] if step else labels
                begun = space.written(named, closed=False)
                pieces = {label: (space.later if step else space.first)[label] for label in rest}
                pieces[-1] = space.end if step else space.none
                said = np.exp(writer([(row, begun + piece) for piece in pieces.values()]))
                chosen = answer[step] if step < size else -1
                probability *= said[list(pieces).index(chosen)] / said.sum()
            likely[answer] = probability
    return likely


def follows_the_chain(space: AnswerSpace, writer: LogLikelihoods, rows: int) -> None:
    """In order, a label's score is its share of all answers that agree with what was decided before it."""
    walked = walk(rows, space, writer, in_order=True)
    for row in range(rows):
        likely = chain(space, writer, row)
        assert sum(likely.values()) == pytest.approx(1)
        decided: list[tuple[int, bool]] = []
        for label in space.order:
            agreeing = {
                answer: share
                for answer, share in likely.items()
                if all((before in answer) == given for before, given in decided)
            }
            expected = sum(share for answer, share in agreeing.items() if label in answer) / sum(agreeing.values())
            assert walked.scores[row, label] == pytest.approx(expected, abs=1e-5)
            decided.append((label, label in walked.named[row]))


@quick
@given(st.integers(0, 1_000), st.sampled_from([0.3, 3.0]))
def test_scores_in_order_are_the_chain_rule(seed, sure):
    _, space = space_of(("rude", "kind", "Other", "angry"), "multilabel")
    follows_the_chain(space, Writer(space, seed, sure), rows=2)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "phi", "gpt-neox", "t5"])
@pytest.mark.parametrize("personal", [False, True])
def test_so_they_are_of_real_models_and_what_these_write_is_read(architecture, personal):
    rows = crowd(rows=12)
    prompter = Prompter(rows.task, PromptSettings(shots=1), rows, personal, seed=0)
    prompted = Prompted(load_language_model(f"tiny-{architecture}"), prompter, 400, "cpu")
    prompts, _ = prompted.distinct(list(rows.texts[:2]), list(rows.user_ids[:2]))
    follows_the_chain(prompted.space, prompted.loglikelihoods(prompts, prompted.answer_head), rows=len(prompts))
    for in_order in (True, False):
        for named in prompted.walk(prompts, in_order).named:
            assert prompter.words.named(prompted.write(named)) == named


@quick
@given(st.integers(0, 1_000))
def test_in_any_order_a_label_that_is_named_is_scored_by_every_step(seed):
    _, space = space_of(("rude", "kind", "other"), "multilabel")
    writer = Writer(space, seed)
    walked = walk(1, space, writer, in_order=False)
    named, scores = walked.named[0], walked.scores[0]
    missed = np.ones(3)
    for step in range(min(len(named), 2) + 1):
        begun = space.written(named[:step], closed=False)
        options = [*(label for label in range(3) if label not in named[:step]), -1]
        pieces = [
            ((space.end if step else space.none) if option < 0 else (space.later if step else space.first)[option])
            for option in options
        ]
        said = np.exp(writer([(0, begun + piece) for piece in pieces]))
        for option, probability in zip(options, said / said.sum(), strict=True):
            if option >= 0:
                missed[option] *= 1 - probability
    np.testing.assert_allclose(scores, 1 - missed, atol=1e-5)


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
@pytest.mark.parametrize("said", ["hate", "hate speech", "nonexistent"])
def test_a_name_that_begins_another_is_not_taken_for_it(kind, said):
    """Whoever writes "hate speech" does not mean "hate" besides, nor "none" who writes "nonexistent"."""
    labels = ("hate", "hate speech", "joy", "nonexistent")
    _, space = space_of(labels, kind)
    meant = labels.index(said)
    answer = space.first[meant] + space.end
    likely = Writer(space, 0)

    def sure(requests: Sequence[tuple[int, Tokens]]) -> NDArray[np.float64]:
        strays = [any(one != other for one, other in zip(answer, asked, strict=False)) for _, asked in requests]
        return np.log(np.where(strays, 1e-6, 1)) + 1e-3 * likely(requests)

    for in_order in (True, False):
        walked = walk(1, space, sure, in_order)
        assert walked.named == [[meant]]
        assert walked.scores[0, meant] > 0.9
        assert np.delete(walked.scores[0], meant).max() < 0.1
    assert first_step(1, space, sure)[0].argmax() == meant


@quick
@given(st.integers(0, 1_000), st.sampled_from(["multilabel", "multiclass"]))
@example(seed=996, kind="multiclass")  # by chance the first label's evidence says the opposite, too
def test_calibration_keeps_the_order_of_likelihoods_and_falls_back_on_rates(seed, kind):
    rng = np.random.default_rng(seed)
    labels = np.eye(3)[rng.integers(0, 3, 60)] if kind == "multiclass" else (rng.random((60, 3)) < 0.4).astype(float)
    evidence = 5 * rng.normal(size=(60, 3)) + 4 * labels
    evidence[:, 1] = -labels[:, 1]  # says the opposite
    calibration = fit_calibration(evidence, labels.astype(np.float32), kind)
    scores = calibration(evidence)
    assert scores.min() >= 0 and scores.max() <= 1
    agrees = ((evidence - evidence.mean(axis=0)) * labels).sum(axis=0) > 0  # the sign of the fitted coefficient
    assert (calibration.slope >= 0).all() and ((calibration.slope > 0) == agrees).all() and calibration.slope[1] == 0
    if kind == "multilabel":
        assert (np.diff(scores[np.argsort(evidence[:, 0]), 0]) >= 0).all()
        np.testing.assert_allclose(scores[:, 1], labels[:, 1].mean(), atol=2e-3)
    else:
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)

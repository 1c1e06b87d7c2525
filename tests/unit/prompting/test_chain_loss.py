"""What was not asked is neither learned, nor counted, nor shown as a "no", by any method that works with words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.adapters.bank import BankShape
from beholder.adapters.layers import init_tensors
from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.methods import config_class, load_fitted, save_fitted
from beholder.methods.lm import _TrainingRows
from beholder.methods.lm_user import FittedPersonalLanguage, LanguageBackbone
from beholder.models.info import facts_of
from beholder.models.language_model import load_language_model
from beholder.prompting.builder import Prompter
from beholder.prompting.chain_loss import ChainDecisions, target
from beholder.prompting.config import PromptSettings
from beholder.prompting.constrained_decoding import AnswerSpace, walk
from beholder.prompting.prompted_model import Prompted, answer_space
from beholder.training.context import Context

pytestmark = pytest.mark.long

LABELS = ("anger", "hate", "hate speech", "joy", "nonexistent")
UNASKED = np.nan


def space_of(labels=LABELS, base="tiny-llama", kind="multilabel") -> AnswerSpace:
    prompter = Prompter(Task(labels, kind), PromptSettings(), None, personal=False, seed=0)
    return answer_space(facts_of(base), prompter, 400)[1]


def rows_of(labels, texts=None, users=None) -> Annotations:
    labels = np.asarray(labels, dtype=float)
    names = ("angry", "kind", "rude")[: labels.shape[1]]
    return Annotations.from_columns(
        Task(names),
        text=texts or [f"text number {row}" for row in range(len(labels))],
        user_id=users or [f"u{row // 2 % 2}" for row in range(len(labels))],
        labels=labels,
    )


@pytest.mark.parametrize("base", ["tiny-llama", "tiny-t5"])
@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, UNASKED]), min_size=5, max_size=5), st.integers(0, 99))
def test_the_loss_is_that_of_the_scores_of_what_was_asked(base, labels, seed):
    """Scores as `walk` gives them to a model that names what the judgement names."""
    space = space_of(base=base)
    said = target(space, np.asarray(labels))
    if not np.isnan(labels).any():
        assert said == space.answer(np.asarray(labels) >= 0.5)
        return
    if np.isnan(labels).all():
        assert said is None
        return
    assert isinstance(said, ChainDecisions)
    drawn = np.random.default_rng(seed)
    vocabulary = {token: place for place, token in enumerate(space.vocabulary.tolist())}
    known: dict[tuple[int, ...], np.ndarray] = {}

    def likelihood(answer):
        total = 0.0
        for length, token in enumerate(answer):
            if answer[:length] not in known:
                raised = np.exp(drawn.normal(size=len(vocabulary)))
                known[answer[:length]] = np.log(raised / raised.sum())
            total += known[answer[:length]][vocabulary[token]]
        return total

    expected, named = 0.0, []
    for place, label in enumerate(space.order):
        begun, rest = space.written(named, closed=False), [*space.order[place:], -1]
        found = np.asarray([likelihood(begun + space.piece(named, option)) for option in rest])
        left = np.exp(found - found.max())
        for option, piece in enumerate(space.piece(named, each) for each in rest):  # of "hate", what is "hate speech"
            others = [space.piece(named, each) for each in rest]
            for other, at in zip(others, range(len(others)), strict=True):
                if len(piece) < len(other) and other[: len(piece)] == piece:
                    left[option] -= np.exp(found[at] - found.max())
        score = max(left[0], 1e-300) / max(left.sum(), 1e-300)
        if labels[label] == 1:
            expected, named = expected - np.log(score), [*named, label]
        elif labels[label] == 0:
            expected -= np.log(1 - score)
    found = torch.tensor([[likelihood(answer) for answer in said.answers]], dtype=torch.float64)
    assert float(said.of_likelihoods(found)) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    table = torch.tensor(np.stack([known[begun] for begun in said.beginnings])[None])
    assert float(said.losses(table)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_behind_the_last_label_asked_nothing_is_decided():
    space = space_of()
    said = target(space, np.asarray([1.0, UNASKED, UNASKED, UNASKED, UNASKED]))
    assert isinstance(said, ChainDecisions) and len(said.steps) == 1 and said.count == len(space.first[0])
    wholly = target(space, np.asarray([1.0, 0, 0, 0, 0]))
    assert wholly == space.first[0] + space.end
    one = space_of(("a", "b"), kind="multiclass")
    assert target(one, np.asarray([1.0, UNASKED])) == one.answer(np.asarray([True, False]))
    assert target(one, np.asarray([0.0, UNASKED])) is None


def trained(method: str, labels, folder: Path) -> np.ndarray:
    """Scores of a method that was fitted on these labels, without thresholds chosen on them."""
    rows = rows_of(labels)
    held = rows_of(np.asarray([[1.0, 0, 1], [0, 1, 0]] * 2))
    more = {"max_tokens": 300, "epochs": 1, "batch_size": 1, "learning_rate": 0.01, "lora": None}
    config, context = config_class("lm")(**more), Context("tiny-llama", seed=1, run_folder=folder)
    if method == "lm-u":
        shared = folder / "methods" / "lm"
        if not shared.is_dir():
            shared.mkdir(parents=True)
            save_fitted(config.fit(held, held, context), shared)
        bank = {"epochs": 40, "step_size": 0.3, "batch_size": 1, "prior": {"strength": 2.0}}
        config = config_class("lm-u")(bank=bank)
    elif method == "lm-p":
        config = config_class("lm-p")(**more)
    return config.fit(rows, rows, context).score(list(held.texts), ["u0", "u1"] * 2)


@pytest.mark.parametrize("method", ["lm", "lm-p", "lm-u"])
def test_what_was_not_asked_is_not_learned_as_a_no(method, tmp_path):
    """Half are asked "angry" alone and say yes, half "rude" alone and say no: everybody who was asked is angry."""
    labels = [[1.0, UNASKED, UNASKED], [UNASKED, UNASKED, 0.0]] * (8 if method == "lm-u" else 20)
    found = trained(method, labels, tmp_path)
    assert found[:, 0].min() > 0.85 and found[:, 2].max() < 0.2
    np.testing.assert_allclose(trained(method, labels, tmp_path), found, atol=1e-6)


@pytest.mark.parametrize("shape", [{}, {"top_layers": 1}], ids=["head", "layer"])
def test_a_bank_learns_from_what_was_asked_alone(shape, tmp_path):
    """The loss of every row is what the decisions say, and so is what it counts for."""
    whole = rows_of(np.asarray([[1.0, 0, 1], [0, 1, 0]] * 4))
    context = Context("tiny-llama", seed=1)
    (tmp_path / "lm").mkdir()
    save_fitted(config_class("lm")(max_tokens=300, epochs=1).fit(whole, whole, context), tmp_path / "lm")
    shared = load_fitted(tmp_path / "lm", "tiny-llama")
    labels = np.asarray([[UNASKED, 0, 1], [1, UNASKED, UNASKED], [1, 0, 0], [UNASKED, 0, 1]], dtype=np.float32)
    rows = rows_of(labels, users=["u0", "u0", "u0", "u1"])
    here = LanguageBackbone(shared, FittedPersonalLanguage.model_for(shared, BankShape(**shape)), rows, rows)
    outputs = here.outputs(100, tmp_path / "trunk")
    user = np.asarray([0, 0, 0, 1])
    examples = here.examples(outputs, "train", np.arange(4), 2, user)
    zero = {name: torch.zeros_like(tensor) for name, tensor in init_tensors(here.model.shapes, 2, 0, "cpu").items()}
    batch = np.asarray([[0, 1, 2], [3, -1, -1]])
    with torch.no_grad():
        found = {
            int(row): float(value)
            for losses, _, rows_of_piece in examples.losses(zero, batch)
            for value, row in zip(losses, rows_of_piece, strict=True)
        }
    assert sorted(found) == [0, 1, 2, 3]
    prompted = shared.prompted
    prompts, index = prompted.distinct(list(rows.texts), list(rows.user_ids))
    with torch.no_grad():
        likelihoods = prompted.loglikelihoods(prompts, prompted.answer_head)
        for row in (0, 1, 3):
            said = target(prompted.space, labels[row])
            assert isinstance(said, ChainDecisions)
            read = likelihoods([(int(index[row]), answer) for answer in said.answers])
            expected = float(said.of_likelihoods(torch.from_numpy(read)[None]))
            assert found[row] == pytest.approx(expected, abs=1e-4)
    counts = [target(prompted.space, labels[row]).count for row in (0, 1)]  # type: ignore[union-attr]
    assert examples.terms(batch).tolist() == [sum(counts) + len(prompted.space.answer(labels[2] >= 0.5)), counts[0]]
    assert examples.asked.tolist() == examples.terms(batch).tolist()


def test_a_row_without_anything_asked_is_left_out(tmp_path):
    labels = np.asarray([[1.0, 0, 1], [0, 1, 0]], dtype=np.float32)
    rows = rows_of(labels)
    more = rows_of(np.asarray([[1.0, 0, 1], [0, 1, 0], [1, 1, 1]], dtype=np.float32))
    hidden = more.labels.copy()
    hidden[2] = np.nan
    more.__dict__["labels"] = hidden  # no door lets such a row in
    prompted = Prompted(
        load_language_model("tiny-llama"), Prompter(rows.task, PromptSettings(), None, False, 0), 300, "cpu"
    )
    few, all_of = _TrainingRows(prompted, rows), _TrainingRows(prompted, more)
    assert len(few.lengths) == len(all_of.lengths) == 2 and all_of.text.tolist() == [0, 1]
    losses = [sum(float(value.detach()) for value, _ in each.losses(*[np.arange(2)] * 2)) for each in (few, all_of)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_an_example_never_says_no_to_what_was_not_asked():
    rows = rows_of(
        [[UNASKED, UNASKED, 0], [1, 0, 0], [UNASKED, 0, 0], [0, 0, 0]],
        texts=["half asked", "wholly asked", "also half", "another one"],
        users=["ann"] * 3 + ["bob"],
    )
    for personal, user in ((True, "ann"), (False, "bob")):
        for choose in ("random", "similar", "divisive"):
            prompter = Prompter(rows.task, PromptSettings(shots=3, choose=choose), rows, personal, seed=0)
            said = "".join(prompter.prompt("new", user).parts)
            assert "wholly asked -> angry" in said and "half" not in said
            assert any("2 of 4 training rows leave labels unasked" in line for line in prompter.notes())
    short = Prompter(rows.task, PromptSettings(shots=1), rows.select([0, 3]), True, seed=0)
    assert short.short_of_examples == 1 and not short.prompt("new", "ann").user.count("->")


def test_a_rate_is_said_of_labels_that_were_asked_only():
    rows = rows_of([[UNASKED, 1, 0], [0, 0, 1]], users=["ann", "bob"])
    prompter = Prompter(rows.task, PromptSettings(blocks=("statistics",)), rows, True, seed=0)
    assert "angry" not in prompter.prompt("new", "ann").user and "kind" in prompter.prompt("new", "ann").user
    assert "angry 0%" in prompter.prompt("new", "bob").user


def test_a_model_that_names_what_was_given_has_the_loss_of_its_scores():
    """`walk` and the loss agree on a real model: where it writes what the judgement says, to the label."""
    rows = rows_of([[1.0, 0, 1]] * 2)
    prompter = Prompter(rows.task, PromptSettings(), None, False, seed=0)
    prompted = Prompted(load_language_model("tiny-llama"), prompter, 300, "cpu")
    prompts, _ = prompted.distinct(list(rows.texts), list(rows.user_ids))
    read = prompted.loglikelihoods(prompts, prompted.answer_head)
    walked = walk(len(prompts), prompted.space, read, in_order=True)
    for row, named in enumerate(walked.named):
        labels = np.isin(range(3), named).astype(float)
        for hidden in range(3):
            asked = labels.copy()
            asked[hidden] = UNASKED
            if labels[hidden]:
                continue  # what is not asked stands as passed over
            said = target(prompted.space, asked)
            assert isinstance(said, ChainDecisions)
            found = torch.from_numpy(read([(row, answer) for answer in said.answers]))[None]
            score = walked.scores[row].astype(float)
            terms = np.log(np.where(labels == 1, score, 1 - score))
            assert float(said.of_likelihoods(found)) == pytest.approx(-np.delete(terms, hidden).sum(), abs=1e-4)

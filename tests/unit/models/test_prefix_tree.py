"""What prompts share is read once, and likelihoods and gradients are those of reading each prompt alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from crowd import crowd
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from beholder.methods.lm import _TrainingRows
from beholder.models.language_model import LanguageModel, load_language_model
from beholder.models.prefix_tree import AnswerTokens, PrefixTree, Segments, TreeReader, packs
from beholder.models.tiny import ARCHITECTURES, make_tiny
from beholder.prompting.builder import Prompter
from beholder.prompting.config import PromptSettings
from beholder.prompting.prompted_model import Prompted
from beholder.util.errors import BaseModelError

pytestmark = pytest.mark.long

WRITERS = [architecture for architecture in ARCHITECTURES if architecture != "bert"]
EVERYTHING = 1_000_000
quick = settings(max_examples=12, deadline=None)

pieces = st.lists(st.integers(4, 9), min_size=1, max_size=4).map(tuple)
prompts = st.lists(st.lists(pieces, min_size=1, max_size=3).map(tuple), min_size=1, max_size=5, unique=True)
replies = st.lists(pieces.map(lambda piece: (*piece, 2)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(params=WRITERS)
def language(request, folder) -> LanguageModel:
    return loaded(str(make_tiny(request.param, folder / request.param)))


@lru_cache
def loaded(where: str) -> LanguageModel:
    """A tiny model whose weights are large enough to say something."""
    language = load_language_model(where)
    with torch.no_grad():
        for parameter in language.model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return language


@st.composite
def asked(draw) -> tuple[list[Segments], list[tuple[int, AnswerTokens]]]:
    """Prompts that share beginnings, and some answers to each, in any order."""
    made = draw(prompts)
    requests = [(place, answer) for place in range(len(made)) for answer in draw(replies)]
    return made, draw(st.permutations(requests))


def alone(language: LanguageModel, prompt: Segments, answer: AnswerTokens) -> torch.Tensor:
    """The log-likelihood of an answer by the model's own forward pass over prompt and answer."""
    model, told = language.model, [token for segment in prompt for token in segment]
    if language.encodes:
        said = model(input_ids=torch.tensor([told]), decoder_input_ids=torch.tensor([[0, *answer[:-1]]])).logits[0]
    else:
        said = model(input_ids=torch.tensor([[*told, *answer[:-1]]])).logits[0, len(told) - 1 :]
    return -functional.cross_entropy(said, torch.tensor(answer), reduction="sum")


def shared(
    language: LanguageModel,
    made: list[Segments],
    requests: list[tuple[int, AnswerTokens]],
    budget: int,
    reader: TreeReader | None = None,
) -> torch.Tensor:
    """The log-likelihoods of all answers, [requests]."""
    found = torch.zeros(len(requests))
    for pack in packs(language, made, requests, budget):
        hidden = reader.hidden(pack) if reader else pack.hidden(language)
        said = functional.log_softmax(language.logits(hidden), dim=-1)
        each = said[torch.from_numpy(pack.asked.place), torch.from_numpy(pack.asked.token)]
        found = found.index_add(0, torch.from_numpy(pack.asked.request), each)
    return found


def test_a_likelihood_is_that_of_reading_prompt_and_answer_alone(language):
    @quick
    @given(asked(), st.sampled_from([0, 20, EVERYTHING]), st.randoms(use_true_random=False))
    def law(drawn, budget, rng):
        made, requests = drawn
        with torch.no_grad():
            expected = torch.stack([alone(language, made[prompt], answer) for prompt, answer in requests])
            found = shared(language, made, requests, budget)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
            reader = TreeReader(language)
            for _ in range(2):  # the second time, the last pack of the first is in memory
                kept = shared(language, made, requests, budget, reader)
                torch.testing.assert_close(kept, expected, atol=1e-4, rtol=1e-4)
            order = rng.sample(range(len(requests)), len(requests))
            again = shared(language, made, [requests[place] for place in order], budget)
            torch.testing.assert_close(again, expected[order], atol=1e-4, rtol=1e-4)
        assert all(torch.isfinite(expected)) and expected.max() < 0

    law()


def test_gradients_flow_through_what_is_shared(language):
    made: list[Segments] = [((4, 5, 6), (7, 8), (9,)), ((4, 5, 6), (7, 8), (4, 4)), ((4, 5, 6), (5,)), ((8, 8),)]
    requests: list[tuple[int, AnswerTokens]] = [
        (place, (5 + place, token, 2)) for place in range(4) for token in (4, 9)
    ]
    weights = torch.linspace(0.5, 1.5, len(requests))

    def gradients(values: torch.Tensor) -> dict[str, torch.Tensor]:
        language.model.zero_grad()
        (values * weights).sum().backward()
        return {name: p.grad.clone() for name, p in language.model.named_parameters() if p.grad is not None}

    apart = gradients(torch.stack([alone(language, made[prompt], answer) for prompt, answer in requests]))
    assert len(apart) > 5 and max(float(each.abs().max()) for each in apart.values()) > 1e-3
    for budget in (0, EVERYTHING):
        together = gradients(shared(language, made, requests, budget))
        assert together.keys() == apart.keys()
        for name, gradient in together.items():
            scale = float(apart[name].abs().max())
            torch.testing.assert_close(gradient, apart[name], atol=1e-4 * max(1.0, scale), rtol=1e-3)


@quick
@given(asked(), st.sampled_from([0, 15, 40, EVERYTHING]))
def test_what_is_shared_is_read_once(folder, drawn, budget):
    language = loaded(str(make_tiny("llama", folder / "llama")))
    made, requests = drawn
    cut = list(packs(language, made, requests, budget))
    assert sorted(place for pack in cut for place in set(pack.asked.request)) == list(range(len(requests)))
    assert len(cut) == 1 or budget < EVERYTHING
    for pack in cut:
        here = {requests[place][0] for place in pack.asked.request}
        beginnings = {made[prompt][:depth] for prompt in here for depth in range(1, len(made[prompt]) + 1)}
        begun = {
            (prompt, answer[:length])
            for prompt, answer in requests
            if prompt in here
            for length in range(1, len(answer))
        }
        assert pack.size == sum(len(beginning[-1]) for beginning in beginnings) + len(begun)
        assert pack.size <= budget or len(here) == 1


def test_what_packs_begin_with_alike_is_read_once_for_all(folder):
    language = loaded(str(make_tiny("llama", folder / "llama")))
    beginning = tuple(range(4, 24))
    made: list[Segments] = [(beginning, (30 + number, 40, 41)) for number in range(8)]
    requests: list[tuple[int, AnswerTokens]] = [(place, (token, 50, 2)) for place in range(8) for token in (60, 61)]
    cut = list(packs(language, made, requests, 35))
    assert len(cut) > 3 and all(isinstance(pack, PrefixTree) for pack in cut)
    reader = TreeReader(language)
    with torch.no_grad():
        shared(language, made, requests, 35, reader)
    assert reader.tokens == len(beginning) + 8 * (3 + 2 * 2)
    assert sum(pack.size for pack in cut) == reader.tokens + len(beginning) * (len(cut) - 1)


@quick
@given(asked())
def test_an_encoder_decoder_encodes_each_prompt_once(folder, drawn):
    language = loaded(str(make_tiny("t5", folder / "t5")))
    made, requests = drawn
    (pack,) = packs(language, made, requests, EVERYTHING)
    told = sum(len(segment) for prompt in made for segment in prompt)
    assert pack.size == told + sum(len(answer) for _, answer in requests)


def chain_loss(language: LanguageModel, prompted: Prompted, prompt: Segments, labels: np.ndarray) -> torch.Tensor:
    """-log of each score that was asked, label by label: every option is read alone, among answer tokens only."""
    space, words = prompted.space, torch.from_numpy(prompted.space.vocabulary)

    def likelihood(answer: AnswerTokens) -> torch.Tensor:
        model, told = language.model, [token for segment in prompt for token in segment]
        if language.encodes:
            said = model(input_ids=torch.tensor([told]), decoder_input_ids=torch.tensor([[0, *answer[:-1]]])).logits[0]
        else:
            said = model(input_ids=torch.tensor([[*told, *answer[:-1]]])).logits[0, len(told) - 1 :]
        at = torch.searchsorted(words, torch.tensor(answer))
        return functional.log_softmax(said[:, words], dim=-1)[range(len(answer)), at].sum()

    total, named = torch.zeros(()), []
    for place, label in enumerate(space.order):
        begun = space.written(named, closed=False)
        pieces = {each: (space.later if named else space.first)[each] for each in space.order[place:]}
        pieces[-1] = space.end if named else space.none
        left = {each: likelihood(begun + piece) for each, piece in pieces.items()}
        score = (left[label] - torch.stack(list(left.values())).logsumexp(0)).exp()
        if labels[label] == 1:
            total, named = total - score.log(), [*named, label]
        elif labels[label] == 0:
            total = total - (1 - score).log()
    return total


@pytest.mark.parametrize("personal", [False, True])
def test_grouped_training_has_the_gradient_of_one_row_per_judgement(language, personal):
    """`lm`: equal prompts with equal answers are counted; the loss is that of the answers' tokens, end included."""
    rows = crowd(rows=16)
    prompter = Prompter(rows.task, PromptSettings(shots=1, choose="similar"), rows, personal, seed=0)
    prompted = Prompted(language, prompter, 512, "cpu")
    training = _TrainingRows(prompted, rows)
    if not personal:
        plain = Prompter(rows.task, PromptSettings(), rows, False, seed=0)
        assert len(_TrainingRows(Prompted(language, plain, 512, "cpu"), rows).lengths) < len(rows)

    def gradients() -> dict[str, torch.Tensor]:
        return {name: p.grad.clone() for name, p in language.model.named_parameters() if p.grad is not None}

    language.model.zero_grad()
    total = 0.0
    for value, _ in training.losses(*[np.arange(len(training.lengths))] * 2):
        value.backward()
        total += float(value.detach())
    together = gradients()

    language.model.zero_grad()
    made, index = prompted.distinct(list(rows.texts), list(rows.user_ids))
    expected = 0.0
    for row, place in enumerate(index):
        if np.isnan(rows.labels[row]).any():
            value = chain_loss(language, prompted, made[place], rows.labels[row]) / len(rows)
        else:
            answer = prompted.space.answer(rows.labels[row] >= 0.5)
            assert answer[-1] == language.base.tokenizer.eos_token_id
            value = -alone(language, made[place], answer) / len(rows)
        value.backward()
        expected += float(value.detach())
    assert total == pytest.approx(expected, rel=1e-4)
    apart = gradients()
    for name, gradient in together.items():
        scale = float(apart[name].abs().max())
        torch.testing.assert_close(gradient, apart[name], atol=1e-4 * max(1e-2, scale), rtol=1e-3)


def saved(model, tmp_path) -> str:
    """A tiny base of an architecture that is not among the tiny ones."""
    from beholder.models.info import facts_of

    model.save_pretrained(tmp_path / "base")
    facts_of("tiny-llama").tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def test_attention_that_knows_no_bool_masks_is_read_alike(tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(
        Gemma2Config(vocab_size=300, **sizes, num_key_value_heads=2, head_dim=8, attn_implementation="eager")
    )
    language = load_language_model(saved(model, tmp_path))
    made: list[Segments] = [((4, 5, 6), (7, 8)), ((4, 5, 6), (9,))]
    requests: list[tuple[int, AnswerTokens]] = [(place, (token, 2)) for place in (0, 1) for token in (4, 9)]
    with torch.no_grad():
        expected = torch.stack([alone(language, made[prompt], answer) for prompt, answer in requests])
        # Gemma 2 caps its logits, which is no projection; of such small ones the cap takes nothing
        for reader in (None, TreeReader(language)):
            found = shared(language, made, requests, 0, reader)
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_base_that_cannot_be_read_so_is_refused(tmp_path):
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=300))
    with pytest.raises(BaseModelError, match="do not attend by mask and position alone") as caught:
        load_language_model(saved(model, tmp_path))
    assert "\n" not in str(caught.value)

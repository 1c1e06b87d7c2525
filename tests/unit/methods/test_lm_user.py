"""`lm-u`: an adapter per user on top of a language model, by the same laws as every bank."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from crowd import TEXTS, crowd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beholder.adapters.bank import BankShape
from beholder.adapters.fit import BankTraining, fit_bank, held_out_batches, row_losses
from beholder.adapters.layers import init_tensors
from beholder.adapters.overlay import Overlay
from beholder.adapters.prior import isotropic
from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.evaluation.metrics import decide, macro_f1
from beholder.methods import config_class, load_fitted, save_fitted
from beholder.methods.lm_user import FittedPersonalLanguage, LanguageBackbone, one_pack
from beholder.training.context import Context
from beholder.util.errors import BankError, MethodError
from beholder.util.run_folder import RunFolder

pytestmark = pytest.mark.long

CASES = [
    ("llama", {"head": "full"}),
    ("llama", {"top_layers": 1, "head": "gate"}),
    ("llama", {"top_layers": 2, "targets": "all-linear", "head": "bias"}),
    ("mistral", {"top_layers": 1}),
    ("phi", {"top_layers": 1}),
    ("gpt-neox", {"top_layers": 1}),
    ("t5", {"head": "full"}),
]
NAMES = [f"{architecture}-{shape.get('top_layers', 0)}" for architecture, shape in CASES]
BANK = {"epochs": 3, "batch_size": 4, "prior": {"rank": 2, "steps": 5}}
FEW = settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))


@lru_cache
def written(architecture: str, kind: str = "multilabel", method: str = "lm") -> Path:
    """A run folder with a fitted language model in it."""
    folder, rows = Path(mkdtemp()), crowd(kind=kind)
    more = {"max_tokens": 400, "epochs": 1, "lora": {"rank": 2, "targets": "all-linear"}}
    fitted = config_class(method)(**more).fit(rows, rows, Context(f"tiny-{architecture}", seed=1))
    (folder / "methods" / method).mkdir(parents=True)
    save_fitted(fitted, folder / "methods" / method)
    return folder


def backbone(architecture, shape, rows):
    shared = load_fitted(written(architecture) / "methods" / "lm", f"tiny-{architecture}")
    return LanguageBackbone(shared, FittedPersonalLanguage.model_for(shared, BankShape(**shape)), rows, rows)


@pytest.mark.parametrize("kind", ["multilabel", "multiclass", "ordinal"])
@pytest.mark.parametrize(("architecture", "shape"), CASES, ids=NAMES)
def test_it_fits_scores_saves_and_loads(architecture, shape, kind, tmp_path):
    rows, base = crowd(kind=kind), f"tiny-{architecture}"
    shutil.copytree(written(architecture, kind), tmp_path, dirs_exist_ok=True)
    context = Context(base, seed=1, run_folder=tmp_path)
    fitted = config_class("lm-u")(bank={**BANK, **shape}).fit(rows, rows, context)
    texts, users = [*rows.texts[:20], "never seen"], [*rows.user_ids[:20], "nobody"]
    scores = fitted.score(texts, users)
    assert scores.dtype == np.float32 and scores.shape == (21, 3)
    assert scores.min() >= 0 and scores.max() <= 1
    shared = load_fitted(tmp_path / "methods" / "lm", base).score(texts, users)
    nobody = fitted.with_bank(Overlay(fitted.model.shapes, {}, fitted.prior.without_rows()))
    np.testing.assert_allclose(scores[-1], nobody.score(texts[-1:], users[-1:])[0], atol=1e-5)  # the prior's mean
    assert np.abs(scores - shared).max() > 1e-3
    everybody = fitted.score_all(texts[:4], ["u1", "nobody", "u0"])
    for place, user in enumerate(["u1", "nobody", "u0"]):
        np.testing.assert_allclose(everybody[:, place], fitted.score(texts[:4], [user] * 4), atol=1e-5)
    (tmp_path / "saved").mkdir()
    save_fitted(fitted, tmp_path / "saved")
    shutil.rmtree(RunFolder(tmp_path).unfinished)
    again = load_fitted(tmp_path / "saved", base)
    np.testing.assert_allclose(again.score(texts, users), scores, atol=1e-6)
    np.testing.assert_allclose(again.thresholds, fitted.thresholds)
    assert not [file for pattern in ("*.bin", "*.pkl", "*.pt") for file in tmp_path.rglob(pattern)]


@pytest.mark.parametrize(("architecture", "shape"), CASES, ids=NAMES)
def test_a_user_is_trained_alike_alone_and_in_any_company(architecture, shape, tmp_path):
    rows = crowd()
    here = backbone(architecture, shape, rows)
    outputs = here.outputs(100, tmp_path / "trunk")
    training = BankTraining(epochs=3, batch_size=4)
    flat = isotropic(here.model.shapes, 1, training.epochs)
    spread = {name: torch.tensor(0.3) for name in flat.mean if not name.endswith(".down")}
    prior = replace(flat, spread=spread)

    def fit(users):
        mine = [np.flatnonzero(rows.user_ids == user) for user in users]
        user = np.repeat(np.arange(len(users)), [len(each) for each in mine])
        examples = here.examples(outputs, "train", np.concatenate(mine), len(users), user)
        return fit_bank(prior, users, examples, training, seed=1).tensors

    alone = fit(["u1"])
    assert max(float(tensor.abs().max()) for tensor in alone.values()) > 1e-3

    @FEW
    @given(st.permutations(["u0", "u1", "u2", "u3"]), st.integers(1, 4))
    def law(order, count):
        users = ["u1", *[user for user in order if user != "u1"]][:count]
        users.sort(key=order.index)
        for name, tensor in fit(users).items():
            torch.testing.assert_close(tensor[users.index("u1")], alone[name][0], atol=1e-5, rtol=0)

    law()


@pytest.mark.parametrize(("architecture", "shape"), CASES, ids=NAMES)
def test_trunk_and_tail_read_a_tree_as_the_whole_model_reads_each_answer_alone(architecture, shape):
    here = backbone(architecture, shape, crowd())
    prompted, model = here.shared.prompted, here.model
    prompts, _ = prompted.distinct(["go away", "you are so very kind"], ["u0", "u0"])
    answers = [prompted.space.answer(np.asarray(given)) for given in ([1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1])]
    packs = [one_pack(prompted, prompt, answers) for prompt in prompts]
    with torch.inference_mode():
        values, _ = model.read(packs)
        places = [np.arange(pack.asked.place.max() + 1) for pack in packs]
        zero = {name: torch.zeros_like(tensor) for name, tensor in init_tensors(model.shapes, 1, 0, "cpu").items()}
        logits = model.answer_logits(values, packs, places, zero, torch.zeros(2, dtype=torch.long))
    loglikelihoods = prompted.loglikelihoods(prompts, prompted.answer_head)
    for place, pack in enumerate(packs):
        found = here.shared.prompted.space.vocabulary.searchsorted(pack.asked.token)
        said = torch.log_softmax(logits[place], -1).numpy()[pack.asked.place, found]
        together = np.bincount(pack.asked.request, weights=said)
        alone = [loglikelihoods([(place, answer)])[0] for answer in answers]
        np.testing.assert_allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize(("architecture", "shape"), CASES, ids=NAMES)
def test_heads_are_learned_from_the_last_states_of_the_shared_model(architecture, shape):
    rows = crowd()
    here = backbone(architecture, shape, rows)
    users, user = rows.by_user
    order = np.argsort(user, kind="stable")
    examples = here.examples(here.outputs(100, None), "train", order, len(users), user[order])
    heads = examples.heads
    assert (heads is None) == (not here.model.shape.top_layers)
    if heads is None:
        return
    torch.manual_seed(4)
    tensors = init_tensors(here.model.shapes, len(users), 0, "cpu")
    tensors |= {name: torch.randn_like(tensor) for name, tensor in tensors.items() if name.startswith("head.")}
    batches = held_out_batches(examples.rows)
    np.testing.assert_allclose(row_losses(heads, batches, tensors), row_losses(examples, batches, tensors), atol=1e-4)


def test_it_learns_who_reads_where_one_model_for_all_cannot(tmp_path):
    texts = [f"{text} {i}" for i in range(4) for text in TEXTS]
    labels = np.tile([[1.0, 0.0], [0.0, 1.0]], (len(texts), 1))
    rows = Annotations.from_columns(
        Task(("rude", "kind")),
        text=[text for text in texts for _ in range(2)],
        user_id=["harsh", "mild"] * len(texts),
        labels=labels,
    )
    context = Context("tiny-llama", seed=1, run_folder=tmp_path)
    shared = config_class("lm")(max_tokens=300, epochs=1).fit(rows, rows, context)
    (tmp_path / "methods" / "lm").mkdir(parents=True)
    save_fitted(shared, tmp_path / "methods" / "lm")
    fitted = config_class("lm-u")(bank={**BANK, "epochs": 60, "step_size": 0.3}).fit(rows, rows, context)
    f1 = [
        macro_f1(decide(each.score(list(rows.texts), list(rows.user_ids)), each.thresholds, "multilabel"), rows.labels)
        for each in (shared, fitted)
    ]
    assert f1[0] < 0.75 and f1[1] > 0.99


def test_what_it_cannot_stand_on_is_said(tmp_path):
    rows = crowd()
    cls = config_class("cls")(epochs=1, max_tokens=32).fit(rows, rows, Context("tiny-llama", seed=1))
    (tmp_path / "methods" / "cls").mkdir(parents=True)
    save_fitted(cls, tmp_path / "methods" / "cls")
    context = Context("tiny-llama", run_folder=tmp_path)
    with pytest.raises(MethodError, match=r"methods\.lm-u\.init_from: cls is a cls; lm-u stands on lm or lm-p"):
        config_class("lm-u")(init_from="cls").fit(rows, rows, context)
    with pytest.raises(BankError, match="encoder-decoder that writes, the head alone"):
        backbone("t5", {"top_layers": 1}, rows)

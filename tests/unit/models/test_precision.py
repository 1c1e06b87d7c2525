"""How a base's weights are held: every method on bfloat16, 4 bits, and what is said where they cannot be had."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from crowd import crowd
from hypothesis import given
from hypothesis import strategies as st
from needs import package, reason

from beholder.methods import config_class, load_fitted, save_fitted
from beholder.models import facts_of, load_base, loading, resolve
from beholder.models.precision import FORMS, split_form
from beholder.training.context import Context
from beholder.util.errors import BaseModelError, MethodError

pytestmark = pytest.mark.long

LORA = {"rank": 2, "targets": "all-linear"}
TRAINED = {"epochs": 1, "batch_size": 16, "lora": LORA}
BANK = {"epochs": 2, "batch_size": 4, "prior": {"rank": 2, "steps": 5}}
CASES = [
    ("cls", {**TRAINED, "max_tokens": 32}),
    ("cls-p", {**TRAINED, "max_tokens": 32, "user_token": "added"}),
    ("cls-u", {"bank": BANK}),
    ("cls-u", {"bank": {**BANK, "top_layers": 1}}),
    ("query", {"decode": "constrained"}),
    ("lm", TRAINED),
    ("lm-p", TRAINED),
    ("lm-u", {"bank": {**BANK, "top_layers": 1}}),
]


def fitted_on(base: str, method: str, settings: dict, folder: Path):
    """A fitted method and its rows; what it starts from is fitted first."""
    rows, context = crowd(rows=32), Context(base=base, seed=1, run_folder=folder)
    if method.endswith("-u"):
        start = method.removesuffix("-u")
        written = folder / "methods" / start
        written.mkdir(parents=True)
        save_fitted(config_class(start)(**TRAINED).fit(rows, rows, context), written)
    return config_class(method)(**settings).fit(rows, rows, context), rows


def scores_before_and_after(base: str, method: str, settings: dict, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a method as it was fitted, and as it was saved and loaded."""
    (folder / "saved").mkdir(parents=True)
    fitted, rows = fitted_on(base, method, settings, folder)
    asked = [*rows.texts[:20], "never seen"], [*rows.user_ids[:20], "nobody"]
    save_fitted(fitted, folder / "saved")
    again, users = load_fitted(folder / "saved", base), sorted(set(rows.user_ids))[:2]
    everybody, held = fitted.score_all(asked[0][:3], users), fitted.score(asked[0][:3], [users[1]] * 3)
    np.testing.assert_allclose(everybody[:, 1], held, atol=2e-2)
    return fitted.score(*asked), again.score(*asked)


@given(
    name=st.text(st.characters(codec="ascii", exclude_characters="@"), min_size=1), form=st.sampled_from([*FORMS, ""])
)
def test_a_form_is_what_stands_after_the_last_at(name, form):
    written = f"{name}@{form}" if form else name
    assert split_form(written) == (name, form or "float32")
    assert split_form(f"me@home/{name}") == (f"me@home/{name}", "float32")  # a folder's own @


def test_an_unknown_form_is_said_with_what_was_meant():
    for ask in (resolve, load_base, facts_of):
        with pytest.raises(BaseModelError, match=r"base 'tiny-llama@bf61': unknown form 'bf61'. Did you mean 'bf16'\?"):
            ask("tiny-llama@bf61")
    assert resolve("tiny-llama@bf16") == resolve("tiny-llama@nf4") == resolve("tiny-llama")


@pytest.mark.parametrize(("method", "settings"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_every_method_works_on_bfloat16_weights(method, settings, tmp_path):
    held, again = scores_before_and_after("tiny-llama@bf16", method, settings, tmp_path / "bf16")
    plain, _ = scores_before_and_after("tiny-llama", method, settings, tmp_path / "float32")
    assert np.isfinite(held).all() and held.min() >= 0 and held.max() <= 1
    assert 0 < np.abs(held - plain).max() < 0.03
    np.testing.assert_allclose(again, held, atol=2e-3)


DECODERS = ("tiny-phi", "tiny-gpt-neox", "tiny-t5")


@pytest.mark.parametrize(
    ("method", "base"), [("cls-p", "tiny-bert"), *((name, base) for name in ("cls-p", "lm") for base in DECODERS)]
)
def test_every_architecture_works_on_bfloat16_weights(method, base, tmp_path):
    settings = {**TRAINED, "user_token": "added"} if method == "cls-p" else TRAINED
    held, again = scores_before_and_after(f"{base}@bf16", method, settings, tmp_path / "bf16")
    plain, _ = scores_before_and_after(base, method, settings, tmp_path / "float32")
    assert np.isfinite(held).all() and 0 < np.abs(held - plain).max() < 0.03
    np.testing.assert_allclose(again, held, atol=2e-3)


def test_what_is_trained_is_float32_whatever_the_base_is_held_in(tmp_path):
    fitted, _ = fitted_on("tiny-llama@bf16", "cls-p", {**TRAINED, "user_token": "added"}, tmp_path)
    types = {name: parameter.dtype for name, parameter in fitted.network.named_parameters()}
    trained = [name for name in types if ".lora_" in name or not name.startswith("model.")]
    assert len(trained) > 10 and {types[name] for name in trained} == {torch.float32}
    assert {types[name] for name in types if name not in trained} == {torch.bfloat16}
    other, _ = fitted_on("tiny-llama", "cls-p", {**TRAINED, "user_token": "added"}, tmp_path)
    assert fitted.checksum != other.checksum and fitted.base.checksum == other.base.checksum


@pytest.mark.skipif(torch.cuda.is_available(), reason=reason("a machine without a GPU"))
def test_four_bits_without_a_gpu_are_refused_at_once():
    with pytest.raises(BaseModelError, match=r"base 'tiny-llama@nf4': 4-bit weights need a GPU.*Use tiny-llama@bf16"):
        load_base("tiny-llama@nf4")


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is not None, reason=reason("an environment without bitsandbytes")
)
def test_four_bits_without_bitsandbytes_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(BaseModelError, match=r"base 'tiny-llama@nf4'.*pip install 'beholder\[gpu\]'"):
        load_base("tiny-llama@nf4")


@pytest.mark.parametrize("form", FORMS)
def test_weights_that_are_not_float32_cannot_be_trained_themselves(form):
    facts = facts_of(f"tiny-llama@{form}")
    for method in ("cls", "lm"):
        config_class(method)().check(facts, crowd().task)
        with pytest.raises(MethodError, match=rf"'tiny-llama@{form}' are not float32. Give lora, or use tiny-llama\."):
            config_class(method)(lora=None).check(facts, crowd().task)


@pytest.fixture
def four_bits(monkeypatch):
    """On a GPU where there is one; else on the CPU, by the same way through bitsandbytes."""
    package("bitsandbytes")
    modules = importlib.import_module("bitsandbytes.nn.modules")
    if not torch.cuda.is_available():
        monkeypatch.setattr(loading, "require_form", lambda name: None)
        monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)  # another way, which is for inference only


@pytest.mark.parametrize("base", ["tiny-mistral", "tiny-t5", "tiny-phi", "tiny-gpt-neox"])
@pytest.mark.parametrize(("method", "settings"), CASES[:-1], ids=lambda value: value if isinstance(value, str) else "")
def test_four_bits_train_score_save_and_load(method, settings, base, four_bits, tmp_path):
    if (method, base) == ("lm-u", "tiny-t5"):  # of an encoder-decoder that writes, the head alone can be a user's own
        settings = {"bank": BANK}
    held, again = scores_before_and_after(f"{base}@nf4", method, settings, tmp_path)
    assert np.isfinite(held).all() and held.min() >= 0 and held.max() <= 1
    np.testing.assert_allclose(again, held, atol=2e-3)


def test_an_adapter_learns_beside_four_bit_weights_and_stays_there(four_bits, tmp_path):
    fitted, _ = fitted_on("tiny-llama@nf4", "cls", {**TRAINED, "max_tokens": 32}, tmp_path)
    parameters = dict(fitted.network.named_parameters())
    ups = [tensor.detach() for name, tensor in parameters.items() if "lora_B" in name]
    assert ups and all(tensor.dtype == torch.float32 and float(tensor.abs().max()) > 0 for tensor in ups)
    packed = [tensor for name, tensor in parameters.items() if name.endswith("_proj.base_layer.weight")]
    assert len(packed) == 14 and {tensor.dtype for tensor in packed} == {torch.uint8}
    assert not any(getattr(module, "merged", False) for module in fitted.network.modules())

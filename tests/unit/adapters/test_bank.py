"""The laws of the bank, on every architecture: what a user learns and how they then read is that user's own affair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bank_world import CASES, LABELS, SHAPES, TEXTS, World, world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beholder.adapters.bank import BankShape
from beholder.adapters.layers import init_tensors
from beholder.adapters.peft_export import export_user, read_user
from beholder.models import load_base
from beholder.models.tiny import ARCHITECTURES
from beholder.training.user_adam import UserAdam
from beholder.util.errors import BankError

pytestmark = pytest.mark.long

FEW = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))


def of(fit, users, name):
    return {each: tensor[users.index(name)] for each, tensor in fit.tensors.items()}


@pytest.mark.parametrize(("architecture", "shape"), CASES)
def test_a_user_is_trained_alike_alone_and_in_any_company_and_order(architecture, shape):
    here = world(architecture, shape)
    alone = of(here.fit(["me"]), ["me"], "me")
    assert any(float((tensor - here.prior.mean[name]).abs().max()) > 1e-3 for name, tensor in alone.items())

    @FEW
    @given(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6), st.integers(0, 6))
    def law(company, place):
        users = [*company[:place], "me", *company[place:]]
        together = here.fit(users)
        for name, tensor in of(together, users, "me").items():
            torch.testing.assert_close(tensor, alone[name], atol=1e-5, rtol=0)
        turned = users[::-1]
        again = here.fit(turned)
        for user in users:
            for name, tensor in of(again, turned, user).items():
                torch.testing.assert_close(tensor, of(together, users, user)[name], atol=1e-5, rtol=0)

    law()


@pytest.mark.parametrize(("architecture", "shape"), [("bert", "full"), ("llama", "one layer")])
def test_in_a_large_and_uneven_company_each_is_trained_as_alone_and_as_well(architecture, shape):
    """A hundred rows beside four: held-out rows take several batches, and the busy take more steps than the others."""
    here = world(architecture, shape)
    crowd = [f"u{number:03d}" for number in range(70)]
    users = [*crowd[:30], "busy one", *crowd[30:], "busy two", "me"]
    together = here.fit(users)
    for name in ("me", "busy one", "u069"):
        alone = here.fit([name])
        for tensor, expected in zip(of(together, users, name).values(), of(alone, [name], name).values(), strict=True):
            torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=0)
        assert together.losses is not None and alone.losses is not None
        np.testing.assert_allclose(together.losses[:, users.index(name)], alone.losses[:, 0], rtol=1e-4, atol=1e-4)


@given(st.sets(st.integers(0, 5), max_size=5), st.integers(1, 4))
@FEW
def test_a_user_absent_from_a_batch_does_not_move(absent, steps):
    shapes = {"head.bias": (LABELS,), "layer.down": (2, 5), "layer.up": (5, 2)}
    generator = torch.Generator().manual_seed(len(absent) + 10 * steps)
    tensors = {name: torch.randn(6, *shape, generator=generator) for name, shape in shapes.items()}
    optimizer = UserAdam(tensors, clip=1.0)

    def step(users):
        gradients = {name: torch.randn(len(users), *shape, generator=generator) for name, shape in shapes.items()}
        optimizer.step(torch.as_tensor(users), gradients, torch.full((len(users),), 0.1))

    step(list(range(6)))  # everybody has moments now
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    moments = {name: tensor.clone() for name, tensor in optimizer.first.items()}
    present = sorted(set(range(6)) - absent)
    for _ in range(steps):
        step(present)
    for name, tensor in tensors.items():
        gone = sorted(absent)
        assert torch.equal(tensor[gone], before[name][gone])
        assert torch.equal(optimizer.first[name][gone], moments[name][gone])
        assert (tensor[present] != before[name][present]).flatten(1).any(dim=1).all()


def test_one_user_alone_takes_the_steps_of_ordinary_adam():
    generator = torch.Generator().manual_seed(0)
    mine = torch.randn(1, 7, generator=generator)
    plain = torch.nn.Parameter(mine[0].clone())
    ordinary = torch.optim.Adam([plain], lr=0.05, eps=1e-6)
    stacked = {"head.bias": mine}
    optimizer = UserAdam(stacked, clip=1.0)
    for _ in range(20):
        gradient = torch.randn(7, generator=generator) * 3
        plain.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([plain], 1.0)
        ordinary.step()
        optimizer.step(torch.zeros(1, dtype=torch.int64), {"head.bias": gradient[None]}, torch.full((1,), 0.05))
    torch.testing.assert_close(stacked["head.bias"][0], plain.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("architecture", "shape"), CASES)
def test_a_zero_adapter_is_the_shared_model_bit_for_bit(architecture, shape):
    here = world(architecture, shape)
    rows = np.asarray([2, 7, 9, 0])
    ids, mask = here.encoded.batch(rows)
    values, _ = here.model.trunk(ids, mask)
    read = mask if here.model.shape.top_layers else torch.ones(len(rows), 1, dtype=torch.int64)
    fresh = init_tensors(here.model.shapes, 3, 7, "cpu")  # `down` is random, all else zero
    logits = here.model.logits(values, read, fresh, torch.tensor([0, 2, 1, 1]))
    assert torch.equal(logits, here.network(ids, mask))
    everybody = here.model.everybody(values, read, fresh)
    assert everybody.shape == (4, 3, LABELS)
    torch.testing.assert_close(everybody[:, 1], logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("architecture", "shape"), CASES)
def test_a_cached_trunk_changes_nothing_in_memory_or_on_disk(architecture, shape, tmp_path):
    here = world(architecture, shape)
    tensors = here.moved()
    for place in (0, 1):
        cached = here.logits(tensors, place)
        for row in range(len(TEXTS)):  # each text alone, without padding, straight through
            values, counts = here.trunk(np.asarray([row]))
            mask = torch.ones(1, int(counts[0]), dtype=torch.int64)
            straight = here.model.logits(values, mask, tensors, torch.tensor([place]))
            torch.testing.assert_close(cached[row], straight[0], atol=1e-5, rtol=0)
    assert (cached - here.logits(tensors, 0)).abs().max() > 1e-3  # two users do differ
    mapped = here.cached(memory_mb=0, folder=tmp_path / "trunk")
    assert isinstance(mapped.values, np.memmap)
    np.testing.assert_array_equal(mapped.values, here.outputs.values)


def test_a_trunk_on_disk_is_run_once_and_made_again_where_it_is_damaged(tmp_path, monkeypatch):
    here = world("bert", "one layer")
    folder = tmp_path / "trunk"
    calls = []
    monkeypatch.setattr(here, "trunk", lambda rows, run=here.trunk: calls.append(len(rows)) or run(rows))
    first = here.cached(memory_mb=100, folder=folder)
    assert sum(calls) == len(TEXTS)
    np.testing.assert_array_equal(here.cached(memory_mb=100, folder=folder).values, first.values)
    assert sum(calls) == len(TEXTS)
    file = folder / "values.npy"
    whole = bytearray(file.read_bytes())
    whole[-3] ^= 255
    file.write_bytes(whole)
    np.testing.assert_array_equal(here.cached(memory_mb=100, folder=folder).values, first.values)
    assert sum(calls) == 2 * len(TEXTS)
    nameless = here.cached(memory_mb=0)
    assert isinstance(nameless.values, np.memmap) and nameless.values.tobytes() == here.outputs.values.tobytes()


@pytest.mark.parametrize("adapted", [False, True], ids=["plain", "adapted"])
@pytest.mark.parametrize("shape", ["full", "one layer", "all layers"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_user_exported_to_peft_and_read_back_gives_the_same_logits(architecture, shape, adapted, tmp_path):
    from peft import PeftModel
    from safetensors.torch import load_file

    here = World(architecture, SHAPES[shape], adapted)
    everybody = here.moved(users=3)
    tensors = {name: tensor[1:2] for name, tensor in everybody.items()}
    if shape == "full" and not adapted:
        with pytest.raises(BankError, match="PEFT has no format"):
            export_user(tmp_path, here.model, tensors, {"base": "x"})
        return
    export_user(tmp_path, here.model, tensors, {"base": f"tiny-{architecture}"})
    expected = here.logits(everybody, 1)

    plain = PeftModel.from_pretrained(load_base(f"tiny-{architecture}").model, str(tmp_path)).eval()
    head = load_file(str(tmp_path / "head.safetensors"))
    for row in range(len(TEXTS)):
        ids, mask = here.encoded.batch(np.asarray([row]))
        with torch.no_grad():
            hidden = plain(input_ids=ids, attention_mask=mask).last_hidden_state[0]
        features = hidden[-1] if here.network.takes_last else hidden.mean(dim=0)
        torch.testing.assert_close(head["weight"] @ features + head["bias"], expected[row], atol=5e-5, rtol=1e-5)

    again = read_user(tmp_path, here.model)
    assert again.keys() == tensors.keys()
    torch.testing.assert_close(here.logits(again, 0), expected, atol=1e-5, rtol=0)
    other = World(architecture, BankShape(top_layers=1, rank=3, head="gate", targets="all-linear"), adapted)
    with pytest.raises(BankError, match="another bank"):
        read_user(tmp_path, other.model)


@pytest.mark.parametrize("head", ["bias", "gate", "full"])
def test_everybody_at_once_is_everybody_one_by_one(head):
    for top_layers in (0, 1):
        here = World("bert", BankShape(head=head, top_layers=top_layers, rank=2))
        tensors = here.moved(users=5)
        rows = np.asarray([0, 3, 4])
        values, mask = here.outputs.batch(rows)
        together = here.model.everybody(values, mask, tensors)
        for user in range(5):
            one = here.model.logits(values, mask, tensors, torch.full((3,), user))
            torch.testing.assert_close(together[:, user], one, atol=1e-5, rtol=0)


def test_what_cannot_be_split_or_adapted_is_refused_with_what_there_is():
    with pytest.raises(BankError, match="Give 0"):
        World("bert", BankShape(top_layers=3))
    with pytest.raises(BankError, match="There are: dense, key, query, value"):
        World("bert", BankShape(top_layers=1, targets=("q_proj",)))

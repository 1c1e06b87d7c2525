"""The prior: estimates given it, how it is learned, its files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from bank_world import CASES, LABELS, SHAPES, World, row_losses, world
from hypothesis import HealthCheck, settings

from beholder.adapters.choose import Judges, learn_prior
from beholder.adapters.classifier_examples import ClassifierExamples
from beholder.adapters.estimate import PriorSettings, estimate_prior
from beholder.adapters.fit import BankTraining, fit_bank, held_out_batches
from beholder.adapters.fit import row_losses as row_losses_of
from beholder.adapters.layers import init_tensors
from beholder.adapters.prior import isotropic, load_prior, save_prior
from beholder.models.tiny import ARCHITECTURES
from beholder.util.errors import BankError

pytestmark = pytest.mark.long

FEW = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(("architecture", "shape"), CASES)
def test_whoever_has_no_rows_is_the_priors_mean_moderated_bit_for_bit(architecture, shape):
    here = world(architecture, shape)
    assert any(tensor.any() for name, tensor in here.prior.mean.items() if not name.endswith(".down"))
    train = here.judgements(["a", "b", "c"])
    without = train.user != 1
    fewer = ClassifierExamples(
        **{**vars(train), **{n: getattr(train, n)[without] for n in ("user", "input", "targets", "weights")}}
    )
    fit = fit_bank(here.prior, ["a", "b", "c"], fewer, BankTraining(epochs=3), seed=0)
    for name, tensor in fit.tensors.items():
        assert torch.equal(tensor[1], here.prior.without_rows()[name])
    assert any(not torch.equal(tensor[0], here.prior.without_rows()[name]) for name, tensor in fit.tensors.items())


def test_few_rows_stay_near_the_prior_and_many_leave_it():
    here = world("bert", "full")
    train = here.judgements(["a"])
    many = 40

    def repeated(times):
        return ClassifierExamples(
            here.model,
            here.outputs,
            1,
            np.zeros(times * len(train.user), dtype=np.int64),
            np.tile(train.input, times),
            np.tile(train.targets, (times, 1)),
            np.tile(train.weights, (times, 1)),
            row_losses,
        )

    prior = replace(isotropic(here.model.shapes, 0, 30), spread={"head.bias": torch.ones(LABELS)})
    sizes = [
        float(fit_bank(prior, ["a"], repeated(times), BankTraining(), seed=0).tensors["head.bias"].norm())
        for times in (1, many)
    ]
    assert 0.05 < sizes[0] < sizes[1]
    narrow = replace(prior, spread={"head.bias": torch.full((LABELS,), 0.01)})
    assert float(fit_bank(narrow, ["a"], repeated(1), BankTraining(), seed=0).tensors["head.bias"].norm()) < 0.02


def test_the_estimate_is_the_maximum_of_the_posterior():
    here = world("bert", "bias")
    train = here.judgements(["a", "b", "c", "d"])
    prior = replace(isotropic(here.model.shapes, 0, 300), spread={"head.bias": torch.full((LABELS,), 0.7)})
    fit = fit_bank(prior, ["a", "b", "c", "d"], train, BankTraining(epochs=300, batch_size=64), seed=0)
    logits = here.network.head(torch.from_numpy(here.outputs.values)).detach()
    for user in range(4):
        mine = train.user == user
        said, given = logits[torch.from_numpy(train.input[mine])], torch.from_numpy(train.targets[mine])
        asked = torch.from_numpy(train.weights[mine])
        bias = torch.zeros(LABELS, requires_grad=True)
        newton = torch.optim.LBFGS([bias], max_iter=100, line_search_fn="strong_wolfe")

        def posterior(bias=bias, said=said, given=given, asked=asked, newton=newton):
            newton.zero_grad()
            value = row_losses(said + bias, given, asked).sum() + (bias / 0.7).square().sum() / 2
            value.backward()
            return value

        newton.step(posterior)
        torch.testing.assert_close(fit.tensors["head.bias"][user], bias.detach(), atol=5e-3, rtol=0)


def test_held_out_rows_have_no_say_and_their_losses_are_those_of_the_estimate():
    here = world("bert", "full")
    users = ["a", "b"]
    alone = fit_bank(here.prior, users, here.judgements(users), BankTraining(epochs=3), seed=1)
    held = here.judgements(users, held_out=True)
    measured = fit_bank(here.prior, users, here.judgements(users), BankTraining(epochs=3), seed=1, held_out=held)
    for name, tensor in alone.tensors.items():
        assert torch.equal(tensor, measured.tensors[name])
    assert measured.losses is not None and measured.losses.shape == (here.prior.epochs, 2)
    for user in range(2):
        mine = held.user == user
        logits = here.logits(measured.tensors, user)[torch.from_numpy(held.input[mine])]
        expected = row_losses(logits, torch.from_numpy(held.targets[mine]), torch.from_numpy(held.weights[mine]))
        assert measured.losses[-1, user] == pytest.approx(float(expected.sum()), rel=1e-5)


@pytest.mark.parametrize(("architecture", "shape"), CASES)
def test_a_prior_is_learned_to_the_same_bits_again_and_survives_its_files(architecture, shape, tmp_path):
    here = world(architecture, shape)
    people = [f"p{number}" for number in range(8)]
    train, valid = here.judgements(people), here.judgements(people, held_out=True)
    learned = [
        learn_prior(
            here.model.shapes,
            train,
            Judges(people, train, valid),
            PriorSettings(rank=2, steps=10),
            BankTraining(epochs=3),
            seed=4,
            quick=True,
        )
        for _ in range(2)
    ]
    assert learned[0].checksum == learned[1].checksum
    facts = learned[0].facts
    assert facts["people"] == 8 and facts["chosen_on"] == int(valid.rows.sum())
    best = min(facts["tried"], key=lambda each: each["log_loss"])
    assert (facts["kind"], facts["strength"], learned[0].epochs) == (best["kind"], best["strength"], best["epochs"])
    save_prior(learned[0], tmp_path)
    assert load_prior(tmp_path, here.model.shapes).checksum == learned[0].checksum
    content = (tmp_path / "prior.json").read_text()
    assert not any(f'"{name}"' in content for name in people)
    with pytest.raises(BankError, match="other tensors"):
        load_prior(tmp_path, {"head.bias": (LABELS + 1,)})
    file = tmp_path / "prior.safetensors"
    file.write_bytes(file.read_bytes()[:-3] + b"xyz")
    with pytest.raises(BankError, match="checksum differs"):
        load_prior(tmp_path, here.model.shapes)


@pytest.mark.parametrize("head", ["bias", "gate", "full"])
@pytest.mark.parametrize("rank", [0, 2])
def test_users_who_differ_in_factors_alone_are_read_as_everybody_is(head, rank):
    here = World("bert", SHAPES[head])
    rows = here.judgements(["ann", "bob", "cleo"])
    batch = np.asarray([[0, 1, 2], [int(rows.rows[0]), -1, -1], [int(rows.rows[:2].sum()), len(rows.user) - 1, -1]])
    torch.manual_seed(3)
    moved = {name: torch.randn(1 + rank, *shape, requires_grad=True) for name, shape in here.model.shapes.items()}
    factors, bias = torch.randn(3, rank, requires_grad=True), torch.randn(3, LABELS, requires_grad=True)
    parts = [*moved.values(), bias, *([factors] if rank else [])]

    tensors = {name: each[0] + torch.tensordot(factors, each[1:], 1) for name, each in moved.items()}
    tensors["head.bias"] = tensors["head.bias"] + bias
    ((expected, place, _),) = rows.losses(tensors, batch)
    linear = rows.factor_losses(moved, factors if rank else None, bias, batch)
    assert linear is not None
    loss, whose = linear
    assert torch.equal(whose, place)
    torch.testing.assert_close(loss, expected)
    weight = torch.rand(len(loss))
    found, wanted = (torch.autograd.grad((each * weight).sum(), parts) for each in (loss, expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert World("bert", SHAPES["one layer"]).judgements(["ann"]).factor_losses({}, None, bias, batch) is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heads_are_learned_from_the_last_states_of_the_shared_model(architecture):
    """The same losses as through the layers, where users have nothing of their own in these."""
    here = world(architecture, "all layers")
    rows = here.judgements(["ann", "bob", "cleo"])
    heads = rows.heads
    assert heads is not None and heads.heads is None and here.model.shape.top_layers
    tensors = here.moved(3)
    of_heads = {name: tensor for name, tensor in tensors.items() if name.startswith("head.")}
    within = {
        name: tensor for name, tensor in init_tensors(here.model.shapes, 3, 0, "cpu").items() if name not in of_heads
    }
    batches = held_out_batches(rows.rows)
    expected = row_losses_of(rows, batches, {**within, **of_heads})
    np.testing.assert_allclose(row_losses_of(heads, batches, of_heads), expected, atol=1e-5)
    prior = here.prior
    assert set(prior.basis) == set(of_heads) and set(prior.mean) == set(here.model.shapes)
    changes = {name: tensor[0] for name, tensor in within.items() if name.endswith(".up")}
    assert all((prior.mean[name] == tensor).all() for name, tensor in changes.items())
    asked = PriorSettings(steps=3, within_layers=True)
    through = estimate_prior(here.model.shapes, here.judgements(list("abcdefgh")), 2, asked, epochs=3, seed=1)
    assert set(through.basis) == {*of_heads, *changes}

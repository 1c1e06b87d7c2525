"""The laws of the bank, on every architecture: what a user learns and how they then read is that user's own affair."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from beholder.bank.choose import Judges, learn_prior
from beholder.bank.estimate import PriorSettings, estimate_prior, unit_of, with_spread
from beholder.bank.fit import BankTraining, fit_bank, held_out_batches
from beholder.bank.fit import row_losses as row_losses_of
from beholder.bank.judgements import Judgements
from beholder.bank.layers import start
from beholder.bank.model import BankModel, BankShape
from beholder.bank.optimizer import UserAdam
from beholder.bank.outputs import run_once
from beholder.bank.peft_format import export_user, read_user
from beholder.bank.prior import Prior, isotropic, load_prior, save_prior
from beholder.bases import load_base
from beholder.bases.classifier import Classifier
from beholder.bases.tiny import ARCHITECTURES
from beholder.bases.tokens import encode, length_cut
from beholder.errors import BankError

LABELS = 3
TEXTS = ["you are kind", "go away", "what a mess this is", "thank you", "no", "fine by me", "you fool", "well done"]
TEXTS += ["never again", "I like it here"]
SHAPES = {
    "bias": BankShape(head="bias"),
    "gate": BankShape(head="gate"),
    "full": BankShape(head="full"),
    "one layer": BankShape(top_layers=1, rank=2, head="gate", targets="all-linear"),
    "all layers": BankShape(top_layers=2, rank=2, head="full"),
}
CASES = [(architecture, shape) for architecture in ARCHITECTURES for shape in ("full", "one layer", "all layers")] + [
    ("bert", "bias"),
    ("bert", "gate"),
    ("llama", "gate"),
]
FEW = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))


class World:
    """A shared model, texts, and users who judge them by rules of their own."""

    def __init__(self, architecture: str, shape: BankShape, adapted: bool = False) -> None:
        self.base = load_base(f"tiny-{architecture}")
        torch.manual_seed(0)
        self.network = Classifier(self.base, LABELS)
        if adapted:
            from peft import LoraConfig, get_peft_model

            lora = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", init_lora_weights=False)
            self.network.model = get_peft_model(self.base.model, lora)
            self.network.model.merge_adapter()
        self.network.eval()
        self.model = BankModel(self.network, shape)
        self.encoded = encode(self.base.tokenizer, TEXTS, 32)
        self.outputs = self.cached(memory_mb=100)

    def cached(self, **where):
        lengths = self.encoded.lengths if self.model.shape.top_layers else np.ones(len(TEXTS), np.int64)
        batches = list(length_cut(self.encoded.lengths, 40))
        return run_once(lengths, batches, self.base.width, self.trunk, **where)

    def trunk(self, rows):
        return self.model.trunk(*self.encoded.batch(rows))

    def judgements(self, users: list[str], held_out: bool = False) -> Judgements:
        user, text, target = [], [], []
        for place, name in enumerate(users):
            rates = np.where(np.random.default_rng([*name.encode()]).random(LABELS) < 0.5, 0.95, 0.05)
            rng = np.random.default_rng([int(held_out), *name.encode()])
            count = int(rng.integers(4, 12))
            user += [place] * count
            text += rng.integers(0, len(TEXTS), count).tolist()
            target += (rng.random((count, LABELS)) < rates).tolist()
        targets = np.asarray(target, dtype=np.float32)
        weights = np.ones_like(targets)
        weights[::5, 0] = 0  # some were not asked
        for place in range(len(users)):  # ... the same ones whoever else is there
            mine = np.flatnonzero(np.asarray(user) == place)
            weights[mine] = 1
            weights[mine[0], 0] = 0
        return Judgements(
            self.model, self.outputs, len(users), np.asarray(user), np.asarray(text), targets, weights, row_losses
        )

    @cached_property
    def prior(self) -> Prior:
        """Learned from people who are in no test."""
        people = [f"p{number}" for number in range(12)]
        train = self.judgements(people)
        learned = estimate_prior(self.model.shapes, train, 2, PriorSettings(steps=20), epochs=3, seed=1)
        return replace(learned, spread=with_spread(learned, unit_of(learned, train, 1, "cpu"), 0.5))

    def fit(self, users: list[str], prior: Prior | None = None, **more):
        training = BankTraining(**{"epochs": 3, "batch_size": 4, **more})
        held_out = self.judgements(users, held_out=True)
        return fit_bank(prior or self.prior, users, self.judgements(users), training, seed=1, held_out=held_out)

    def logits(self, tensors, place: int):
        rows = np.arange(len(TEXTS))
        user = torch.full((len(TEXTS),), place)
        return self.model.logits(*self.outputs.batch(rows), tensors, user).detach()

    def moved(self, users: int = 2):
        """Tensors of users who have learned something, drawn at random."""
        generator = torch.Generator().manual_seed(3)
        tensors = start(self.model.shapes, users, 0, "cpu")
        return {name: tensor + 0.2 * torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}


def row_losses(logits, targets, weights):
    return (weights * functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")).sum(-1)


@lru_cache
def world(architecture: str, shape: str) -> World:
    return World(architecture, SHAPES[shape])


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
    fresh = start(here.model.shapes, 3, 7, "cpu")  # `down` is random, all else zero
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


@pytest.mark.parametrize(("architecture", "shape"), CASES)
def test_whoever_has_no_rows_is_the_priors_mean_bit_for_bit(architecture, shape):
    here = world(architecture, shape)
    assert any(tensor.any() for name, tensor in here.prior.mean.items() if not name.endswith(".down"))
    train = here.judgements(["a", "b", "c"])
    without = train.user != 1
    fewer = Judgements(
        **{**vars(train), **{n: getattr(train, n)[without] for n in ("user", "input", "targets", "weights")}}
    )
    fit = fit_bank(here.prior, ["a", "b", "c"], fewer, BankTraining(epochs=3), seed=0)
    for name, tensor in fit.tensors.items():
        assert torch.equal(tensor[1], here.prior.mean[name])
    assert any(not torch.equal(tensor[0], here.prior.mean[name]) for name, tensor in fit.tensors.items())


def test_few_rows_stay_near_the_prior_and_many_leave_it():
    here = world("bert", "full")
    train = here.judgements(["a"])
    many = 40

    def repeated(times):
        return Judgements(
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
    heads = rows.heads()
    assert heads is not None and heads.heads() is None and here.model.shape.top_layers
    tensors = here.moved(3)
    of_heads = {name: tensor for name, tensor in tensors.items() if name.startswith("head.")}
    within = {name: tensor for name, tensor in start(here.model.shapes, 3, 0, "cpu").items() if name not in of_heads}
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


def test_what_cannot_be_split_or_adapted_is_refused_with_what_there_is():
    with pytest.raises(BankError, match="Give 0"):
        World("bert", BankShape(top_layers=3))
    with pytest.raises(BankError, match="There are: dense, key, query, value"):
        World("bert", BankShape(top_layers=1, targets=("q_proj",)))

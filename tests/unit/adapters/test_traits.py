"""Traits: what groups share is recovered and shrunk, and nobody is moved by what they did not state."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beholder.adapters.bank import BankModel, BankShape
from beholder.adapters.choose import Judges, learn_prior
from beholder.adapters.classifier_examples import ClassifierExamples
from beholder.adapters.estimate import PriorSettings, estimate_prior
from beholder.adapters.fit import BankTraining, fit_bank
from beholder.adapters.prior import Prior, load_prior, save_prior
from beholder.adapters.trait_values import traits_of
from beholder.adapters.traits import Effects
from beholder.adapters.trunk_cache import run_once
from beholder.data.annotations import Annotations
from beholder.data.splits import ByPeople, split
from beholder.data.task import Task
from beholder.execution.adaptation import score_newcomers
from beholder.execution.arm import as_seen
from beholder.methods import config_class, load_fitted, save_fitted
from beholder.models import load_base
from beholder.models.classifier import Classifier
from beholder.models.tokenization import encode
from beholder.training.context import Context
from beholder.training.losses import row_losses
from beholder.util.errors import BankError

pytestmark = pytest.mark.long

LABELS = 3
TEXTS = [f"{word} {number}" for word in ("you fool", "well done", "go away", "thank you") for number in range(10)]
EFFECT = np.asarray([1.0, 0.0, -0.5])
"""Of group `b`, in logits of each label; that of group `a` is the opposite."""


@cache
def backbone(head: str) -> tuple[BankModel, object]:
    base = load_base("tiny-bert")
    torch.manual_seed(0)
    model = BankModel(Classifier(base, LABELS), BankShape(head=head))
    encoded = encode(base.tokenizer, TEXTS, 32)
    batches = [np.arange(len(TEXTS))]
    trunk = run_once(
        np.ones(len(TEXTS), np.int64),
        batches,
        base.width,
        lambda rows: model.trunk(*encoded.batch(rows)),
        memory_mb=100,
    )
    return model, trunk


class People:
    """People of two groups who differ by `effect`, and among themselves; `site` has no effect."""

    def __init__(self, people: int, effect: float, rows: int = 20, seed: int = 0, head: str = "bias") -> None:
        rng = np.random.default_rng(seed)
        self.model, self.outputs = backbone(head)
        self.group = np.arange(people) % 2
        self.bias = effect * np.where(self.group[:, None], EFFECT, -EFFECT) + 0.5 * rng.normal(size=(people, LABELS))
        self.traits = [{"group": "ab"[each], "site": f"s{rng.integers(3)}"} for each in self.group]
        with torch.no_grad():
            logits = self.model.network.head(torch.from_numpy(self.outputs.values)).numpy()
        user = np.repeat(np.arange(people), rows)
        text = rng.integers(0, len(TEXTS), len(user))
        likely = 1 / (1 + np.exp(-(logits[text] + self.bias[user])))
        self.user, self.text, self.targets = user, text, (rng.random(likely.shape) < likely).astype(np.float32)

    def judgements(self, some, first: int = 0, last: int = 1_000) -> ClassifierExamples:
        """Rows first to last of each of these people."""
        mine = [np.flatnonzero(self.user == each)[first:last] for each in some]
        user = np.repeat(np.arange(len(mine)), [len(each) for each in mine])
        rows = np.concatenate(mine)
        targets = self.targets[rows]
        return ClassifierExamples(
            self.model, self.outputs, len(mine), user, self.text[rows], targets, np.ones_like(targets), losses
        )

    def prior(self, rank: int = 0, seed: int = 0, **more) -> Prior:
        everybody = range(len(self.traits))
        asked = PriorSettings(traits=("group", "site"), **more)
        return estimate_prior(
            self.model.shapes, self.judgements(everybody), rank, asked, epochs=5, seed=seed, traits=self.traits
        )


def losses(logits, targets, weights):
    return row_losses(logits, targets, weights, "multilabel")


def difference(prior: Prior) -> np.ndarray:
    """How far the groups are apart in the labels' biases, halved."""
    return (prior.mean_of({"group": "b"})["head.bias"] - prior.mean_of({"group": "a"})["head.bias"]).numpy() / 2


@pytest.mark.parametrize(("head", "rank"), [("bias", 0), ("full", 4)])
def test_what_groups_share_is_recovered_whether_biases_or_factors_hold_it(head, rank):
    people = People(120, 1.0, head=head)
    prior = people.prior(rank)
    drawn = (people.bias[people.group == 1].mean(axis=0) - people.bias[people.group == 0].mean(axis=0)) / 2
    np.testing.assert_allclose(difference(prior), drawn, atol=0.25)
    assert difference(prior)[0] > 0.7 and difference(prior)[2] < -0.25
    effects = prior.traits["group"]
    biases = replace(prior, basis={}, traits={"group": Effects(effects.values, effects.shifts[:, prior.rank :])})
    shift = biases.mean_of({"group": "b"})["head.bias"] - prior.mean["head.bias"]
    expected = effects.shifts[effects.values.index("b"), prior.rank :]
    torch.testing.assert_close(shift, expected, atol=1e-6, rtol=0)
    for site in ("s0", "s1", "s2"):
        assert np.abs(prior.mean_of({"site": site})["head.bias"] - prior.mean["head.bias"]).max() < 0.15
    plain = estimate_prior(people.model.shapes, people.judgements(range(120)), rank, PriorSettings(), epochs=5, seed=0)
    assert (
        prior.spread["head.bias"][0] < 0.8 * plain.spread["head.bias"][0]
    )  # the group's share is no longer a person's


def test_groups_that_do_not_differ_are_shrunk_to_nothing():
    found = [difference(People(80, 0.0, seed=seed).prior()) for seed in range(3)]
    drawn = []
    for seed in range(3):
        people = People(80, 0.0, seed=seed)
        mean = [np.log((y := people.targets[people.group[people.user] == g].mean(axis=0)) / (1 - y)) for g in (0, 1)]
        drawn.append((mean[1] - mean[0]) / 2)
    assert np.abs(found).mean() < 0.6 * np.abs(drawn).mean()
    assert np.abs(found).max() < 0.15


def test_few_people_say_less_of_their_group_than_many():
    few, many = (np.mean([difference(People(n, 0.3, seed=s).prior())[0] for s in range(6)]) for n in (6, 80))
    assert 0 <= few < many <= 0.45


def test_people_without_a_value_are_expected_where_people_in_general_are():
    people = People(60, 1.0)
    people.traits = [each if number % 3 else {} for number, each in enumerate(people.traits)]
    prior = people.prior()
    known = [each["group"] for each in people.traits if each]
    shifts = prior.traits["group"].shifts
    total = sum(shifts[prior.traits["group"].values.index(value)] for value in known)
    assert float(total.abs().max()) < 1e-3
    for nothing in ({}, {"group": "never met"}, {"other": "a"}):
        assert all(torch.equal(tensor, prior.mean[name]) for name, tensor in prior.mean_of(nothing).items())


@pytest.mark.parametrize("head", ["bias", "full"])
def test_without_traits_nothing_is_another_bit(head):
    people = People(12, 1.0, head=head)
    everybody = people.judgements(range(12))
    settings = PriorSettings(steps=10)
    plain = estimate_prior(people.model.shapes, everybody, 2, settings, epochs=3, seed=1)
    asked = settings.model_copy(update={"traits": ("group",)})
    unknown = estimate_prior(people.model.shapes, everybody, 2, asked, epochs=3, seed=1, traits=[{}] * 12)
    assert plain.checksum == unknown.checksum and not unknown.traits
    assert plain.means_of(people.traits) is None
    prior = people.prior(2, steps=10)
    names = [f"p{number}" for number in range(12)]
    assert prior.means_of([{}] * 12) is None
    told = prior.means_of([{"group": "b"}] + [{}] * 11)
    one, other = (
        fit_bank(prior, names, everybody, BankTraining(epochs=2), seed=0, around=around).tensors
        for around in (None, told)
    )
    for name in one:  # those without a trait beside one who has one
        torch.testing.assert_close(one[name][1:], other[name][1:], atol=1e-6, rtol=0)
    assert not torch.equal(one["head.bias"][0], other["head.bias"][0])


@pytest.mark.parametrize("head", ["bias", "full"])
def test_given_prior_and_traits_somebody_is_estimated_alike_alone_and_in_company(head):
    people = People(20, 1.0, head=head)
    prior = people.prior(2, steps=40)

    def fit(some):
        names, around = [f"p{each}" for each in some], prior.means_of([people.traits[each] for each in some])
        rows = people.judgements(some, last=6)
        return fit_bank(prior, names, rows, BankTraining(epochs=3, batch_size=4), seed=1, around=around).tensors

    alone = fit([3])

    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from([0, 1, 2, 4, 5, 6, 7, 8]), unique=True, max_size=6), st.integers(0, 6))
    def law(company, place):
        some = [*company[:place], 3, *company[place:]]
        for name, tensor in fit(some).items():
            torch.testing.assert_close(tensor[some.index(3)], alone[name][0], atol=1e-5, rtol=0)

    law()


@pytest.mark.parametrize("head", ["bias", "full"])
def test_somebody_without_rows_is_the_mean_of_their_group_bit_for_bit(head):
    people = People(20, 1.0, head=head)
    prior = people.prior(2, steps=40)
    rows = people.judgements([0, 1, 2, 3])
    kept = rows.user % 2 == 0
    some = {name: getattr(rows, name)[kept] for name in ("user", "input", "targets", "weights")}
    around = prior.means_of(people.traits[:4])
    fit = fit_bank(
        prior, list("abcd"), ClassifierExamples(**{**vars(rows), **some}), BankTraining(), seed=0, around=around
    )
    for user in (1, 3):
        group = prior.mean_of(people.traits[user])
        for name, tensor in fit.tensors.items():
            assert torch.equal(tensor[user], group[name])
    assert not torch.equal(fit.tensors["head.bias"][1], prior.mean["head.bias"])


def test_traits_are_kept_where_validation_rows_are_likelier_and_survive_their_files(tmp_path):
    people = People(48, 1.5, rows=10)
    train, valid = people.judgements(range(48), last=3), people.judgements(range(48), first=3)
    names = [f"person{number}" for number in range(48)]
    asked = PriorSettings(rank=0, traits=("group",))

    def learned(traits):
        chosen_on = Judges(names, train, valid, traits)
        return learn_prior(people.model.shapes, train, chosen_on, asked, BankTraining(epochs=10), seed=4, traits=traits)

    chosen = learned(people.traits)
    tried = {each["kind"]: each["log_loss"] for each in chosen.facts["tried"]}
    assert set(tried) == {"isotropic", "learned, rank 0", "learned, rank 0, traits"}
    assert chosen.facts["kind"] == "learned, rank 0, traits" == min(tried, key=lambda kind: tried[kind])
    save_prior(chosen, tmp_path)
    again = load_prior(tmp_path, people.model.shapes)
    assert again.checksum == chosen.checksum and again.traits["group"].values == ("a", "b")
    for name, tensor in again.mean_of({"group": "b"}).items():
        assert torch.equal(tensor, chosen.mean_of({"group": "b"})[name])
    described = json.loads((tmp_path / "prior.json").read_text())
    assert described["format"] == 2 and "person1" not in json.dumps(described)
    renamed = replace(chosen, traits={"group": Effects(("a", "c"), chosen.traits["group"].shifts)})
    assert renamed.checksum != chosen.checksum
    (tmp_path / "prior.json").write_text(json.dumps({**described, "traits": {"group": ["a"]}}))
    with pytest.raises(BankError, match="trait 'group' has other values than its tensor"):
        load_prior(tmp_path, people.model.shapes)
    save_prior(replace(chosen, traits={}), tmp_path)
    assert json.loads((tmp_path / "prior.json").read_text())["format"] == 1

    shuffled = learned([people.traits[each] for each in np.random.default_rng(0).permutation(48)])
    tried = {each["kind"]: each["log_loss"] for each in shuffled.facts["tried"]}
    assert tried["learned, rank 0, traits"] > tried["learned, rank 0"] - 0.01  # ... and they explain nothing here


# What is read of tables


# The whole way: cls-u


@cache
def camps() -> Annotations:
    """Two camps who give opposite labels, most of the time."""
    rng = np.random.default_rng(5)
    users = np.repeat(np.arange(40), 12)
    text = np.concatenate([rng.permutation(len(TEXTS))[:12] for _ in range(40)])
    rude = rng.random(len(users)) < np.where(users % 2, 0.9, 0.1)
    return Annotations.from_columns(
        Task(("rude", "kind")),
        text=[TEXTS[each] for each in text],
        user_id=[f"u{each:02d}" for each in users],
        labels=np.stack([rude, ~rude], axis=1).astype(float),
        context={"camp": [["left", "right"][each % 2] for each in users], "row": list(range(len(users)))},
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A `cls-u` with traits, the parts of a split by people, and what was said."""
    folder = tmp_path_factory.mktemp("run")
    rows = camps()
    made = split(rows, ByPeople(by="people", people=0.3, adapt=(0, 1, 3), texts="seen"))
    parts = {name: rows.select(part) for name, part in made.parts.items()}
    said: list[str] = []
    context = Context(base="tiny-bert", seed=1, run_folder=folder, say=said.append)
    small = {"epochs": 1, "batch_size": 16, "max_tokens": 32, "lora": {"rank": 2, "targets": "all-linear"}}
    shared = config_class("cls")(**small).fit(parts["train"], parts["valid"], context)
    (folder / "methods" / "cls").mkdir(parents=True)
    save_fitted(shared, folder / "methods" / "cls")
    prior = {"traits": ["camp"], "rank": 0, "steps": 60}
    config = config_class("cls-u")(bank={"epochs": 5, "head": "bias", "prior": prior})
    return config, config.fit(parts["train"], parts["valid"], context), parts, made.people, said, folder, context


def test_a_newcomers_first_guess_is_the_mean_of_their_group(fitted):
    config, method, parts, people, said, *_ = fitted
    assert method.traits == ("camp",)
    assert any(line == "trait camp: 2 groups." for line in said) and any(", traits," in line for line in said)
    found = score_newcomers("cls-u", None, config, method, parts, parts, people)
    zero = found.at("test", 0)
    rows = parts["test"]
    camp = np.asarray(rows.column("camp"))
    agrees = np.where(camp == "right", zero.scores[:, 0] > 0.5, zero.scores[:, 0] < 0.5)
    assert agrees.all()
    without = method.score(list(rows.texts), list(rows.user_ids))
    losses = [-np.log(np.where(rows.labels[:, 0] > 0, s[:, 0], 1 - s[:, 0])).mean() for s in (zero.scores, without)]
    assert losses[0] < losses[1] - 0.1
    someone = parts["test"].users[0]
    tensors = method.adapt(rows.select([]), traits={someone: {"camp": "left"}}).bank.take([someone, "nobody"])
    for name, mean in method.prior.without_rows({"camp": "left"}).items():
        assert torch.equal(tensors[name][0], mean) and torch.equal(tensors[name][1], method.prior.without_rows()[name])
    seen = [part for part in parts if part == "seen_people"]
    for part in seen:
        np.testing.assert_array_equal(
            found.at(part, 0).scores, method.score(list(parts[part].texts), list(parts[part].user_ids))
        )


def test_first_judgements_start_from_the_group_and_their_columns_state_it(fitted):
    _, method, parts, *_ = fitted
    first = parts["enrol"].select([0])
    (someone,) = first.users
    told = method.adapt(first).bank.take([someone])["head.bias"][0]
    untold = method.adapt(first.with_column("camp", [None])).bank.take([someone])["head.bias"][0]
    group = method.prior.mean_of({"camp": first.column("camp")[0]})["head.bias"]
    general = method.prior.mean["head.bias"]
    assert float((told - group).norm()) < float((told - general).norm())
    assert float((untold - general).norm()) < float((untold - group).norm())
    given_apart = method.adapt(first.with_column("camp", [None]), traits={someone: {"camp": first.column("camp")[0]}})
    assert torch.equal(given_apart.bank.take([someone])["head.bias"][0], told)


def test_a_fitted_method_keeps_its_traits_in_its_files(fitted, tmp_path):
    _, method, parts, *_ = fitted
    save_fitted(method, tmp_path)
    again = load_fitted(tmp_path, "tiny-bert")
    assert again.traits == ("camp",) and again.prior.checksum == method.prior.checksum
    rows = parts["enrol"].select([0, 1, 2])
    one, other = (each.adapt(rows).score(list(rows.texts), list(rows.user_ids)) for each in (method, again))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_traits_stay_with_the_id_in_the_shuffled_control_and_explain_nothing_there(fitted):
    config, _, parts, people, _, folder, context = fitted
    control = config.model_copy(update={"shuffle_users": True})
    seen = as_seen(control, parts, seed=3)
    before = traits_of([parts["train"]], ["camp"])
    assert traits_of([seen["train"]], ["camp"]) == before
    assert list(seen["train"].column("row")) == list(parts["train"].column("row"))
    control.check_rows(seen["train"])
    method = control.fit(seen["train"], seen["valid"], context)
    found = score_newcomers("control", "cls-u", control, method, seen, parts, people).at("test", 0)
    shifts = [
        float((method.prior.mean_of({"camp": camp})["head.bias"] - method.prior.mean["head.bias"]).abs().max())
        for camp in ("left", "right")
    ]
    assert max(shifts) < 0.3
    assert len(found.scores) == len(parts["test"])
    assert folder.is_dir()


def test_users_who_come_later_without_traits_are_expected_where_people_in_general_are(fitted):
    config, method, parts, _, _, _, context = fitted
    said: list[str] = []
    rows = parts["enrol"].select(np.arange(4)).with_column("camp", [None] * 4)
    quiet = replace(context, say=said.append)
    fitting = config.begin_on(method.shared, rows, rows.select([]), quiet, method.prior)
    count = len(rows.users)
    assert said == [
        f"traits: {count} of {count} people have no known camp; they are expected where people in general are."
    ]
    assert not any(fitting.traits.values())

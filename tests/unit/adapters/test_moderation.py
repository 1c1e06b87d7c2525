"""Moderated heads: the truth recovered where it is known, the formula against one written out, and the laws."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from bank_world import world
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.adapters.choose import PLAIN, Judges, learn_prior
from beholder.adapters.classifier_examples import ClassifierExamples
from beholder.adapters.estimate import PriorSettings
from beholder.adapters.fit import BankTraining, fit_bank
from beholder.adapters.moderation import Readings, kappas, moderated, moderation_of
from beholder.adapters.prior import Prior, load_prior, save_prior
from beholder.util.errors import BankError

WIDTH = 5


def readings(rows, labels=2, seed=0, exclusive=False, inputs=60, asked=1.0, width=WIDTH):
    """Random texts and a random shared head; `rows` of each user."""
    rng = np.random.default_rng(seed)
    count = int(np.sum(rows))
    generator = torch.Generator().manual_seed(seed)
    return Readings(
        rng.normal(size=(inputs, width)).astype(np.float32),
        rng.integers(0, inputs, count),
        np.asarray(rows, dtype=np.int64),
        (rng.random((count, labels)) < asked).astype(np.float32),
        torch.randn(labels, width, generator=generator),
        torch.randn(labels, generator=generator),
        exclusive,
    )


def prior_for(rows: Readings, rank=2, own=0.4, bias=0.7, seed=1, mean=0.1) -> Prior:
    labels, width = rows.weight.shape
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    return Prior(
        {"head.weight": mean * drawn(labels, width), "head.bias": mean * drawn(labels)},
        {"head.weight": 0.5 * drawn(rank, labels, width), "head.bias": 0.5 * drawn(rank, labels)} if rank else {},
        {"head.weight": torch.tensor(own), "head.bias": torch.full((labels,), bias)},
        5,
        moderation=moderation_of(rows, 0),
    )


def written_out(prior: Prior, rows: Readings, user: int) -> np.ndarray:
    """s^2 by the posterior precision of all of a user's numbers at once, averaged over all texts: [labels]."""
    labels, width = rows.weight.shape
    p, rank = width + 1, prior.rank
    x = np.c_[rows.values, np.ones(len(rows.values))].astype(float)
    head = np.c_[rows.weight + prior.mean["head.weight"], rows.bias + prior.mean["head.bias"]].astype(float)
    spread = np.r_[np.full(width, float(prior.spread["head.weight"])), 0.0]
    basis = np.zeros((labels, p, rank))
    if rank:
        basis[:, :width] = prior.basis["head.weight"].permute(1, 2, 0)
        basis[:, width] = prior.basis["head.bias"].T
    size = rank + labels * p

    def reads(label, texts):  # a logit is linear in (z, e of label 1, e of label 2, ...)
        design = np.zeros((len(texts), size))
        design[:, :rank] = texts @ basis[label]
        own = np.r_[spread[:-1], float(prior.spread["head.bias"][label])]
        design[:, rank + label * p : rank + (label + 1) * p] = texts * own
        return design

    first = int(rows.rows[:user].sum())
    mine = np.arange(first, first + rows.rows[user])
    logits = x[rows.input[mine]] @ head.T
    precision = np.eye(size)
    if rows.exclusive:  # the Hessian of the softmax's log-loss, whole
        likely = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        design = np.stack([reads(label, x[rows.input[mine]]) for label in range(labels)], 1)  # [rows, labels, size]
        hessian = likely[:, :, None] * np.eye(labels) - likely[:, :, None] * likely[:, None, :]
        precision += np.einsum("rls,rlm,rmt->st", design, hessian, design)
    else:
        likely = 1 / (1 + np.exp(-logits))
        for label in range(labels):
            design = reads(label, x[rows.input[mine]])
            curvature = likely[:, label] * (1 - likely[:, label]) * rows.asked[mine, label]
            precision += design.T @ (curvature[:, None] * design)
    covariance = np.linalg.inv(precision)
    over = np.stack([reads(label, x) for label in range(labels)], 1)  # [texts, labels, size]
    if not rows.exclusive:
        return np.einsum("tls,su,tlu->l", over, covariance, over) / len(x)
    pairs = [over[:, one] - over[:, other] for one in range(labels) for other in range(one)]
    return np.full(labels, np.mean([np.einsum("ts,su,tu->", d, covariance, d) / len(x) for d in pairs]))


def all_texts(rows: Readings) -> Readings:
    """Each once, for places that stand for all of them."""
    count, labels = len(rows.values), len(rows.bias)
    asked = np.ones((count, labels), np.float32)
    return replace(rows, input=np.arange(count), rows=np.asarray([count]), asked=asked)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(("exclusive", "labels"), [(False, 2), (True, 2), (True, 4)])
def test_kappa_is_that_of_the_posterior_written_out(rank, exclusive, labels):
    """For labels that exclude each other: exact for two, and for more where they are equally likely."""
    asked = 1.0 if exclusive else 0.8
    rows = readings([3, 0, 9, 25], labels, exclusive=exclusive, asked=asked)  # 25: more than a label's six numbers
    mean = 0.1
    if labels > 2:
        mean = 0.0
        rows = replace(rows, weight=torch.zeros_like(rows.weight), bias=torch.zeros_like(rows.bias))
    prior = replace(prior_for(rows, rank, mean=mean), moderation=moderation_of(all_texts(rows), 0))
    if labels > 2:  # so that the mean is not the shared model, which is treated apart, and labels stay equally likely
        prior = replace(prior, mean={"head.weight": torch.full((labels, WIDTH), 0.3), "head.bias": torch.ones(labels)})
    found = kappas(prior, rows).numpy()
    for user in range(4):
        variance = written_out(prior, rows, user)
        np.testing.assert_allclose(found[user], (1 + np.pi / 8 * variance) ** -0.5, atol=2e-5)
    assert np.ptp(found, axis=0).min() > 0.02


def test_where_labels_are_not_equally_likely_kappa_is_near_that_of_the_posterior_written_out():
    for seed in range(5):
        rows = readings([3, 0, 9, 25], labels=3, seed=seed, exclusive=True)
        prior = replace(prior_for(rows, seed=seed), moderation=moderation_of(all_texts(rows), 0))
        found = kappas(prior, rows).numpy()
        for user in range(4):
            exact = (1 + np.pi / 8 * written_out(prior, rows, user)) ** -0.5
            np.testing.assert_allclose(found[user], exact, atol=0.03)


def test_what_moves_all_labels_of_an_exclusive_task_alike_is_not_counted():
    rows = readings([4, 0], labels=3, exclusive=True)
    prior = prior_for(rows, own=0.3)
    alike = {name: tensor[:, :1].expand_as(tensor) for name, tensor in prior.basis.items()}
    without = replace(prior, basis={name: torch.zeros_like(tensor) for name, tensor in alike.items()})
    torch.testing.assert_close(kappas(replace(prior, basis=alike), rows), kappas(without, rows), atol=1e-6, rtol=0)
    assert (kappas(prior, rows) < kappas(without, rows)).all()


def test_what_is_scored_is_as_likely_as_it_says_where_the_truth_is_drawn_from_the_prior():
    """Known truth: users drawn from the prior. Moderated scores lose less, and are calibrated; estimates are not."""
    loss = {"estimate": [], "moderated": []}
    slope = {"estimate": [], "moderated": []}
    for seed in range(3):
        users, given_rows, held = 400, 4, 20
        rows = readings([given_rows + held] * users, labels=1, seed=seed, inputs=500)
        prior = prior_for(rows, rank=2, own=0.5, bias=1.0, seed=seed, mean=0.3)
        rng = np.random.default_rng(seed)
        x = torch.from_numpy(rows.values[rows.input]).view(users, -1, WIDTH)
        z, e = (torch.from_numpy(rng.normal(size=(users, size))).float() for size in (2, WIDTH + 1))
        own = torch.cat([e[:, :WIDTH] * 0.5, e[:, WIDTH:]], 1)
        truth = prior.compose(
            {"z": z, "head.weight": own[:, None, :WIDTH] / 0.5, "head.bias": own[:, WIDTH:]},
        )
        head = torch.cat([truth["head.weight"][:, 0] + rows.weight, truth["head.bias"] + rows.bias], 1)
        logits = (x * head[:, None, :WIDTH]).sum(-1) + head[:, None, WIDTH]
        y = (torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed)) < torch.sigmoid(logits)).float()

        fit = _newton(prior, rows, x[:, :given_rows], y[:, :given_rows])
        few = replace(
            rows,
            input=rows.input.reshape(users, -1)[:, :given_rows].ravel(),
            rows=np.full(users, given_rows),
            asked=np.ones((users * given_rows, 1), np.float32),
        )
        for name, tensors in (
            ("estimate", fit),
            ("moderated", moderated(fit, kappas(prior, few), prior.moderation)),
        ):
            w, b = tensors["head.weight"][:, 0] + rows.weight[0], tensors["head.bias"] + rows.bias
            f = (x[:, given_rows:] * w[:, None]).sum(-1) + b
            loss[name].append(float(torch.nn.functional.binary_cross_entropy_with_logits(f, y[:, given_rows:])))
            slope[name].append(_calibration_slope(f.flatten().numpy(), y[:, given_rows:].flatten().numpy()))
    assert np.all(np.subtract(loss["estimate"], loss["moderated"]) > 0.005)
    assert (
        np.abs(np.asarray(slope["moderated"]) - 1).max() < 0.1
    )  # of a logistic regression on the score; 1 = calibrated
    assert np.max(slope["estimate"]) < 0.85


def _newton(prior, rows, x, y):
    """Every user's maximum a posteriori, by Newton's method in all of their numbers."""
    users = len(x)
    basis = torch.cat([prior.basis["head.weight"][:, 0], prior.basis["head.bias"]], 1)  # [rank, width + 1]
    spread = torch.cat([prior.spread["head.weight"].expand(WIDTH), prior.spread["head.bias"]])
    one = torch.cat([x, torch.ones(*x.shape[:2], 1)], 2)
    design = torch.cat([one @ basis.T, one * spread], 2)  # [users, rows, numbers]
    head = torch.cat([rows.weight[0] + prior.mean["head.weight"][0], rows.bias + prior.mean["head.bias"]])
    found = torch.zeros(users, design.shape[2])
    for _ in range(20):
        p = torch.sigmoid(one @ head + (design @ found[..., None])[..., 0])
        gradient = (design.mT @ (p - y)[..., None])[..., 0] + found
        hessian = design.mT @ ((p * (1 - p))[..., None] * design) + torch.eye(design.shape[2])
        found = found - torch.linalg.solve(hessian, gradient)
    z, own = found[:, : len(basis)], found[:, len(basis) :]
    return prior.compose({"z": z, "head.weight": own[:, None, :WIDTH], "head.bias": own[:, WIDTH:]})


def _calibration_slope(score, y):
    slope = np.asarray([1.0, 0.0])
    design = np.c_[score, np.ones(len(score))]
    for _ in range(20):
        p = 1 / (1 + np.exp(-design @ slope))
        slope = slope + np.linalg.solve(design.T @ (design * (p * (1 - p))[:, None]), design.T @ (y - p))
    return slope[0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 14), min_size=1, max_size=5), st.integers(0, 5), st.booleans())
def test_alone_is_as_in_company_and_each_further_judgement_makes_surer(counts, seed, exclusive):
    rows = readings(counts, seed=seed, exclusive=exclusive, asked=0.7)
    prior = prior_for(rows if sum(counts) else readings([5], seed=seed, exclusive=exclusive))
    found = kappas(prior, rows)
    assert ((found > 0) & (found <= 1)).all()
    first = np.cumsum([0, *counts])
    for user, count in enumerate(counts):
        mine = np.arange(first[user], first[user] + count)
        before = prior.kappa_without_rows
        for most in range(count + 1):
            some = mine[:most]
            alone = replace(rows, input=rows.input[some], asked=rows.asked[some], rows=np.asarray([most]))
            kappa = kappas(prior, alone)[0]
            assert (kappa >= before - 1e-6).all()
            before = kappa
        torch.testing.assert_close(found[user], before, atol=1e-6, rtol=0)
        if not count:
            assert torch.equal(found[user], prior.kappa_without_rows)


def test_the_order_of_rows_and_rows_of_nothing_asked_do_not_matter():
    rows = readings([30], asked=0.8)
    prior = prior_for(rows)
    turned = np.random.default_rng(0).permutation(30)
    found = kappas(prior, rows)
    torch.testing.assert_close(
        found, kappas(prior, replace(rows, input=rows.input[turned], asked=rows.asked[turned])), atol=1e-6, rtol=0
    )
    more = replace(
        rows,
        input=np.r_[rows.input, 1, 2],
        asked=np.r_[rows.asked, np.zeros((2, 2), np.float32)],
        rows=np.asarray([32]),
    )
    torch.testing.assert_close(found, kappas(prior, more), atol=1e-6, rtol=0)


def test_many_rows_taken_in_piece_by_piece_are_those_taken_at_once(monkeypatch):
    rows = readings([300, 7, 40])
    prior = prior_for(rows)
    whole = kappas(prior, rows)
    monkeypatch.setattr("beholder.adapters.moderation.PIECE_ROWS", 16)
    monkeypatch.setattr("beholder.adapters.moderation.PIECE", 100)
    few = readings([5] * 4)
    assert few.rows.sum() == 20 and kappas(prior_for(few), few).shape == (4, 2)
    torch.testing.assert_close(whole, kappas(prior, rows), atol=1e-6, rtol=0)


def _learned(here, people=16, **more):
    names = [f"p{number}" for number in range(people)]
    train, valid = here.judgements(names), here.judgements(names, held_out=True)
    training = BankTraining(epochs=3)
    return learn_prior(
        here.model.shapes, train, Judges(names, train, valid), PriorSettings(steps=20, **more), training, seed=1
    )


@pytest.mark.parametrize(("architecture", "shape"), [("bert", "full"), ("bert", "all layers"), ("llama", "full")])
def test_a_fit_is_its_estimate_moderated_and_somebody_without_rows_is_the_same_wherever_they_are_met(
    architecture, shape
):
    here = world(architecture, shape)
    prior = _learned(here)
    mean = {name: 0.1 + tensor for name, tensor in prior.mean.items()}  # as if something had been learned, whatever won
    prior = replace(prior, mean=mean)
    rows = here.judgements(["a", "b", "c"])
    keep = rows.user != 1
    few = ClassifierExamples(
        **{**vars(rows), **{n: getattr(rows, n)[keep] for n in ("user", "input", "targets", "weights")}}
    )
    fit = fit_bank(prior, ["a", "b", "c"], few, BankTraining(epochs=3), seed=0)
    bare = fit_bank(replace(prior, moderation=None), ["a", "b", "c"], few, BankTraining(epochs=3), seed=0)
    readings_of = few.readings
    for name, tensor in moderated(bare.tensors, kappas(prior, readings_of), prior.moderation).items():
        assert torch.equal(fit.tensors[name], tensor)
        assert torch.equal(fit.tensors[name][1], prior.without_rows()[name])
    assert not torch.equal(fit.tensors["head.weight"][0], bare.tensors["head.weight"][0])
    assert not torch.equal(prior.without_rows()["head.weight"], prior.mean["head.weight"])
    kappa = kappas(prior, readings_of)[2]
    torch.testing.assert_close(here.logits(fit.tensors, 2), kappa * here.logits(bare.tensors, 2), atol=1e-4, rtol=1e-4)


def test_where_nothing_was_learned_of_people_somebody_without_rows_is_the_shared_model_bit_for_bit():
    here = world("bert", "full")
    prior = _learned(here, people=3)
    tried = {each["kind"]: each["log_loss"] for each in prior.facts["tried"][-2:]}  # both ways, the better one is kept
    assert set(tried) == {"isotropic", PLAIN} and prior.facts["kind"] == min(tried, key=lambda kind: tried[kind])
    assert (prior.moderation is None) == (prior.facts["kind"] == PLAIN)
    prior = replace(prior, moderation=moderation_of(here.judgements(["a", "b"]).readings, 1))  # whether or not it pays
    assert not any(tensor.any() for tensor in prior.without_rows().values())
    one = here.judgements(["a"]).readings
    assert (kappas(prior, one) < 1).all()
    asked = one.asked.copy()
    asked[:, 1] = 0
    found = kappas(prior, replace(one, asked=asked))[0]
    assert found[1] == 1 and (found[[0, 2]] < 1).all()  # and so of a label they were never asked


@pytest.mark.parametrize("shape", ["bias", "gate"])
def test_heads_that_cannot_hold_a_factor_are_left_as_they_are(shape):
    prior = _learned(world("bert", shape))
    assert prior.moderation is None and prior.kappa_without_rows is None
    assert all(torch.equal(tensor, prior.mean[name]) for name, tensor in prior.without_rows().items())


def test_what_moderates_is_written_and_read_back(tmp_path):
    here = world("bert", "full")
    prior = _learned(here)
    save_prior(prior, tmp_path)
    again = load_prior(tmp_path, here.model.shapes)
    assert again.checksum == prior.checksum != replace(prior, moderation=None).checksum
    assert prior.checksum != replace(prior, moderation=replace(prior.moderation, exclusive=True)).checksum
    one = here.judgements(["a"])
    fits = [fit_bank(each, ["a"], one, BankTraining(epochs=2), seed=0).tensors for each in (prior, again)]
    assert all(torch.equal(fits[0][name], fits[1][name]) for name in fits[0])
    described = json.loads((tmp_path / "prior.json").read_text())
    assert described["format"] == 3 and described["moderation"] == {"exclusive": False}

    save_prior(replace(prior, moderation=None), tmp_path)  # as versions of before wrote it
    old = load_prior(tmp_path, here.model.shapes)
    assert json.loads((tmp_path / "prior.json").read_text())["format"] == 1 and old.moderation is None

    file = tmp_path / "prior.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"moderation": {"exclusive": False}}))
    with pytest.raises(BankError, match="lacks what moderates heads"):
        load_prior(tmp_path, here.model.shapes)


def test_places_have_the_mean_size_of_the_texts():
    rows = readings([500], inputs=300, width=100)
    known = moderation_of(rows, 0)
    x = np.c_[rows.values[np.unique(rows.input)], np.ones(len(np.unique(rows.input)))]
    assert known.places.shape == (64, 101)
    assert float(known.places.square().sum()) == pytest.approx(np.square(x).sum(1).mean(), rel=1e-5)

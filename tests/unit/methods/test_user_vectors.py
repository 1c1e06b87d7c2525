"""`cls-p` with `user_token: added`: a vector is moved by its user's rows alone, and no erasure changes strangers."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from crowd import crowd
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from beholder.methods import config_class, load_fitted, save_fitted
from beholder.methods.base import erase_saved
from beholder.training.context import Context, no_progress
from beholder.training.loop import Schedule, UserVectors, fine_tune

BASE = "tiny-bert"
SETTINGS = {"max_tokens": 32, "epochs": 1, "user_token": "added", "lora": {"rank": 2, "targets": "all-linear"}}


class Told(nn.Module):
    """A score from a user's vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.users, self.head = nn.Embedding(5, 4), nn.Linear(4, 1)


def test_a_user_absent_from_a_batch_does_not_move():
    """Neither by momentum nor by decay, to the bit; those in the batch do. User 4 has no rows at all."""
    network, slots = Told(), np.asarray([0, 0, 0, 1, 1, 2, 3, 3])
    network.train()
    before = network.users.weight.detach().clone()
    batches: list[set[int]] = []
    moved: list[set[int]] = []

    def losses(batch, mine):
        batches.append(set(slots[batch].tolist()))
        said = network.head(network.users(torch.from_numpy(slots[mine])))[:, 0]
        yield functional.binary_cross_entropy_with_logits(said, torch.from_numpy(mine % 2.0).float()), len(mine)

    def progress(done, total, note, unit="steps"):
        if "valid" not in note:
            now = network.users.weight.detach()
            moved.append(set(np.flatnonzero((now != before).any(dim=1).numpy()).tolist()))
            before.copy_(now)

    fine_tune(
        network,
        np.ones(8, dtype=np.int64),
        np.arange(8),
        losses,
        Schedule(epochs=4, patience=4, batch_size=2, learning_rate=0.1),
        lambda: 0.5,
        seed=0,
        progress=progress,
        users=UserVectors(network.users.weight, slots),
    )
    assert moved == batches and len(moved) == 16
    assert any(len(batch) < 3 for batch in batches) and {user for batch in batches for user in batch} == {0, 1, 2, 3}


@pytest.mark.parametrize("known", [1, 3, 4])
def test_epochs_that_are_known_are_trained_and_the_last_is_kept(known):
    """Whatever validation says; until then all is as where validation decides, rates among it."""

    def trained(**more):
        torch.manual_seed(0)
        network = Told()
        states = []

        def losses(batch, mine):
            said = network.head(network.users(torch.from_numpy(mine)))[:, 0]
            yield functional.binary_cross_entropy_with_logits(said, torch.from_numpy(mine % 2.0).float()), len(mine)

        def validate() -> float:
            states.append(network.head.weight.detach().clone())
            return 1.0 - len(states) / 10  # every epoch is worse than the one before

        schedule = Schedule(epochs=4, patience=9, batch_size=2, learning_rate=0.1, **more)
        rows = np.ones(4, dtype=np.int64), np.arange(4)
        found = fine_tune(network, *rows, losses, schedule, validate, seed=0, progress=lambda *_: None)
        return network, states, found

    network, states, found = trained(known=known)
    assert found.epochs == len(found.history) == len(states) == known
    assert torch.equal(network.head.weight, states[-1])
    chosen, others, best = trained()
    assert best.epochs == 1 and torch.equal(chosen.head.weight, others[0])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(states, others, strict=False))


def test_a_user_of_every_batch_takes_the_steps_of_adam():
    """Of one user alone, nothing is left to be lazy about: torch's own Adam with the same rates moves them alike."""
    network, other, slots = Told(), Told(), np.zeros(6, dtype=np.int64)
    for parameter in (*network.head.parameters(), *other.head.parameters()):
        parameter.requires_grad_(False)
    steps: list[np.ndarray] = []

    def loss(model, mine):
        said = model.head(model.users(torch.from_numpy(slots[mine])))[:, 0]
        return functional.binary_cross_entropy_with_logits(said, torch.from_numpy(mine % 2.0).float())

    def losses(batch, mine):
        steps.append(mine)
        yield loss(network, mine), len(mine)

    schedule = Schedule(epochs=3, patience=3, batch_size=2, learning_rate=0.1, warmup=0.0, clip=1e9)
    score = iter((0.1, 0.2, 0.3))
    fine_tune(
        network,
        np.ones(6, dtype=np.int64),
        np.arange(6),
        losses,
        schedule,
        lambda: next(score),
        seed=0,
        progress=no_progress,
        users=UserVectors(network.users.weight, slots),
    )
    adam = torch.optim.Adam([other.users.weight], lr=0.1, eps=1e-6)
    for step, mine in enumerate(steps):
        adam.param_groups[0]["lr"] = 0.1 if step == 0 else 0.05 * (1 + np.cos(np.pi * (step - 1) / (len(steps) - 1)))
        adam.zero_grad()
        loss(other, mine).backward()
        adam.step()
    torch.testing.assert_close(network.users.weight, other.users.weight, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def fitted_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cls-p")
    rows = crowd()
    save_fitted(config_class("cls-p")(**SETTINGS).fit(rows, rows, Context(BASE, seed=3)), folder)
    return folder


def scores(folder, user: str) -> np.ndarray:
    rows = crowd()
    return load_fitted(folder, BASE).score(list(rows.texts[:8]), [user] * 8)


def test_strangers_are_read_as_before_when_somebody_is_erased(fitted_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(fitted_folder, folder)
    users = crowd().users
    stranger, other = scores(folder, "a stranger"), scores(folder, users[1])
    mean = load_file(str(folder / "head.safetensors"))["users.weight"].mean(dim=0)
    assert erase_saved(folder, users[0])
    np.testing.assert_array_equal(scores(folder, "a stranger"), stranger)
    np.testing.assert_array_equal(scores(folder, users[0]), stranger)  # who is erased is a stranger
    np.testing.assert_array_equal(scores(folder, users[1]), other)
    weight = load_file(str(folder / "head.safetensors"))["users.weight"]
    assert not weight[0].any() and float((weight.mean(dim=0) - mean).abs().max()) > 0


def test_files_without_a_mean_are_read_as_they_were(fitted_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(fitted_folder, folder)
    tensors = load_file(str(folder / "head.safetensors"))
    del tensors["mean_user"]
    save_file(tensors, str(folder / "head.safetensors"))
    stranger = scores(folder, "a stranger")
    np.testing.assert_allclose(stranger, scores(fitted_folder, "a stranger"), atol=1e-6)
    assert erase_saved(folder, crowd().users[0])
    np.testing.assert_array_equal(scores(folder, "a stranger"), stranger)

"""Several workers that fit one model together take the steps of one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from crowd import crowd
from hypothesis import given
from hypothesis import strategies as st

from beholder.methods import config_class
from beholder.training.context import Context
from beholder.training.data_parallel import Team, everybody

pytestmark = pytest.mark.long

LORA = {"rank": 2, "targets": "all-linear", "dropout": 0.0}
BRIEF = {"wording": "brief"}
CASES = {
    "cls": ("tiny-bert", {"max_tokens": 32, "batch_size": 8, "epochs": 3, "lora": LORA}),
    "cls-p": ("tiny-bert", {"max_tokens": 32, "batch_size": 8, "epochs": 2, "lora": LORA, "user_token": "added"}),
    "lm": (
        "tiny-llama",
        {"max_tokens": 300, "batch_size": 3, "epochs": 2, "lora": LORA, "prompt": {"wording": "brief"}},
    ),
}


def fitted(method: str, team: Team = Team()):  # noqa: B008
    """What is fitted, without what it cost."""
    base, settings = CASES[method]
    rows = crowd(rows=24 if method == "lm" else 64)
    made = config_class(method)(**settings).fit(rows, rows, Context(base=base, seed=3, team=team))
    return made.score(list(rows.texts), list(rows.user_ids)).tolist(), made.thresholds.tolist(), made.training.history


def take_part(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    found = {method: fitted(method, everybody()) for method in CASES}
    dist.destroy_process_group()
    Path(folder, str(rank)).write_text(json.dumps(found))


@pytest.mark.timeout(300)
def test_three_workers_fit_what_one_fits(tmp_path):
    mp.spawn(take_part, (3, str(tmp_path)), nprocs=3)
    together = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    for method in CASES:
        scores, thresholds, history = fitted(method)
        for each in together:
            np.testing.assert_allclose(each[method][0], scores, atol=2e-4)
            np.testing.assert_allclose(each[method][1], thresholds, atol=2e-3)
            assert [epoch["epoch"] for epoch in each[method][2]] == [epoch["epoch"] for epoch in history]
            losses = [[epoch["loss"] for epoch in course] for course in (each[method][2], history)]
            np.testing.assert_allclose(*losses, rtol=1e-3)
        assert together[0][method][0] == together[1][method][0]  # all hold the same model


@given(st.lists(st.integers(1, 500), min_size=0, max_size=40), st.integers(1, 6))
def test_shares_are_a_partition_balanced_by_tokens(lengths, size):
    shares = [Team(rank, size).share(np.asarray(lengths, dtype=np.int64)) for rank in range(size)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(lengths)))
    tokens = [int(np.asarray(lengths)[share].sum()) if len(share) else 0 for share in shares]
    assert max(tokens) - min(tokens) <= (max(lengths) if lengths else 0)


def test_alone_nothing_is_exchanged():
    team = everybody()
    assert team == Team() and team.total(2.5) == 2.5 and team.agreed(lambda: 0.25) == 0.25
    np.testing.assert_array_equal(team.share(np.asarray([3, 9, 1])), [0, 1, 2])

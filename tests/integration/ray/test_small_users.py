"""Users who gave few judgements are not hurt by an adapter of their own, on a real base."""

from __future__ import annotations

import numpy as np
import pytest

from beholder.data.splits import ByText, split
from beholder.datasets import load, source_class
from beholder.evaluation.gains import user_gains
from beholder.evaluation.metrics import decide
from beholder.methods import config_class, save_fitted
from beholder.training.context import Context

pytestmark = pytest.mark.slow
SMALL, FEW = 40, 12


def first_rows_of(annotations, users, count):
    """All rows of other users, and the first `count` of these."""
    seen = dict.fromkeys(users, 0)
    kept = []
    for row, user in enumerate(annotations.user_ids):
        if user not in seen or seen[user] < count:
            kept.append(row)
            if user in seen:
                seen[user] += 1
    return annotations.select(kept)


def gains(seed, folder):
    """Points that people with few rows gain on average, and people with many, of one world."""
    source = source_class("simulated")(
        name="simulated", texts="templates", users=60, rows_per_user=150, effect=2.0, seed=seed
    )
    annotations = load(source).annotations
    parts = split(annotations, ByText(fractions=(0.5, 0.2, 0.3), seed=seed))
    small = annotations.users[:SMALL]
    train = first_rows_of(annotations.select(parts["train"]), small, FEW)
    valid = first_rows_of(annotations.select(parts["valid"]), small, 4)
    test = annotations.select(parts["test"])
    rows_of = dict(zip(*np.unique(train.user_ids.astype(str), return_counts=True), strict=True))
    assert all(rows_of[user] < 20 for user in small)

    context = Context("minilm-l6", seed, run_folder=folder)
    shared = config_class("cls")(epochs=2, learning_rate=2e-3).fit(train, valid, context)
    (folder / "methods" / "cls").mkdir(parents=True)
    save_fitted(shared, folder / "methods" / "cls")
    fitted = config_class("cls-u")().fit(train, valid, context)

    def decisions(method):
        return decide(method.score(list(test.texts), list(test.user_ids)), method.thresholds, "multilabel")

    gained = user_gains(decisions(fitted), decisions(shared), test.labels, test.user_ids)
    by_user = dict(zip(test.users, gained, strict=True))
    few = np.nanmean([by_user[user] for user in small])
    many = np.nanmean([by_user[user] for user in test.users if user not in small])
    return few, many


def test_users_with_fewer_than_twenty_rows_are_not_hurt_and_those_with_many_gain(tmp_path):
    few, many = np.transpose([gains(seed, tmp_path / f"{seed}") for seed in range(3)])
    assert few.mean() > 0 and few.min() > -0.5, f"users with {FEW} rows gain {few} points on average"
    assert many.min() > 1, f"users with many rows gain {many} points on average"

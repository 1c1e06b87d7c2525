"""Users' tendencies are kept out of a model for all: offsets and their variance are those of the population."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crowd import crowd

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.methods import config_class
from beholder.training.context import Context
from beholder.training.data_parallel import ALONE
from beholder.training.losses import group
from beholder.training.user_effects import UserEffects


def population(kind: str, users: int = 200, rows: int = 30, spread: float = 1.5):
    """Judgements of people with offsets of known spread on texts of known logits; texts, offsets and annotations."""
    rng = np.random.default_rng(0)
    labels = 3 if kind == "multiclass" else 1
    texts, offsets = rng.normal(size=(60, labels)), spread * rng.normal(size=(users, labels))
    text, user = rng.integers(0, 60, users * rows), np.repeat(np.arange(users), rows)
    logits = texts[text] + offsets[user]
    if kind == "multiclass":
        drawn = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        given = np.eye(labels)[drawn]
    else:
        given = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    once = np.unique(user * 60 + text, return_index=True)[1]
    task = Task(tuple(f"l{number}" for number in range(labels)), kind)
    annotations = Annotations.from_columns(
        task,
        text=[f"text {number}" for number in text[once]],
        user_id=[f"u{number:03d}" for number in user[once]],
        labels=given[once],
    )
    return texts, offsets, annotations


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_offsets_and_their_variance_are_those_of_the_people(kind):
    texts, offsets, annotations = population(kind)
    grouped = group(annotations, by_user=False)
    effects = UserEffects(annotations, grouped.member, "cpu")
    number = [int(text.split()[1]) for text in annotations.texts[grouped.rows]]
    logits = torch.from_numpy(texts[number]).float()
    groups = np.arange(len(number))
    before = float(effects.loss(logits, groups))
    for _ in range(6):
        effects.fit(ALONE)
        after = float(effects.loss(logits, groups))
    assert after < 0.9 * before
    true = offsets - offsets.mean(axis=1, keepdims=True) if kind == "multiclass" else offsets
    mine = effects.offset - effects.offset.mean(axis=1, keepdims=True) if kind == "multiclass" else effects.offset
    assert np.corrcoef(true.ravel(), mine.ravel())[0, 1] > 0.85
    expected = 1.5**2 * (2 / 3 if kind == "multiclass" else 1)  # of classes, differences alone can be known
    assert effects.variance.mean() == pytest.approx(expected, rel=0.35)


def test_nobody_asked_or_alike_has_next_to_no_offset():
    _, _, annotations = population("multilabel", spread=0.0)
    effects = UserEffects(annotations, group(annotations, by_user=False).member, "cpu")
    for _ in range(8):
        effects.loss(torch.zeros(60, 1), np.arange(60))
        effects.fit(ALONE)
    assert effects.variance.max() < 0.3


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_a_model_for_all_is_trained_beside_them_and_knows_nobody(kind):
    rows, context = crowd(kind=kind), Context("tiny-bert", seed=1)
    more = {"epochs": 3, "patience": 3, "max_tokens": 32}
    fitted = config_class("cls")(**more, user_effects=True).fit(rows, rows, context)
    plain = config_class("cls")(**more).fit(rows, rows, context)
    texts = list(rows.texts[:10])
    assert not fitted.knows("u0") and np.array_equal(fitted.score(texts, ["u0"] * 10), fitted.score(texts, ["u1"] * 10))
    courses = [[epoch["loss"] for epoch in each.training.history] for each in (fitted, plain)]
    assert courses[0][0] == pytest.approx(courses[1][0], rel=1e-5)  # offsets are zero until the first epoch is over
    assert courses[0][-1] < courses[1][-1]  # what people differ in is no longer noise

"""Which personal arm is served: one that people can be enrolled in, where validation cannot tell it from the best."""

from __future__ import annotations

import numpy as np
import pytest

from beholder.datasets import load, source_class
from beholder.evaluation.arm_scores import ArmScores
from beholder.evaluation.metrics import fit_thresholds
from beholder.evaluation.scores_io import write_scores
from beholder.experiment.config import make_experiment
from beholder.workflows.choose import find_routing, scores_of

METHODS = {"cls": {}, "cls-e": {"init_from": "cls"}, "cls-u": {"init_from": "cls"}}


@pytest.fixture(scope="module")
def parts():
    source = source_class("simulated")
    config = source(name="simulated", texts="templates", users=40, rows_per_user=60, distinct_texts=300, effect=2.0)
    annotations = load(config).annotations
    valid = np.arange(len(annotations)) % 2 == 0
    return annotations.select(np.flatnonzero(valid)), annotations.select(np.flatnonzero(~valid))


def served(folder, parts, sharpness, methods=METHODS):
    """The arms chosen where each arm knows so much of what readers give: 0 is a guess, 1 all of it."""
    rng = np.random.default_rng(0)
    valid, test = parts
    settings = {"name": "x", "source": {"name": "simulated"}, "base": "tiny-bert", "methods": methods}
    arms = make_experiment({**settings, "evaluate": {"reference": "cls"}}).arms
    (folder / "scores").mkdir()
    for arm in arms:
        scores = [
            (1 / (1 + np.exp(-rng.normal(sharpness[arm.name] * (4 * part.labels - 2))))).astype(np.float32)
            for part in parts
        ]
        thresholds = fit_thresholds(scores[0], valid.labels, "multilabel")
        said = ArmScores(arm.name, arm.config.method, thresholds, *scores, seconds=0.0)
        write_scores(folder / "scores" / f"{arm.name}.parquet", said, valid, test)
    return find_routing(arms, dict.fromkeys(valid.users, 30), scores_of(arms, folder))


def test_of_arms_that_cannot_be_told_apart_the_one_that_takes_newcomers_is_served(tmp_path, parts):
    found = served(tmp_path, parts, {"cls": 0.5, "cls-e": 1.02, "cls-u": 1.0})
    assert found.choice.personal_arm == "cls-u" and found.users is not None


def test_an_arm_that_is_surely_better_is_served_though_it_takes_nobody_in(tmp_path, parts):
    assert served(tmp_path, parts, {"cls": 0.5, "cls-e": 1.5, "cls-u": 0.8}).choice.personal_arm == "cls-e"


def test_no_personal_arm_is_served_where_none_is_better_than_the_global_one(tmp_path, parts):
    found = served(tmp_path, parts, {"cls": 1.0, "cls-e": 0.5, "cls-u": 0.4})
    assert (found.choice.global_arm, found.choice.personal_arm, found.routed) == ("cls", None, None)


def test_without_an_arm_that_takes_newcomers_the_best_is_served(tmp_path, parts):
    methods = {name: METHODS[name] for name in ("cls", "cls-e")}
    assert served(tmp_path, parts, {"cls": 0.5, "cls-e": 1.0}, methods).choice.personal_arm == "cls-e"

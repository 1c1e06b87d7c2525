"""Newcomers: intervals that cover what they claim, scores at every k, and numbers made from saved scores alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.data.annotations import Annotations
from beholder.data.splits import ByPeople, ByText, held_out_people, split
from beholder.datasets import load, source_class
from beholder.evaluation.intervals import clustered_mean
from beholder.evaluation.metrics import log_losses
from beholder.evaluation.newcomers import NewcomerScores, measure_newcomers
from beholder.evaluation.saved_run import recompute
from beholder.evaluation.scores_io import read_newcomers, without_user, write_newcomers
from beholder.execution.adaptation import Adaptable, score_newcomers
from beholder.execution.arm import ArmJob, as_seen, is_done, run_arm
from beholder.methods import config_class, load_fitted, save_fitted
from beholder.report.figures import adaptation_curve
from beholder.training.context import Context
from beholder.util.errors import DataError, MethodError
from beholder.util.run_folder import RunFolder

STEPS = (0, 1, 5, 20)


def population(**more) -> Annotations:
    """Readers who say yes more or less often, each on their own account: what a newcomer's judgements can teach."""
    settings = {"users": 60, "rows_per_user": 40, "distinct_texts": 200, "effect": 2.0, **more}
    return load(source_class("simulated")(name="simulated", texts="templates", **settings)).annotations


@pytest.fixture(scope="module")
def world():
    """The rows of each part, and the split."""
    rows = population()
    made = split(rows, ByPeople(by="people", people=0.4, adapt=STEPS))
    return {name: rows.select(part) for name, part in made.parts.items()}, made.people


def measured_arm(name: str, world, method: str | None = None, **more) -> NewcomerScores:
    parts, people = world
    config = config_class(method or name)(**more)
    fitted = config.fit(parts["train"], parts["valid"], Context("tiny-bert"))
    return score_newcomers(name, None, config, fitted, parts, parts, people)


# Intervals


def coverage(people: int, texts: int, each: int, effects: tuple[float, float], draws: int) -> float:
    """How often the nominal 95 % interval of a mean of 0 holds it; `effects`: spread of people, of texts."""
    rng = np.random.default_rng(people + texts)
    held = 0
    for _ in range(draws):
        person = np.repeat(np.arange(people), each)
        text = np.concatenate([rng.permutation(texts)[:each] for _ in range(people)])
        values = effects[0] * rng.normal(size=people)[person] + effects[1] * rng.normal(size=texts)[text]
        values = values + rng.normal(size=len(person))
        found = clustered_mean(values, np.ones(len(values)), person, text)
        held += found.low <= 0 <= found.high
    return held / draws


@pytest.mark.parametrize(
    ("people", "texts", "each", "effects"),
    [(40, 60, 12, (0.5, 0.5)), (40, 60, 12, (0.5, 0.0)), (40, 60, 12, (0.0, 0.0)), (8, 300, 40, (0.5, 0.2))],
)
def test_the_interval_covers_what_it_claims(people, texts, each, effects):
    assert 0.925 <= coverage(people, texts, each, effects, draws=1000) <= 0.975


def test_rows_taken_as_independent_would_not_cover():
    """The simulation can tell: with people who differ, the plain interval holds the mean far too rarely."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        person = np.repeat(np.arange(40), 12)
        values = 0.5 * rng.normal(size=40)[person] + rng.normal(size=480)
        each = np.arange(480)
        found = clustered_mean(values, np.ones(480), each, each)
        held += found.low <= 0 <= found.high
    assert held / 300 < 0.85


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 4), st.integers(0, 5), st.integers(0, 5)), min_size=2))
@settings(max_examples=60, deadline=None)
def test_the_interval_is_around_the_mean_and_does_not_depend_on_the_order(rows):
    sums, counts, people, texts = (np.asarray(column) for column in zip(*rows, strict=True))
    found = clustered_mean(sums, counts, people, texts)
    backwards = clustered_mean(sums[::-1], counts[::-1], people[::-1], texts[::-1])
    assert found.value == pytest.approx(sums.sum() / counts.sum(), abs=1e-9)
    if len(set(people)) == 1 or len(set(texts)) == 1:
        assert np.isnan([found.low, found.high]).all()
    else:
        assert found.low <= found.value <= found.high
        assert (backwards.low, backwards.high) == pytest.approx((found.low, found.high), abs=1e-9)


def test_log_loss_is_of_the_labels_that_were_asked():
    scores = np.asarray([[0.8, 0.5], [0.2, 0.0]])
    sums, counts = log_losses(scores, np.asarray([[1, np.nan], [0, 1]]), "multilabel")
    np.testing.assert_allclose(sums, [-np.log(0.8), -np.log(0.8) - np.log(1e-6)])
    np.testing.assert_allclose(counts, [1, 2])
    sums, counts = log_losses(np.asarray([[0.6, 0.2]]), np.asarray([[0, 1]]), "multiclass")
    np.testing.assert_allclose((sums, counts), ([-np.log(0.25)], [1]))


# Adaptation


def test_a_method_is_adapted_on_the_first_judgements_of_each_new_person_and_scored_at_every_k(world):
    parts, people = world
    scores = measured_arm("user-prior", world)
    assert scores.steps("test") == list(STEPS) and scores.steps("seen_people") == [0]
    assert set(scores.part) == {"test", "seen_people", "seen_texts", "seen_both"}
    turns = people.turns(parts["enrol"])
    fitted = config_class("user-prior")().fit(parts["train"], parts["valid"], Context("tiny-bert"))
    for k in STEPS:
        here = scores.at("test", k)
        assert list(here.user_ids) == list(parts["test"].user_ids)
        first = parts["enrol"].select(np.flatnonzero(turns < k))
        expected = fitted.adapt(first) if k else fitted
        want = expected.score(list(parts["test"].texts), list(parts["test"].user_ids))
        np.testing.assert_array_equal(here.scores, want)
        for user in set(here.user_ids):
            assert set(here.given[here.user_ids == user]) == {min(k, int((parts["enrol"].user_ids == user).sum()))}


def test_adapting_to_newcomers_changes_nobody_else(world):
    parts, _ = world
    fitted = config_class("user-prior")().fit(parts["train"], parts["valid"], Context("tiny-bert"))
    adapted = fitted.adapt(parts["enrol"])
    texts, users = list(parts["train"].texts), list(parts["train"].user_ids)
    np.testing.assert_array_equal(fitted.score(texts, users), adapted.score(texts, users))
    someone = parts["enrol"].users[0]
    assert adapted.knows(someone) and not fitted.knows(someone)


def test_a_saved_user_prior_can_be_adapted_and_one_of_an_earlier_version_says_so(world, tmp_path):
    parts, _ = world
    fitted = config_class("user-prior")(strength=3).fit(parts["train"], parts["valid"], Context("tiny-bert"))
    save_fitted(fitted, tmp_path)
    again = load_fitted(tmp_path, "tiny-bert")
    assert isinstance(again, Adaptable)
    user = parts["enrol"].users[0]
    np.testing.assert_allclose(again.adapt(parts["enrol"]).by_user[user], fitted.adapt(parts["enrol"]).by_user[user])
    file = tmp_path / "frequencies.json"
    file.write_text(
        json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "strength"})
    )
    old = load_fitted(tmp_path, "tiny-bert")
    np.testing.assert_allclose(old.score(["x"], [user]), fitted.score(["x"], [user]))
    with pytest.raises(MethodError, match=r"without its strength\. Fit it again"):
        old.adapt(parts["enrol"])


def test_a_method_that_learns_of_nobody_is_scored_once(world):
    scores = measured_arm("prior", world)
    assert set(scores.k) == set(scores.given) == {0}


# What is kept, and what is made of it


def test_scores_come_back_and_damage_and_erasure_are_noticed(world, tmp_path):
    scores = measured_arm("user-prior", world)
    file = RunFolder(tmp_path).newcomers("user-prior")
    write_newcomers(file, scores)
    again = read_newcomers(file)
    for name in ("part", "k", "given", "text_ids", "user_ids", "labels", "scores", "thresholds"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scores, name), err_msg=name)
    gone = str(scores.user_ids[0])
    without_user(file, gone)
    left = read_newcomers(file)
    assert gone not in set(left.user_ids) and len(left.k) == int((scores.user_ids != gone).sum())
    table = pq.read_table(file)
    place = table.column_names.index("k")
    pq.write_table(table.set_column(place, "k", [[9] * len(table)]), file)
    with pytest.raises(DataError, match="do not match their checksum"):
        read_newcomers(file)


def test_an_arm_under_a_split_by_people_leaves_its_scores_at_every_k(world, tmp_path):
    parts, people = world
    job = ArmJob("user-prior", {"method": "user-prior"}, None, "key", people=people.model_dump(mode="json"))
    run_arm(job, parts, tmp_path, Context("tiny-bert"))
    assert is_done(job, tmp_path)
    run_arm(ArmJob("prior", {"method": "prior"}, None, "key", people=job.people), parts, tmp_path, Context("tiny-bert"))
    names = ["prior", "user-prior"]
    written = {"reference": "prior", "draws": 50, "seed": 0, "arms": names}
    (tmp_path / "evaluation.json").write_text(json.dumps({**written, "newcomers": {"arms": names, "texts": "unseen"}}))
    found = recompute(tmp_path)
    last = read_newcomers(RunFolder(tmp_path).newcomers("user-prior")).at("test", STEPS[-1])
    np.testing.assert_array_equal(found.arm("user-prior").test_scores, last.scores)
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [point["k"] for point in said["newcomers"]["user-prior"]] == list(STEPS)
    assert [(cell["people"], cell["texts"]) for cell in said["seen_unseen"]] == [
        ("seen", "seen"), ("seen", "unseen"), ("new", "seen"), ("new", "unseen"),
    ]  # fmt: skip
    (tmp_path / "evaluation.json").write_text(json.dumps(written))
    assert recompute(tmp_path).newcomers is None


def test_people_gain_from_their_first_judgements_and_nothing_where_readers_are_alike(world):
    arms = [measured_arm(name, world) for name in ("prior", "user-prior")]
    found = measure_newcomers(arms, "prior", "unseen")
    losses = [point.log_loss.value for point in found.curves["user-prior"]]
    assert losses == sorted(losses, reverse=True)
    zero, *_, last = found.curves["user-prior"]
    assert zero.over_global.value == pytest.approx(0, abs=1e-9) and zero.over_zero is None
    assert last.over_zero.above_zero and last.over_global.above_zero
    assert last.over_zero.value == pytest.approx(losses[0] - losses[-1])
    assert found.curves["prior"][0].over_global is None and len(found.curves["prior"]) == 1
    assert adaptation_curve(found).axes[0].get_legend() is not None

    rows = population(effect=0.0)
    made = split(rows, ByPeople(by="people", people=0.4, adapt=STEPS))
    alike = ({name: rows.select(part) for name, part in made.parts.items()}, made.people)
    found = measure_newcomers([measured_arm(name, alike) for name in ("prior", "user-prior")], "prior", "unseen")
    assert not found.curves["user-prior"][-1].over_zero.above_zero


def test_arms_on_other_rows_are_refused(world):
    prior, other = measured_arm("prior", world), measured_arm("user-prior", world)
    with pytest.raises(DataError, match="unknown arm 'clss'"):
        measure_newcomers([prior], "clss", "unseen")
    moved = replace(other, user_ids=other.user_ids[::-1])
    with pytest.raises(DataError, match="user-prior was scored on other"):
        measure_newcomers([prior, moved], "prior", "unseen")


def test_those_held_out_are_counted_by_how_many_judgements_they_have(world):
    rows = population()
    made = split(rows, ByPeople(by="people", people=0.4, adapt=STEPS))
    counted = held_out_people(rows, made)
    has = {user: int((world[0]["enrol"].user_ids == user).sum()) for user in set(world[0]["test"].user_ids)}
    assert counted.tested == len(has) <= counted.people
    assert counted.with_k == {k: sum(count >= k for count in has.values()) for k in STEPS}
    assert f"{counted.with_k[5]} for 5" in counted.line()


def test_a_control_is_adapted_on_rows_under_permuted_people(world):
    parts, people = world

    class Shuffled(config_class("user-prior")):
        shuffle_users: bool = True

    config = Shuffled()
    seen = as_seen(config, parts, seed=3)
    fitted = config.fit(seen["train"], seen["valid"], Context("tiny-bert"))
    control = score_newcomers("control", "user-prior", config, fitted, seen, parts, people)
    arms = [measured_arm("prior", world), measured_arm("user-prior", world), control]
    found = measure_newcomers(arms, "prior", "unseen")
    assert found.controls == {"control"}
    assert found.curves["control"][-1].over_zero.value < found.curves["user-prior"][-1].over_zero.value / 2
    assert not found.curves["control"][-1].over_zero.above_zero


def test_a_split_by_text_measures_no_newcomers(tmp_path):
    rows = population(users=8)
    parts = {name: rows.select(part) for name, part in split(rows, ByText()).parts.items()}
    run_arm(ArmJob("prior", {"method": "prior"}, None, "key"), parts, tmp_path, Context("tiny-bert"))
    assert [file.name for file in (tmp_path / "scores").iterdir()] == ["prior.parquet"]

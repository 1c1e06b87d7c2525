"""Methods that were trained several times: means over trainings, and intervals with the chance of training in them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored import population, results_of, run_folder, scored

from beholder.evaluation.compare import compare
from beholder.evaluation.gains import Compared, Interval
from beholder.evaluation.intervals import Spread
from beholder.evaluation.saved_run import recompute
from beholder.evaluation.scores_io import read_scores, write_scores
from beholder.evaluation.verdict import times_as_many, verdict
from beholder.experiment.config import make_experiment
from beholder.util.errors import DataError, ExperimentError


def trained(name, rows, rights, seed, **more):
    """An arm with a training for each share of right answers."""
    first, *others = (scored(name, rows, right, seed + 100 * number, **more) for number, right in enumerate(rights))
    return replace(first, repeats=tuple(others))


def both(rows):
    return trained("cls", rows, (0.2, 0.25, 0.2), 1), trained("cls-u", rows, (0.5, 0.7, 0.6), 2)


def test_scores_and_gains_are_means_over_trainings():
    rows = population(1)
    cls, own = both(rows)
    found = results_of([cls, own], rows)
    alone = [results_of([cls.trainings[k].first(1), own.trainings[k].first(1)], rows) for k in range(3)]
    mine = found.to_json()["methods"]["cls-u"]
    each = [one.to_json()["methods"]["cls-u"] for one in alone]
    assert found.to_json()["trainings"] == 3 and "trainings" not in alone[0].to_json()
    assert mine["gain"]["points"] == pytest.approx(np.mean([one["gain"]["points"] for one in each]))
    for key in ("macro_f1", "valid_macro_f1", "subset_accuracy"):
        assert mine[key] == pytest.approx(np.mean([one[key] for one in each])), key
    for label, value in mine["per_label"].items():
        assert value == pytest.approx(np.mean([one["per_label"][label] for one in each]))
    for name, value in mine["measures"].items():
        assert value["value"] == pytest.approx(np.mean([one["measures"][name]["value"] for one in each])), name
        assert value["gain"] == pytest.approx(np.mean([one["measures"][name]["gain"] for one in each])), name
    assert mine["seconds"] == 3.0
    table = found.user_table().to_pydict()
    for column in ("macro_f1.cls-u", "gain_points.cls-u", "log_loss_gain.cls-u", "bias.cls-u"):
        expected = np.mean([one.user_table().to_pydict()[column] for one in alone], axis=0)
        np.testing.assert_allclose(table[column], expected, atol=1e-9)
    assert mine["users"]["better"] == sum(value > 0 for value in table["log_loss_gain.cls-u"])


def test_trainings_that_all_end_alike_are_one_training():
    rows = population(2)
    cls, own = scored("cls", rows, 0.2, 1), scored("cls-u", rows, 0.6, 2)
    once = results_of([cls, own], rows)
    thrice = results_of([replace(each, repeats=(each, each)) for each in (cls, own)], rows)
    for arm in ("cls", "cls-u"):
        one, three = once.to_json()["methods"][arm], thrice.to_json()["methods"][arm]
        assert three["gain"] == pytest.approx(one["gain"])
        assert three["ece"] == pytest.approx(one["ece"])
        for name in one["measures"]:
            assert three["measures"][name] == pytest.approx(one["measures"][name], rel=1e-6), name


@given(
    st.floats(0.1, 5),
    st.integers(2, 500),
    st.lists(st.floats(-20, 20), min_size=2, max_size=8),
    st.randoms(use_true_random=False),
)
def test_the_chance_of_training_only_ever_widens(error, degrees, values, chance):
    alone, several = Spread(error, degrees), np.asarray(values)
    found = alone.with_training(several)
    assert found.error >= alone.error
    assert found.degrees <= degrees + len(values) - 1 + 1e-6
    assert np.diff(found.interval(0.0))[0] >= 0.999 * np.diff(Spread(error, degrees + len(values)).interval(0.0))[0]
    shuffled = list(values)
    chance.shuffle(shuffled)
    again = alone.with_training(np.asarray(shuffled))
    assert (again.error, again.degrees) == pytest.approx((found.error, found.degrees), rel=1e-6)
    assert alone.with_training(several[:1]) == alone

    found = Spread(3.0, 9).with_training(np.asarray([1.0, 4.0, 7.0]))  # variance 9, of the mean 3
    assert found.error == pytest.approx(12**0.5)
    assert found.degrees == pytest.approx(12**2 / (9**2 / 9 + 3**2 / 2))
    assert Spread(float("nan"), 0).with_training(np.asarray([1.0, 2.0])).degrees == 0


def test_intervals_hold_the_gain_over_all_trainings_as_often_as_stated():
    """Each training helps more or less than the last. An interval of one holds what they gain on average in far too few
    worlds; those of three or five, in about 95 of 100."""
    rng = np.random.default_rng(5)
    users, each, help_, luck, times = 40, 30, 0.10, 0.05, 200
    user, text = np.repeat(np.arange(users), each), np.arange(users * each) % 300
    held = {1: 0, 3: 0, 5: 0}
    for _ in range(times):
        right = 0.65 + 0.08 * rng.standard_normal(users)[user] + 0.08 * rng.standard_normal(300)[text]
        gold = rng.random((len(user), 1)) < 0.5
        fate = rng.random(gold.shape)
        reference = np.where(fate < right[:, None], gold, ~gold)
        shifts = help_ + luck * rng.standard_normal(5)
        mine = np.stack([np.where(fate < right[:, None] + shift, gold, ~gold) for shift in shifts])
        for trainings in held:
            decisions = {"cls": np.stack([reference] * trainings), "mine": mine[:trainings]}
            found = Compared(decisions, gold.astype(float), text, user).gain("mine", "cls")
            held[trainings] += found.low <= 100 * help_ <= found.high
    assert held[1] < 0.7 * times, held
    assert 0.89 * times <= held[3] and 0.9 * times <= held[5], held


def test_files_hold_every_training_and_notice_damage(tmp_path):
    import pyarrow.parquet as pq

    rows = population(3)
    cls, own = both(rows)
    folder = run_folder(tmp_path, "run", rows, [cls, own])
    kept = read_scores(folder / "scores" / "cls-u.parquet").arm
    assert len(kept.trainings) == 3
    for found, expected in zip(kept.trainings, own.trainings, strict=True):
        np.testing.assert_array_equal(found.test_scores, expected.test_scores)
        np.testing.assert_array_equal(found.valid_scores, expected.valid_scores)
        np.testing.assert_array_equal(found.thresholds, expected.thresholds)
    assert recompute(folder).to_json() == results_of([cls, own], rows).to_json()
    file = folder / "scores" / "cls-u.parquet"
    table = pq.read_table(file)
    swapped = table.rename_columns(
        [{"scores_2": "scores_3", "scores_3": "scores_2"}.get(n, n) for n in table.column_names]
    )
    pq.write_table(swapped.replace_schema_metadata(table.schema.metadata), file)
    with pytest.raises(DataError, match="damaged"):
        read_scores(file)
    write_scores(file, own.first(1), rows, rows)
    assert json.loads(pq.read_schema(file).metadata[b"beholder_scores"])["format"] == 1  # read by earlier versions


def test_runs_trained_more_and_less_often_are_compared_by_what_both_have(tmp_path):
    rows = population(4)
    often = run_folder(tmp_path, "often", rows, list(both(rows)))
    once = run_folder(tmp_path, "once", rows, [each.first(1) for each in both(rows)])
    assert compare([often]).to_json()["trainings"] == 3
    found = compare([often, once]).to_json()
    assert "trainings" not in found
    gains = {(row["run"], row["arm"]): row["points"] for row in found["methods"]}
    assert gains["often", "cls-u"] == pytest.approx(gains["once", "cls-u"])


def test_a_verdict_on_several_trainings_says_so_and_when_more_are_needed():
    rows = population(1)
    cls, own = trained("cls", rows, (0.3, 0.3, 0.3), 1), trained("cls-u", rows, (0.2, 0.3, 0.45), 2)
    found = results_of([cls, own], rows)
    said = verdict(found, {"cls-u"})
    assert said.answer == "cannot tell yet" and "(mean of 3 trainings)" in said.sentence
    assert said.more is None and "train more often (evaluate.seeds)" in said.sentence
    steady = verdict(results_of([cls, trained("cls-u", rows, (0.31, 0.3, 0.32), 2)], rows), {"cls-u"})
    assert "train more often" not in steady.sentence or steady.more is None


def test_more_people_do_not_make_up_for_too_few_trainings():
    def needed(training: float, trainings: int = 3):
        return times_as_many(Interval(1, 0, 2, 0, 2, 1.0, training), 1.0, (100, 100), trainings=trainings)

    assert needed(0.0) == pytest.approx(times_as_many(Interval(1, 0, 2, 0, 2, 1.0), 1.0, (100, 100)), rel=1e-6)
    assert needed(0.0) < needed(0.1) and needed(1.0) is None
    assert needed(0.15, 20) < needed(0.15, 3)


def test_settings_of_earlier_files_keep_their_runs():
    raw = {
        "name": "one",
        "source": {"name": "simulated", "texts": "templates"},
        "base": "tiny-bert",
        "methods": {"cls": {}},
        "evaluate": {"reference": "cls"},
    }
    plain = make_experiment(raw)
    assert make_experiment({**raw, "evaluate": {"reference": "cls", "seeds": 1}}).digest == plain.digest
    thrice = make_experiment({**raw, "seed": 7, "evaluate": {"reference": "cls", "seeds": 3}})
    assert list(thrice.again) == [8, 9] and not list(plain.again)
    assert thrice.digest != plain.digest
    people = {"by": "people", "people": 0.3}
    with pytest.raises(ExperimentError, match=r"evaluate\.seeds: under a split by people"):
        make_experiment({**raw, "split": people, "evaluate": {"reference": "cls", "seeds": 2}})

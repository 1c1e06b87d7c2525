"""Verdicts, comparisons across runs, and p-values: what may be said, and what may not be compared."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored import LABELS, population, results_of, run_folder, scored

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.evaluation.arm_scores import ArmScores
from beholder.evaluation.compare import compare, surely_worse
from beholder.evaluation.gains import holm
from beholder.evaluation.results import Curve
from beholder.evaluation.run_results import RunResults
from beholder.evaluation.saved_run import recompute
from beholder.evaluation.scores_io import write_scores
from beholder.evaluation.verdict import verdict
from beholder.util.errors import DataError

pytestmark = pytest.mark.long


def reported(results, **more) -> RunResults:
    made_from = {"experiment": "one", "base": "tiny", "data": {}, "split": {"hash": "aaaa"}}
    return RunResults.from_json({**made_from, **results.to_json(), **more})


def test_personalisation_pays_if_its_interval_and_not_its_controls_lies_above_zero():
    rows = population(1)
    cls, own = scored("cls", rows, 0.2, 1), scored("cls-u", rows, 0.7, 2)
    idle = scored("cls-u~shuffled-users", rows, 0.2, 3, control_of="cls-u")
    said = verdict(results_of([cls, own, idle], rows), {"cls-u", "cls-u~shuffled-users"})
    assert said.pays and said.arm == "cls-u" and said.sentence.startswith("Personalisation pays: cls-u is ")
    assert "better for" in said.sentence and "of 30 people" in said.sentence
    gaining = scored("cls-u~shuffled-users", rows, 0.7, 3, control_of="cls-u")
    said = verdict(results_of([cls, own, gaining], rows), {"cls-u", "cls-u~shuffled-users"})
    assert not said.pays and said.answer == "cannot tell yet"  # 30 people: up to 2 points may be about who reads
    said = verdict(results_of([cls, own, gaining], rows, worthwhile=6), {"cls-u", "cls-u~shuffled-users"})
    assert said.answer == "no gain worth having" and "not about who reads" in said.sentence
    said = verdict(results_of([scored("cls", rows, 0.7, 1), scored("cls-u", rows, 0.2, 2)], rows), {"cls-u"})
    assert said.answer == "no gain worth having" and "it costs" in said.sentence
    assert verdict(results_of([cls], rows), set()).answer == "nothing personal"


def test_what_cannot_be_told_yet_says_how_much_more_it_takes_and_so_much_shows_it():
    """The power calculation, held against populations of the size that it asks for."""

    def results(seed, users, better=0.05):
        rows = population(seed, users=users, each=20)
        return results_of([scored("cls", rows, 0.4, 100 + seed), scored("cls-u", rows, 0.4 + better, 900 + seed)], rows)

    small = [results(seed, 10) for seed in range(30)]
    truth = float(np.mean([results(seed, 400).gains["cls-u"].points for seed in range(20)]))
    assert truth > 1
    said = [verdict(replace(each, worthwhile=truth), {"cls-u"}) for each in small]
    undecided = [each.more for each in said if each.answer == "cannot tell yet"]
    assert len(undecided) > 10 and all(each is not None and each >= 1 for each in undecided)
    asked = int(10 * float(np.median(undecided)))
    seen = np.mean([results(seed, asked).gains["cls-u"].above_zero for seed in range(100)])
    assert 0.65 <= seen <= 0.95


def test_the_arm_a_verdict_is_of_is_chosen_on_validation_not_on_test():
    rows = population(2)
    lucky = scored("lucky", rows, 0.9, 1)
    lucky = ArmScores(lucky.name, "m", lucky.thresholds, scored("x", rows, 0.1, 5).valid_scores, lucky.test_scores, 1.0)
    honest = scored("honest", rows, 0.5, 2)
    said = verdict(results_of([scored("cls", rows, 0.2, 4), lucky, honest], rows), {"lucky", "honest"})
    assert said.arm == "honest"


def test_without_a_difference_the_verdict_does_not_claim_one():
    """Arms that know equally much: at a level of 95 % at most one in twenty seeds may say that it pays."""
    claims = 0
    for seed in range(40):
        rows = population(seed, users=20, each=15)
        arms = [scored("cls", rows, 0.4, 100 + seed), scored("cls-u", rows, 0.4, 200 + seed)]
        claims += verdict(results_of(arms, rows), {"cls-u"}).pays
    assert claims <= 2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(values):
    corrected = holm(values)
    assert all(before - 1e-12 <= after <= 1 for before, after in zip(values, corrected, strict=True))
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.asarray(corrected)[order]) >= 0).all()
    assert corrected[int(np.argmin(values))] == pytest.approx(min(1.0, len(values) * min(values)))


def test_holm_on_the_numbers_of_a_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_nobody_asks_about_priors_controls_and_twins_of_the_reference(tmp_path):
    rows = population(3)
    cls = scored("cls", rows, 0.3, 1)
    more = [
        scored("prior", rows, 0.1, 5),
        scored("cls-u", rows, 0.5, 2),
        scored("cls-u~shuffled-users", rows, 0.3, 3, control_of="cls-u"),
        scored("cls-p", rows, 0.32, 4),
    ]
    found = compare([run_folder(tmp_path, "one", rows, [cls, *more, replace(cls, name="again")])])
    by_arm = {row["arm"]: row for row in found.to_json()["methods"]}
    corrected = {name for name, row in by_arm.items() if row["p_holm"] is not None}
    assert corrected == {"cls-u", "cls-p"}
    assert all(row["p"] is not None for name, row in by_arm.items() if name != "cls")
    two = sorted(by_arm[name]["p"] for name in corrected)
    assert min(by_arm[name]["p_holm"] for name in corrected) == pytest.approx(min(1.0, 2 * two[0]))


def test_a_run_compared_says_what_it_says_alone(tmp_path):
    rows = population(3)
    idle = scored("cls-u~shuffled-users", rows, 0.3, 4, control_of="cls-u")
    arms = [scored("cls", rows, 0.3, 1), scored("cls-u", rows, 0.5, 2), scored("cls-p", rows, 0.3, 3), idle]
    folder = run_folder(tmp_path, "one", rows, arms)
    found, alone = compare([folder], None, lambda method: method in ("cls-u", "cls-p")), recompute(folder)
    said, expected = json.loads(json.dumps(found.to_json())), alone.to_json()
    assert found.results.reference == "one:cls" and [row.arm for row in found.rows] == [arm.name for arm in arms]
    for row in said["methods"]:
        method = expected["methods"][row["arm"]]
        assert {key: row[key] for key in method["gain"]} == method["gain"]
        assert {key: row[key] for key in method["users"]} == method["users"]
        for key in ("macro_f1", "measures", "beyond_control", "wins", "ece"):
            assert row[key] == method[key]
        assert row["p_holm"] is None or row["p_holm"] >= row["p"]
    own = verdict(alone, {"cls-u", "cls-p"}).to_json()
    assert said["verdict"] == {
        **own,
        "arm": "one:cls-u",
        "sentence": own["sentence"].replace("cls", "one:cls"),
    }
    for key in ("users", "texts", "level", "worthwhile", "commonest_text"):
        assert said[key] == expected[key]


def test_as_a_table_every_cell_holds_one_value_and_columns_are_those_of_all_rows(tmp_path):
    rows = population(3)
    idle = scored("cls-u~shuffled-users", rows, 0.3, 4, control_of="cls-u")
    arms = [scored("cls", rows, 0.3, 1), scored("cls-u", rows, 0.5, 2), idle]
    found = compare([run_folder(tmp_path, "one", rows, arms)])
    table = found.table()
    assert len({tuple(row) for row in table}) == 1
    assert not any(isinstance(value, dict | list) for row in table for value in row.values())
    own = next(row for row in table if row["arm"] == "cls-u")
    whole = next(row for row in found.to_json()["methods"] if row["arm"] == "cls-u")
    assert [*own][:5] == ["run", "arm", "method", "control_of", "base"]
    plain = ("macro_f1", "points", "low", "high", "texts_low", "texts_high", "p", "p_holm", "better", "worse", "same")
    assert {key: own[key] for key in (*plain, "seconds")} == {key: whole[key] for key in (*plain, "seconds")}
    assert own["log_loss.gain"] == whole["measures"]["log_loss"]["gain"]
    assert own["beyond_control.low"] == whole["beyond_control"]["low"]


def test_two_runs_are_compared_on_the_rows_they_share_and_any_arm_can_be_the_reference(tmp_path):
    rows = population(4)
    one = run_folder(tmp_path, "one", rows, [scored("cls", rows, 0.2, 1), scored("cls-u", rows, 0.6, 2)])
    two = run_folder(tmp_path, "two", rows, [scored("cls", rows, 0.4, 5)])
    found = compare([one, two])
    assert [(row.run, row.arm) for row in found.rows] == [("one", "cls"), ("one", "cls-u"), ("two", "cls")]
    other = compare([one, two], "two:cls")

    def points(some, run):
        return next(row["points"] for row in some.to_json()["methods"] if (row["run"], row["arm"]) == (run, "cls"))

    assert points(other, "one") == pytest.approx(-points(found, "two"))
    with pytest.raises(DataError, match=r"Did you mean 'two:cls'"):
        compare([one, two], "two:clss")


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"split": {"hash": "bbbb"}}, "the same judgements were split otherwise"),
        (
            {"split": {"hash": "b"}, "data": {"fingerprint": "x", "labels": list(LABELS), "kind": "multilabel"}},
            "of other judgements",
        ),
        ({"split": {"hash": "b"}, "data": {"fingerprint": "x", "labels": ["sad"], "kind": "multilabel"}}, "its labels"),
    ],
)
def test_apples_and_oranges_are_refused_and_it_is_said_why(facts, why, tmp_path):
    rows = population(5)
    one = run_folder(tmp_path, "one", rows, [scored("cls", rows, 0.2, 1)])
    two = run_folder(tmp_path, "two", rows, [scored("cls", rows, 0.2, 1)], **facts)
    with pytest.raises(DataError, match=f"two cannot be compared with one: .*{why}"):
        compare([one, two])


def test_a_learning_curve_goes_from_the_newcomer_to_all_and_its_arms_are_no_methods():
    rows = population(6)
    arms = [scored("cls", rows, 0.2, 1), scored("cls-u", rows, 0.7, 2)]
    arms += [scored("cls-u~5-rows", rows, 0.3, 3), scored("cls-u~20-rows", rows, 0.5, 4)]
    curves = {"cls-u": Curve("cls", {20: "cls-u~20-rows", 5: "cls-u~5-rows"})}
    found = results_of(arms, rows, curves=curves)
    assert [point.rows for point in found.curves["cls-u"]] == [0, 5, 20, None]
    points = [point.gain.points for point in found.curves["cls-u"]]
    assert points == sorted(points) and points[0] == 0
    assert list(found.to_json()["methods"]) == ["cls", "cls-u"]


def test_of_one_person_what_cannot_be_told_is_said_wherever_a_gain_stands(tmp_path, capsys):
    from beholder.cli.compare import comparison_table
    from beholder.cli.console import console, print_gains
    from beholder.workflows.record import gain_table

    rows = population(5, users=1)
    arms = [scored("cls", rows, 0.3, 1), scored("cls-u", rows, 0.5, 2)]
    results = results_of(arms, rows)
    said = verdict(results, {"cls-u"})
    assert said.answer == "cannot tell yet" and "unknown among people at large" in said.sentence and said.more is None
    found = reported(results, verdict=said.to_json())
    assert found.methods["cls-u"].gain.low is None
    print_gains(found)
    console.print(comparison_table(compare([run_folder(tmp_path, "one", rows, arms)])))
    assert capsys.readouterr().out.count("unknown") >= 3
    assert "| unknown |" in gain_table(found)


def test_without_a_positive_that_is_said_wherever_a_gain_stands(tmp_path, capsys):
    from beholder.cli.compare import comparison_table
    from beholder.cli.console import console, print_gains
    from beholder.report.comparison import write_comparison
    from beholder.workflows.record import gain_table

    some = population(5)
    rows = Annotations.from_columns(
        Task(LABELS), text=list(some.texts), user_id=list(some.user_ids), labels=np.zeros_like(some.labels)
    )
    arms = [scored("cls", rows, 0.3, 1), scored("cls-u", rows, 0.5, 2)]
    results = results_of(arms, rows)
    said = verdict(results, {"cls-u"})
    assert said.answer == "cannot tell yet" and "no test row has a label of rude, funny" in said.sentence
    found = reported(results, verdict=said.to_json())
    print_gains(found)
    compared = compare([run_folder(tmp_path, "one", rows, arms)])
    console.print(comparison_table(compared))
    page = write_comparison(tmp_path / "page.html", compared).read_text()
    assert "nan" not in capsys.readouterr().out + gain_table(found) + page.split("<main")[-1].split("<svg")[0]
    assert all(row["p_holm"] is None for row in compared.to_json()["methods"])


def test_who_is_surely_worse_on_the_same_rows(tmp_path):
    rows, others = population(6), population(7)
    arms = {
        "good": scored("cls", rows, 0.7, 1),
        "like": scored("cls", rows, 0.68, 2),
        "bad": scored("cls", rows, 0.2, 3),
    }
    files = {name: tmp_path / f"{name}.parquet" for name in (*arms, "elsewhere")}
    for name, arm in arms.items():
        write_scores(files[name], arm, rows, rows)
    write_scores(files["elsewhere"], scored("cls", others, 0.9, 4), others, others)
    loss = surely_worse(files["bad"], files["good"])
    assert loss is not None and loss.high < 0
    assert surely_worse(files["good"], files["bad"]) is None
    assert surely_worse(files["like"], files["good"]) is None
    assert surely_worse(files["bad"], files["elsewhere"]) is None  # other rows: nothing can be said


def test_in_a_narrow_window_no_number_is_cut():
    import io

    from rich.console import Console

    from beholder.cli.console import gain_table

    rows = population(8)
    arms = [scored("cls", rows, 0.9, 1), scored("cls-u~shuffled-users", rows, 0.1, 2)]
    found = reported(results_of(arms, rows))
    written = io.StringIO()
    Console(file=written, width=80).print(gain_table(found))
    gain = found.methods["cls-u~shuffled-users"].gain.to_json()
    for number in (
        f"{gain['points']:+.1f}",
        f"{gain['low']:+.1f} to {gain['high']:+.1f}",
        "F1",
        "these people",
        "personal",
    ):
        assert number in written.getvalue()
    assert "…" not in written.getvalue()

"""Gains: three readings, paired draws, and intervals that cover the truth."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.annotations import Annotations, Task
from beholder.errors import DataError
from beholder.evaluation.figures import write_figures
from beholder.evaluation.gains import gains, row_weights, user_gains
from beholder.evaluation.metrics import f1_per_label, fit_thresholds, macro_f1
from beholder.evaluation.report import recompute
from beholder.evaluation.results import ArmScores, Rows, evaluate
from beholder.evaluation.scores_file import read_scores, write_scores


def over(decisions, reference, *rows, **settings):
    """The gain of one method, compared with the reference alone."""
    return gains({"reference": reference, "mine": decisions}, "reference", *rows, **settings)["mine"]


def population(seed, texts=60, users=15, per_user=40, help_=0.0):
    """Crossed users and texts. `mine` errs less than `reference` by `help_`; how much varies by user and by text."""
    rng = np.random.default_rng(seed)
    difficulty, skill = rng.normal(0, 0.7, texts), rng.normal(0, 0.7, users)
    user = np.repeat(np.arange(users), per_user)
    text = np.concatenate([rng.permutation(texts)[:per_user] for _ in range(users)])
    gold = rng.random((len(user), 2)) < [0.4, 0.25]

    def right(extra):
        logit = 1.0 + difficulty[text] + skill[user] + extra
        return rng.random(gold.shape) < 1 / (1 + np.exp(-logit))[:, None]

    spread = rng.normal(0, 0.3, users)[user] + rng.normal(0, 0.3, texts)[text]
    reference, mine = np.where(right(0), gold, ~gold), np.where(right(help_ + spread), gold, ~gold)
    names = np.asarray([f"t{t}" for t in text], object), np.asarray([f"u{u}" for u in user], object)
    return {"reference": reference, "mine": mine}, gold.astype(np.float32), *names


def test_points_relative_and_headroom_are_the_papers():
    decisions, gold, texts, users = population(0, help_=1.0)
    found = gains(decisions, "reference", gold, texts, users, draws=50)["mine"]
    base, mine = macro_f1(decisions["reference"], gold), macro_f1(decisions["mine"], gold)
    assert found.points == pytest.approx(100 * (mine - base))
    assert found.relative == pytest.approx((mine - base) / base)
    assert found.headroom == pytest.approx((mine - base) / (1 - base))
    assert found.low < found.points < found.high


def test_a_method_gains_nothing_over_itself():
    decisions, gold, texts, users = population(1)
    found = gains({"a": decisions["mine"], "b": decisions["mine"]}, "a", gold, texts, users, draws=50)
    for none in found.values():
        assert (none.points, none.low, none.high) == (0, 0, 0)
        assert all((each.points, each.low, each.high) == (0, 0, 0) for each in none.per_label)


def test_draws_are_paired_seeded_and_the_same_however_many_methods_are_compared():
    decisions, gold, texts, users = population(2, help_=0.5)
    more = {**decisions, "other": ~decisions["mine"]}
    alone = over(decisions["mine"], decisions["reference"], gold, texts, users, draws=80, seed=5)
    among = gains(more, "reference", gold, texts, users, draws=80, seed=5)["mine"]
    assert alone == among
    assert alone.low != gains(decisions, "reference", gold, texts, users, draws=80, seed=6)["mine"].low


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_neither_the_order_of_rows_nor_their_number_of_copies_matters(seed):
    decisions, gold, texts, users = population(seed, texts=12, users=5, per_user=8, help_=0.5)
    expected = gains(decisions, "reference", gold, texts, users, draws=40)
    order = np.random.default_rng(seed).permutation(len(gold))
    for rows in (order, np.concatenate([order, order])):
        moved = {name: each[rows] for name, each in decisions.items()}
        found = gains(moved, "reference", gold[rows], texts[rows], users[rows], draws=40)
        assert repr(found) == repr(expected)  # NaN and all


def test_what_was_not_asked_or_is_never_given_does_not_count():
    decisions, gold, texts, users = population(5, help_=1.0)
    gold[np.random.default_rng(0).random(gold.shape) < 0.3] = np.nan
    flipped = {name: np.where(np.isnan(gold), ~each, each) for name, each in decisions.items()}
    expected = gains(decisions, "reference", gold, texts, users, draws=40)["mine"]
    assert gains(flipped, "reference", gold, texts, users, draws=40)["mine"] == expected
    never = {name: np.column_stack([each, ~each[:, 0]]) for name, each in decisions.items()}
    found = gains(never, "reference", np.column_stack([gold, np.zeros(len(gold))]), texts, users, draws=40)["mine"]
    assert (found.points, found.low, found.high) == (expected.points, expected.low, expected.high)
    assert np.isnan([found.per_label[2].points, found.per_label[2].low, found.per_label[2].high]).all()


def test_gains_per_label_are_those_labels_own():
    decisions, gold, texts, users = population(6, help_=1.0)
    found = gains(decisions, "reference", gold, texts, users, draws=60, seed=3)["mine"]
    expected = 100 * (f1_per_label(decisions["mine"], gold) - f1_per_label(decisions["reference"], gold))
    np.testing.assert_allclose([each.points for each in found.per_label], expected)
    for label, each in enumerate(found.per_label):
        column = {name: said[:, [label]] for name, said in decisions.items()}
        alone = gains(column, "reference", gold[:, [label]], texts, users, draws=60, seed=3)["mine"]
        assert (each.low, each.high) == pytest.approx((alone.low, alone.high))


def test_an_interval_lies_on_either_side_of_zero():
    decisions, gold, texts, users = population(3, help_=2.5)
    better = over(decisions["mine"], decisions["reference"], gold, texts, users, draws=200)
    worse = over(decisions["reference"], decisions["mine"], gold, texts, users, draws=200)
    same = over(decisions["mine"], decisions["mine"], gold, texts, users, draws=20)
    assert better.above_zero and better.low > 0
    assert worse.high < 0 and not worse.above_zero
    assert same.low == same.high == 0 and not same.above_zero
    assert worse.to_json().keys() == {"points", "relative", "headroom", "low", "high", "p"}
    with pytest.raises(DataError, match=r"unknown method 'mime'\. Did you mean 'mine'"):
        gains(decisions, "mime", gold, texts, users)


def test_a_perfect_reference_leaves_no_headroom_and_a_useless_one_no_relative_gain():
    _, gold, texts, users = population(0)
    perfect, useless = gold >= 0.5, gold < 0.5
    assert over(useless, perfect, gold, texts, users, draws=5).headroom is None
    assert over(perfect, useless, gold, texts, users, draws=5).relative is None


def test_the_interval_covers_the_true_gain():
    """Nominal 95 %: at least 90 % of simulated populations, whose true gain is that of one large population."""
    truth_decisions, truth_gold, *_ = population(10_000, texts=3000, users=1500, per_user=60, help_=0.4)
    truth = 100 * (macro_f1(truth_decisions["mine"], truth_gold) - macro_f1(truth_decisions["reference"], truth_gold))
    assert truth > 2
    covered, width = [], []
    for seed in range(120):
        decisions, gold, texts, users = population(seed, help_=0.4)
        found = over(decisions["mine"], decisions["reference"], gold, texts, users, draws=200, seed=seed)
        covered.append(found.low <= truth <= found.high)
        width.append(found.high - found.low)
    assert np.mean(covered) >= 0.90
    assert np.median(width) < 20


def test_a_large_gain_is_seen_and_none_is_not_invented():
    decisions, gold, texts, users = population(3, help_=2.5)
    assert gains(decisions, "reference", gold, texts, users, draws=200)["mine"].above_zero
    invented = 0
    for seed in range(40):
        decisions, gold, texts, users = population(seed)
        invented += gains(decisions, "reference", gold, texts, users, draws=150, seed=seed)["mine"].above_zero
    assert invented <= 4


def test_weights_resample_users_and_texts_and_spare_a_single_one():
    _, _, texts, users = population(0)
    (weights,) = row_weights(texts, users, 30, seed=0)
    assert weights.shape == (30, len(texts)) and (weights == 0).any()
    (first,) = row_weights(np.asarray(["t"] * 4, object), np.asarray(list("aabb"), object), 10, seed=0)
    assert np.array_equal(first[:, 0], first[:, 1]) and set(np.unique(first)) <= {0, 1, 2}


def test_user_gains_are_differences_of_the_users_own_f1():
    decisions, gold, _, users = population(4, help_=1.0)
    found = user_gains(decisions["mine"], decisions["reference"], gold, users)
    for place, user in enumerate(sorted(set(users))):
        mine = users == user
        expected = macro_f1(decisions["mine"][mine], gold[mine]) - macro_f1(decisions["reference"][mine], gold[mine])
        assert found[place] == pytest.approx(100 * expected)


def test_the_same_f1_summed_in_another_order_is_no_gain_for_a_user():
    rng, user = np.random.default_rng(0), np.asarray(["u"] * 12, object)
    for _ in range(50):
        half, said, order = rng.random((12, 7)) < 0.5, rng.random((12, 7)) < 0.5, rng.permutation(7)
        gold = np.concatenate([half, half[:, order]], axis=1)
        one = np.concatenate([said, half[:, order]], axis=1)  # errs on the first seven labels
        other = np.concatenate([half, said[:, order]], axis=1)  # makes the same errors on the last seven
        assert user_gains(one, other, gold.astype(np.float32), user)[0] == 0


def arm(name, strength, annotations, control_of=None, seed=0):
    rng = np.random.default_rng(seed)
    gold = np.nan_to_num(annotations.labels)
    scores = np.clip(strength * gold + (1 - strength) * rng.random(gold.shape), 0, 1).astype(np.float32)
    thresholds = fit_thresholds(scores, annotations.labels, "multilabel")
    return ArmScores(name, "cls", thresholds, scores, scores, 1.5, control_of)


def annotations(rows=240):
    rng = np.random.default_rng(0)
    texts = [f"text {i // 4}" for i in range(rows)]
    labels = (rng.random((rows, 3)) < [0.5, 0.3, 0.2]).astype(float)
    labels[::11, 1] = np.nan
    users = [f"user-{i % 4}" for i in range(rows)]
    return Annotations.from_columns(
        Task(("angry", "rude", "a label with a long name")), text=texts, user_id=users, labels=labels
    )


def three_arms(rows):
    return [
        arm("cls", 0.3, rows, seed=1),
        arm("cls-p", 0.7, rows, seed=2),
        arm("cls-p~shuffled-users", 0.3, rows, control_of="cls-p", seed=3),
    ]


def test_a_method_wins_only_if_its_control_does_not():
    rows = annotations()
    of = Rows.of(rows)

    def wins(arms):
        found = evaluate(arms, of, of, rows.task.labels, "multilabel", "cls", draws=100)
        return found.to_json()["methods"]["cls-p"]["wins"]

    first, second, control = three_arms(rows)
    assert wins([first, second, control])
    assert not wins([first, second, arm(control.name, 0.7, rows, control_of="cls-p", seed=4)])
    assert not wins([first, arm("cls-p", 0.3, rows, seed=5)])


def test_everything_reported_is_computed_again_from_the_saved_scores(tmp_path):
    rows = annotations()
    arms, of = three_arms(rows), Rows.of(annotations())
    original = evaluate(arms, of, of, rows.task.labels, "multilabel", "cls", draws=60, seed=9)
    for each in arms:
        write_scores(tmp_path / "scores" / f"{each.name}.parquet", each, rows, rows)
    settings = {"reference": "cls", "draws": 60, "seed": 9, "arms": [each.name for each in arms]}
    (tmp_path / "evaluation.json").write_text(json.dumps(settings))
    again = recompute(tmp_path)
    assert again.to_json() == original.to_json()
    json.loads(json.dumps(again.to_json(), allow_nan=False))
    table = again.user_table()
    assert table["user_id"].to_pylist() == [f"user-{i}" for i in range(4)]
    assert {"macro_f1.cls-p", "gain_points.cls-p", "rows"} <= set(table.column_names)
    figures = write_figures(tmp_path / "figures", tmp_path / "of-users", again)
    assert {file.name for file in figures} >= {"gain.png", "gain-per-label-cls-p.png", "gain-per-user-cls-p.png"}
    assert all(file.read_bytes()[:4] == b"\x89PNG" and file.stat().st_size > 5000 for file in figures)


def test_a_scores_file_comes_back_as_it_was_and_a_damaged_one_is_named(tmp_path):
    rows = annotations()
    file, written = tmp_path / "cls.parquet", three_arms(rows)[2]
    write_scores(file, written, rows, rows)
    found = read_scores(file)
    assert (found.arm.name, found.arm.control_of, found.label_names) == (written.name, "cls-p", rows.task.labels)
    np.testing.assert_array_equal(found.arm.test_scores, written.test_scores)
    np.testing.assert_array_equal(found.arm.thresholds, written.thresholds)
    np.testing.assert_array_equal(found.valid.labels, rows.labels)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cls\.parquet: no readable scores"):
        read_scores(file)
    with pytest.raises(DataError, match="no readable settings"):
        recompute(tmp_path)


def test_no_flipped_bit_in_a_scores_file_goes_unseen(tmp_path):
    rows = annotations(40)
    file, written = tmp_path / "cls.parquet", arm("cls", 0.5, rows)
    write_scores(file, written, rows, rows)
    whole, refused = file.read_bytes(), 0
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        try:
            found = read_scores(file)
        except DataError as error:
            refused += "\n" not in str(error)
            continue
        np.testing.assert_array_equal(found.arm.test_scores, written.test_scores)
        np.testing.assert_array_equal(found.arm.thresholds, written.thresholds)
        np.testing.assert_array_equal(found.valid.labels, rows.labels)
        np.testing.assert_array_equal(found.test.user_ids, rows.user_ids)
    assert refused > len(whole) / 3 / 2


def test_another_table_and_a_newer_scores_file_are_refused(tmp_path):
    rows, file = annotations(40), tmp_path / "cls.parquet"
    rows.write_parquet(file)
    with pytest.raises(DataError, match="not a scores file of beholder"):
        read_scores(file)
    write_scores(file, arm("cls", 0.5, rows), rows, rows)
    table = pq.read_table(file)
    pq.write_table(table.drop_columns(["user_id"]), file)
    with pytest.raises(DataError, match="column 'user_id' is missing"):
        read_scores(file)
    described = {**json.loads(table.schema.metadata[b"beholder_scores"]), "format": 2}
    metadata = {**table.schema.metadata, b"beholder_scores": json.dumps(described).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), file)
    with pytest.raises(DataError, match="format 2 is newer"):
        read_scores(file)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{", "no readable settings"),
        ("[]", "no readable settings"),
        ('{"reference": "cls", "seed": 0}', "no readable settings .KeyError: 'draws'"),
        ('{"reference": "clss", "draws": 5, "seed": 0}', "Did you mean 'cls'"),
        ('{"reference": "cls", "draws": 5, "seed": 0, "arms": ["cls", "gone"]}', r"gone\.parquet: no readable scores"),
    ],
)
def test_settings_that_cannot_be_used_are_named(tmp_path, written, message):
    rows = annotations(40)
    write_scores(tmp_path / "scores" / "cls.parquet", arm("cls", 0.5, rows), rows, rows)
    (tmp_path / "evaluation.json").write_text(written)
    with pytest.raises(DataError, match=message):
        recompute(tmp_path)


def test_without_a_list_of_arms_every_scores_file_is_one(tmp_path):
    rows = annotations()
    for each in three_arms(rows):
        write_scores(tmp_path / "scores" / f"{each.name}.parquet", each, rows, rows)
    settings = {"reference": "cls", "draws": 30, "seed": 1, "level": 0.5}
    (tmp_path / "evaluation.json").write_text(json.dumps(settings))
    narrow = recompute(tmp_path)
    assert [each.name for each in narrow.arms] == ["cls", "cls-p", "cls-p~shuffled-users"]
    (tmp_path / "evaluation.json").write_text(json.dumps({**settings, "level": 0.95}))
    assert recompute(tmp_path).gains["cls-p"].low < narrow.gains["cls-p"].low


@pytest.mark.parametrize("part", ["valid", "test"])
def test_arms_held_against_other_judgements_of_the_same_texts_are_refused(tmp_path, part):
    rows = annotations()
    others = rows.replace_users([f"user-{(i + 1) % 4}" for i in range(len(rows))])
    first, second, _ = three_arms(rows)
    write_scores(tmp_path / "scores" / "cls.parquet", first, rows, rows)
    parts = {"valid": rows, "test": rows} | {part: others}
    write_scores(tmp_path / "scores" / "cls-p.parquet", second, **parts)
    settings = {"reference": "cls", "draws": 20, "seed": 0, "arms": ["cls", "cls-p"]}
    (tmp_path / "evaluation.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="other rows"):
        recompute(tmp_path)


def test_arms_scored_on_other_rows_are_refused(tmp_path):
    rows = annotations()
    first, second, _ = three_arms(rows)
    write_scores(tmp_path / "scores" / "cls.parquet", first, rows, rows)
    fewer = rows.select(range(100))
    short = ArmScores("cls-p", "cls", second.thresholds, second.valid_scores[:100], second.test_scores[:100], 1.0)
    write_scores(tmp_path / "scores" / "cls-p.parquet", short, fewer, fewer)
    settings = {"reference": "cls", "draws": 20, "seed": 0, "arms": ["cls", "cls-p"]}
    (tmp_path / "evaluation.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="other rows"):
        recompute(tmp_path)

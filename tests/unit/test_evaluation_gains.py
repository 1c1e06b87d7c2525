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
from beholder.evaluation.cluster_interval import Clusters
from beholder.evaluation.figures import write_figures
from beholder.evaluation.gains import gains, user_gains
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
    found = gains(decisions, "reference", gold, texts, users)["mine"]
    base, mine = macro_f1(decisions["reference"], gold), macro_f1(decisions["mine"], gold)
    assert found.points == pytest.approx(100 * (mine - base))
    assert found.relative == pytest.approx((mine - base) / base)
    assert found.headroom == pytest.approx((mine - base) / (1 - base))
    assert found.low < found.points < found.high


def test_a_method_gains_nothing_over_itself():
    decisions, gold, texts, users = population(1)
    found = gains({"a": decisions["mine"], "b": decisions["mine"]}, "a", gold, texts, users)
    for none in found.values():
        assert (none.points, none.low, none.high) == (0, 0, 0)
        assert (none.texts_low, none.texts_high) == (0, 0)
        assert all((each.points, each.low, each.high) == (0, 0, 0) for each in none.per_label)


def test_methods_are_compared_alike_however_many_there_are():
    decisions, gold, texts, users = population(2, help_=0.5)
    more = {**decisions, "other": ~decisions["mine"]}
    assert (
        over(decisions["mine"], decisions["reference"], gold, texts, users)
        == gains(more, "reference", gold, texts, users)["mine"]
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_rows_and_the_names_of_people_and_texts_do_not_matter(seed):
    decisions, gold, texts, users = population(seed, texts=12, users=5, per_user=8, help_=0.5)
    expected = gains(decisions, "reference", gold, texts, users)["mine"].to_json()
    order = np.random.default_rng(seed).permutation(len(gold))
    moved = {name: each[order] for name, each in decisions.items()}
    named = np.asarray([f"other {each}" for each in users], object)
    found = gains(moved, "reference", gold[order], texts[order], named[order])["mine"].to_json()
    assert {name: pytest.approx(value, nan_ok=True) for name, value in expected.items()} == found


def test_what_was_not_asked_or_is_never_given_does_not_count():
    decisions, gold, texts, users = population(5, help_=1.0)
    gold[np.random.default_rng(0).random(gold.shape) < 0.3] = np.nan
    flipped = {name: np.where(np.isnan(gold), ~each, each) for name, each in decisions.items()}
    expected = gains(decisions, "reference", gold, texts, users)["mine"]
    assert gains(flipped, "reference", gold, texts, users)["mine"] == expected
    never = {name: np.column_stack([each, ~each[:, 0]]) for name, each in decisions.items()}
    found = gains(never, "reference", np.column_stack([gold, np.zeros(len(gold))]), texts, users)["mine"]
    assert (found.points, found.low, found.high) == (expected.points, expected.low, expected.high)
    assert np.isnan([found.per_label[2].points, found.per_label[2].low, found.per_label[2].high]).all()


def test_gains_per_label_are_those_labels_own():
    decisions, gold, texts, users = population(6, help_=1.0)
    found = gains(decisions, "reference", gold, texts, users)["mine"]
    expected = 100 * (f1_per_label(decisions["mine"], gold) - f1_per_label(decisions["reference"], gold))
    np.testing.assert_allclose([each.points for each in found.per_label], expected)
    for label, each in enumerate(found.per_label):
        column = {name: said[:, [label]] for name, said in decisions.items()}
        alone = gains(column, "reference", gold[:, [label]], texts, users)["mine"]
        assert (each.low, each.high) == pytest.approx((alone.low, alone.high))


def test_an_interval_lies_on_either_side_of_zero():
    decisions, gold, texts, users = population(3, help_=2.5)
    better = over(decisions["mine"], decisions["reference"], gold, texts, users)
    worse = over(decisions["reference"], decisions["mine"], gold, texts, users)
    same = over(decisions["mine"], decisions["mine"], gold, texts, users)
    assert better.above_zero and better.low > 0
    assert worse.high < 0 and not worse.above_zero
    assert same.low == same.high == 0 and not same.above_zero
    assert worse.to_json().keys() == {"points", "low", "high", "texts_low", "texts_high", "relative", "headroom", "p"}
    with pytest.raises(DataError, match=r"unknown method 'mime'\. Did you mean 'mine'"):
        gains(decisions, "mime", gold, texts, users)


def test_a_perfect_reference_leaves_no_headroom_and_a_useless_one_no_relative_gain():
    _, gold, texts, users = population(0)
    perfect, useless = gold >= 0.5, gold < 0.5
    assert over(useless, perfect, gold, texts, users).headroom is None
    assert over(perfect, useless, gold, texts, users).relative is None


def crossed(rng, people=30, texts=80, variances=(0.5, 0.3, 0.4, 1.0), half_of_one=False):
    """Values of rows with effects of person, text, both and chance; how often people and texts come differs much."""
    weight = rng.dirichlet(np.ones(people))
    user = rng.choice(people, 900, p=weight)
    text = rng.choice(texts, 900, p=rng.dirichlet(np.ones(texts)))
    if half_of_one:
        text[rng.random(900) < 0.5] = 0
    both = user * texts + text
    effects = [
        rng.normal(0, np.sqrt(v), n) for v, n in zip(variances, (people, texts, people * texts, 900), strict=True)
    ]
    value = effects[0][user] + effects[1][text] + effects[2][both] + effects[3]
    return value, user.astype(str).astype(object), text.astype(str).astype(object)


@pytest.mark.parametrize("half_of_one", [False, True])
def test_variances_of_people_texts_both_and_chance_are_recovered(half_of_one):
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        value, user, text = crossed(rng, half_of_one=half_of_one)
        influence = (value - value.mean()) / len(value)
        found.append(Clusters(user, text).components(influence))
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - [0.5, 0.3, 0.4, 1.0]) < 4 * error + 0.01).all()


def share_of_truths_held(texts: int, users: int, per_user: int, times: int, help_: float) -> tuple[float, float]:
    """How often the interval for people at large holds the truth, and lies above it."""
    truth = true_gain(help_)
    held = above = 0
    for seed in range(times):
        decisions, gold, *names = population(seed, texts, users, per_user, help_)
        found = over(decisions["mine"], decisions["reference"], gold, *names)
        held += found.low <= truth <= found.high
        above += found.low > truth
    return held / times, above / times


def true_gain(help_: float) -> float:
    """Of all people and texts that `population` draws from, by quadrature over the normal their effects add up to."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)

    def macro(extra, spread):
        right = (weights / (1 + np.exp(-(1.0 + extra + spread * nodes)))).sum() / weights.sum()
        return np.mean([2 * rate * right / (2 * rate * right + 1 - right) for rate in (0.4, 0.25)])

    return 100 * (macro(help_, np.sqrt(0.7**2 * 2 + 0.3**2 * 2)) - macro(0.0, np.sqrt(0.7**2 * 2)))


@pytest.mark.parametrize(("texts", "users", "per_user"), [(60, 6, 40), (60, 15, 40), (200, 120, 12)])
def test_nominal_95_percent_intervals_hold_the_true_gain_as_often(texts, users, per_user):
    held, above = share_of_truths_held(texts, users, per_user, 400, help_=0.4)
    assert 0.92 <= held <= 0.98
    assert above <= 0.045


def test_where_all_gain_alike_the_interval_is_narrower_than_one_that_counts_chance_three_times():
    """Of people at large the truth lies as far away as the spread of many populations says, and not three times so."""
    points, widths = [], []
    for seed in range(150):
        decisions, gold, *names = population(seed, texts=200, users=100, per_user=15, help_=0.4)
        found = over(decisions["mine"], decisions["reference"], gold, *names)
        points.append(found.points)
        widths.append((found.high - found.low) / 2 / 1.98)
    assert np.median(widths) == pytest.approx(np.std(points), rel=0.15)


def test_these_people_and_people_at_large_are_two_questions():
    """Where people's gains differ much and each judged much, these people's is known well, that of others is not."""
    rng = np.random.default_rng(5)
    user = np.repeat(np.arange(8), 400)
    gold = (rng.random((len(user), 1)) < 0.4).astype(np.float32)
    likely = np.linspace(0.5, 0.95, 8)[user][:, None]
    decisions = {
        "reference": np.where(rng.random(gold.shape) < 0.7, gold > 0, gold == 0),
        "mine": np.where(rng.random(gold.shape) < likely, gold > 0, gold == 0),
    }
    texts = np.arange(len(user)).astype(str).astype(object)
    found = gains(decisions, "reference", gold, texts, user.astype(str).astype(object))["mine"]
    assert found.texts_high - found.texts_low < (found.high - found.low) / 3
    one = np.asarray(["u"] * len(user), object)
    alone = gains(decisions, "reference", gold, texts, one)["mine"]
    assert np.isnan([alone.low, alone.high]).all() and alone.texts_low < alone.points < alone.texts_high
    assert not alone.above_zero and alone.p == 1.0


def test_a_large_gain_is_seen_and_none_is_not_invented():
    decisions, gold, texts, users = population(3, help_=2.5)
    assert gains(decisions, "reference", gold, texts, users)["mine"].above_zero
    invented = [over(d["mine"], d["reference"], *rest).above_zero for d, *rest in map(population, range(300))]
    assert np.mean(invented) <= 0.04


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
        found = evaluate(arms, of, of, rows.task.labels, "multilabel", "cls")
        return found.to_json()["methods"]["cls-p"]["wins"]

    first, second, control = three_arms(rows)
    assert wins([first, second, control])
    assert not wins([first, second, arm(control.name, 0.7, rows, control_of="cls-p", seed=4)])
    assert not wins([first, arm("cls-p", 0.3, rows, seed=5)])


def test_everything_reported_is_computed_again_from_the_saved_scores(tmp_path):
    rows = annotations()
    arms, of = three_arms(rows), Rows.of(annotations())
    original = evaluate(arms, of, of, rows.task.labels, "multilabel", "cls")
    for each in arms:
        write_scores(tmp_path / "scores" / f"{each.name}.parquet", each, rows, rows)
    settings = {"reference": "cls", "arms": [each.name for each in arms]}
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
        ('{"seed": 0}', "no readable settings .KeyError: 'reference'"),
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

"""Gains: three readings, paired draws, and intervals that cover the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.evaluation.gains import UserCounts, gains, user_gains, user_log_loss_gains
from beholder.evaluation.intervals import Clusters, degrees
from beholder.evaluation.metrics import f1_per_label, macro_f1
from beholder.util.errors import DataError

pytestmark = pytest.mark.long


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
    with pytest.raises(DataError, match=r"unknown arm 'mime'\. Did you mean 'mine'"):
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


def influences(seed=0, users=8, texts=300, per_user=120):
    """People and texts that differ: (influence, people, texts), in all 0."""
    rng = np.random.default_rng(seed)
    person, text = np.repeat(np.arange(users), per_user), rng.integers(1, texts, users * per_user)
    value = 0.3 * rng.normal(size=users)[person] + 0.5 * rng.normal(size=texts)[text] + rng.normal(size=len(person))
    return (value - value.mean()) / len(value), person, text


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02])
def test_a_common_text_on_which_nothing_depends_adds_nothing(share):
    """As many rows again of one text, on which influences go next to nowhere, leave the intervals as they were."""
    influence, person, text = influences()
    rng, rows = np.random.default_rng(1), len(influence)
    more = share * rng.normal(size=rows) * np.sqrt((influence**2).mean())
    together = np.concatenate([influence, more - more.mean()])
    alone = Clusters(person, text).spreads(influence)
    both = Clusters(np.tile(person, 2), np.concatenate([text, np.zeros(rows, dtype=int)])).spreads(together)
    for one, other in zip(alone, both, strict=True):
        assert one.degrees == other.degrees
        assert 1 - 1e-9 <= other.error / one.error < 1.001 + 2 * share


def test_a_common_text_like_all_others_makes_it_much_less_sure():
    influence, person, text = influences()
    half = np.where(np.arange(len(text)) % 2, text, 0)
    assert Clusters(person, half).spreads(influence)[1].error > 3 * Clusters(person, text).spreads(influence)[1].error


def test_where_nothing_depends_on_any_row_all_is_sure():
    nothing, person, text = np.zeros(40), np.arange(40) % 4, np.arange(40) // 4
    assert [each.interval(0.0) for each in Clusters(person, text).spreads(nothing)] == [(0.0, 0.0)] * 2
    assert np.isnan(Clusters(np.zeros(40), text).spreads(nothing)[0].interval(0.0)[0])


@pytest.mark.parametrize(("people", "texts"), [(2, 2), (6, 20), (16, 32), (800, 75)])
def test_degrees_are_those_of_a_variance_that_people_and_texts_both_tell(people, texts):
    """Twice its squared mean by its variance, where both mean squares are of the same chance, which is counted once."""
    rng = np.random.default_rng(0)
    told = [rng.chisquare(count - 1, 400_000) / (count - 1) for count in (people, texts)]
    variance = told[0] + told[1] - 1
    assert degrees(people, texts) == pytest.approx(2 * variance.mean() ** 2 / variance.var(), rel=0.03)
    assert degrees(people, texts) == degrees(texts, people) < min(people, texts) - 1 < people + texts
    assert (degrees(people, 1), degrees(1, texts)) == (0, 0)
    assert degrees(texts) == pytest.approx(texts - 1)


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


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_log_loss_gains_of_users_are_those_of_scikit_learn(kind):
    from sklearn.metrics import log_loss

    rng, users = np.random.default_rng(5), np.asarray([f"u{row % 4}" for row in range(60)], object)
    mine, reference = (rng.dirichlet(np.ones(3), 60) for _ in range(2))
    gold = np.eye(3)[rng.integers(0, 3, 60)]
    if kind == "multilabel":
        gold[7, 1] = np.nan  # not asked
    found = user_log_loss_gains(mine, reference, gold, users, kind)

    def loss(scores, rows):
        if kind == "multiclass":
            return log_loss(gold[rows].argmax(1), scores[rows], labels=[0, 1, 2])
        asked = ~np.isnan(gold[rows])
        return log_loss(gold[rows][asked], scores[rows][asked], labels=[0, 1])

    for place in range(4):
        rows = users == f"u{place}"
        assert found[place] == pytest.approx(loss(reference, rows) - loss(mine, rows))
    assert UserCounts.of(found) == UserCounts(int((found > 0).sum()), int((found < 0).sum()), 0)
    assert UserCounts.of(user_log_loss_gains(mine, mine, gold, users, kind)) == UserCounts(0, 0, 4)


def test_saying_yes_to_everybody_raises_the_f1_of_few_judgements_and_is_not_taken_for_a_gain():
    """People of five judgements, of which one in five is positive: the truth's log-loss is the least for most."""
    rng = np.random.default_rng(1)
    users = np.repeat(np.asarray([f"u{number:03d}" for number in range(200)], object), 5)
    gold = (rng.random((1000, 1)) < 0.2).astype(np.float32)
    truth, yes = np.full((1000, 1), 0.2), np.full((1000, 1), 0.6)
    by_f1 = UserCounts.of(user_gains(yes >= 0.5, truth >= 0.5, gold, users))
    by_loss = UserCounts.of(user_log_loss_gains(yes, truth, gold, users, "multilabel"))
    assert by_f1.better > 100 and by_f1.worse == 0
    assert by_loss.worse > 130 > 70 > by_loss.better


def test_the_same_f1_summed_in_another_order_is_no_gain_for_a_user():
    rng, user = np.random.default_rng(0), np.asarray(["u"] * 12, object)
    for _ in range(50):
        half, said, order = rng.random((12, 7)) < 0.5, rng.random((12, 7)) < 0.5, rng.permutation(7)
        gold = np.concatenate([half, half[:, order]], axis=1)
        one = np.concatenate([said, half[:, order]], axis=1)  # errs on the first seven labels
        other = np.concatenate([half, said[:, order]], axis=1)  # makes the same errors on the last seven
        assert user_gains(one, other, gold.astype(np.float32), user)[0] == 0

"""Measures of distributions: numbers worked out by hand, laws, and influences by moving a row's weight."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from beholder.data.annotations import Annotations
from beholder.data.scales import Scale
from beholder.data.task import Task
from beholder.evaluation.arm_scores import ArmScores, Judgements
from beholder.evaluation.distribution_measures import distribution_measures
from beholder.evaluation.results import evaluate
from beholder.evaluation.run_results import MethodResult

IRONIC = Task(("ironic",))
NLI = Task(("contradiction", "entailment", "neutral"))
CLASSES = Task(("normal", "offensive", "hateful"), "multiclass")
CSC, PAR = (
    Task.of([Scale(name, tuple(float(point) for point in points))])
    for name, points in (("sarcastic", range(1, 7)), ("paraphrase", range(-5, 6)))
)


def measured(task, scores, labels, texts):
    found, scales = distribution_measures(task, np.asarray(scores, float), np.asarray(labels, float), ids(texts))
    return found, scales


def ids(texts):
    return np.asarray([*texts, None], dtype=object)[:-1]


def certain(task, *answers):
    """Scores that are sure of these answers."""
    return task.scales[0].encode(np.asarray(answers, float))


def test_a_binary_set_by_hand():
    """Text a: predicted (.6 + .2) / 2 = .4, given .5, both of its readers wrongly; text b: predicted .9, given 1."""
    found, scales = measured(IRONIC, [[0.6], [0.2], [0.9]], [[0], [1], [1]], "aab")
    assert found["manhattan"].value == pytest.approx((0.2 + 0.2) / 2)
    entropy = (-(0.5 * math.log(0.6) + 0.5 * math.log(0.4)) - math.log(0.9)) / 2
    assert found["cross_entropy"].value == pytest.approx(entropy, abs=1e-8)
    assert found["error_rate"].value == pytest.approx((2 / 2 + 0) / 2)
    assert scales == {}


def test_a_text_counts_once_however_many_readers_it_has():
    few = measured(IRONIC, [[0.9], [0.2]], [[1], [1]], "ab")[0]["error_rate"]
    many = measured(IRONIC, [[0.9]] * 7 + [[0.2]], [[1]] * 8, "aaaaaaab")[0]["error_rate"]
    assert few.value == many.value == 0.5


def test_a_set_with_several_labels_by_hand():
    """One text, two readers; the mean over three labels of distances whose two values add up: 2 |p - t|."""
    scores = [[0.8, 0.1, 0.4], [0.6, 0.1, 0.8]]
    labels = [[1, 0, 0], [1, 0, 1]]
    found, _ = measured(NLI, scores, labels, "aa")
    assert found["manhattan"].value == pytest.approx(2 * (0.3 + 0.1 + 0.1) / 3)
    assert found["error_rate"].value == 0
    wrong, _ = measured(NLI, [[0.8, 0.1, 0.6], [0.6, 0.1, 0.8]], labels, "aa")
    assert wrong["error_rate"].value == pytest.approx((0 + 0 + 1 / 2) / 3)


@pytest.mark.parametrize(("task", "answers", "predicted", "divisor"), [
    (CSC, (2, 6), (3, 3), 6),
    (PAR, (-5, 4), (-4, 0), 11),
])  # fmt: skip
def test_a_scale_by_hand(task, answers, predicted, divisor):
    """Absolute distances of the two readers, divided by the number of points as the official evaluation does."""
    found, scales = measured(task, certain(task, *predicted), certain(task, *answers), "aa")
    of = scales[task.scales[0].name]
    off = [abs(one - two) for one, two in zip(answers, predicted, strict=True)]
    assert found == {} and of["absolute_distance"].value == pytest.approx(sum(off) / 2 / divisor)
    assert of["wasserstein"].value == pytest.approx(wasserstein_distance(answers, predicted))


def test_classes_are_one_distribution():
    scores = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]
    labels = [[1, 0, 0], [0, 1, 0]]
    found, _ = measured(CLASSES, scores, labels, "aa")
    p, t = np.mean(scores, axis=0), np.mean(labels, axis=0)
    assert found["manhattan"].value == pytest.approx(np.abs(p - t).sum())
    assert found["jensen_shannon"].value == pytest.approx(jensenshannon(p, t) ** 2)
    assert found["error_rate"].value == 0.5


def test_certain_and_wrong_predictions_have_the_cross_entropy_of_the_official_evaluation():
    found, _ = measured(IRONIC, [[1.0]], [[0]], "a")
    assert found["cross_entropy"].value == pytest.approx(-math.log(1e-12 + 1e-9))


@st.composite
def worlds(draw):
    """Readers of a few texts: answers and scores, some not asked."""
    rows = draw(st.integers(2, 25))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    texts = [f"t{each}" for each in random.integers(0, draw(st.integers(1, 6)), rows)]
    labels = (random.random((rows, 3)) < 0.5).astype(float)
    labels[random.random((rows, 3)) < 0.2] = np.nan
    return random.random((rows, 3)), labels, texts


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_distances_are_those_of_loops_over_texts(world):
    """Means over texts of means over the labels asked of anybody, each from plain loops."""
    scores, labels, texts = world
    each = {"manhattan": [], "cross_entropy": [], "jensen_shannon": [], "error_rate": []}
    for text in dict.fromkeys(texts):
        of_labels = {name: [] for name in each}
        for label in range(3):
            rows = [row for row, own in enumerate(texts) if own == text and not math.isnan(labels[row, label])]
            if not rows:
                continue
            p, t = scores[rows, label].mean(), labels[rows, label].mean()
            of_labels["manhattan"].append(2 * abs(p - t))
            of_labels["cross_entropy"].append(-(t * math.log(p) + (1 - t) * math.log(1 - p)))
            of_labels["jensen_shannon"].append(jensenshannon([1 - p, p], [1 - t, t]) ** 2)
            of_labels["error_rate"].append(np.mean((scores[rows, label] >= 0.5) != labels[rows, label]))
        for name, values in of_labels.items():
            each[name] += [np.mean(values)] if values else []
    found, _ = measured(NLI, scores, labels, texts)
    for name, values in each.items():
        if values:
            assert found[name].value == pytest.approx(np.mean(values), rel=1e-6, abs=1e-7)
            assert found[name].influence.sum() == pytest.approx(0, abs=1e-9)
        else:
            assert math.isnan(found[name].value)


@settings(max_examples=40, deadline=None)
@given(worlds(), st.randoms())
def test_the_order_of_rows_and_the_names_of_texts_do_not_matter(world, random):
    scores, labels, texts = world
    order = list(range(len(texts)))
    random.shuffle(order)
    once, _ = measured(NLI, scores, labels, texts)
    again, _ = measured(NLI, scores[order], labels[order], [f"other {texts[row]}" for row in order])
    for name, each in once.items():
        assert again[name].value == pytest.approx(each.value, nan_ok=True)
        assert again[name].influence == pytest.approx(each.influence[order])


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_predicting_what_was_given_leaves_no_distance(world):
    _, labels, texts = world
    found, _ = measured(NLI, np.nan_to_num(labels), labels, texts)
    for name in ("manhattan", "jensen_shannon", "error_rate"):
        assert math.isnan(found[name].value) or found[name].value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["manhattan", "cross_entropy", "jensen_shannon", "error_rate"])
@pytest.mark.parametrize("task", [NLI, CLASSES])
def test_influences_are_derivatives(task, name):
    """A row that counts 1 + h times within its text, and its text in proportion, moves the measure by h x influence."""
    random = np.random.default_rng(3)
    texts = [f"t{each}" for each in random.integers(0, 5, 30)]
    labels = (random.random((30, 3)) < 0.5).astype(float)
    if task is CLASSES:
        labels = np.eye(3)[random.integers(0, 3, 30)]
    scores = random.dirichlet((1, 1, 1), 30) if task is CLASSES else random.random((30, 3))
    assert moved_by(task, scores, labels, texts, lambda found: found[0][name], row=4)


@pytest.mark.parametrize("name", ["wasserstein", "absolute_distance"])
def test_influences_on_scales_are_derivatives(name):
    random = np.random.default_rng(5)
    texts = [f"t{each}" for each in random.integers(0, 5, 30)]
    labels = CSC.scales[0].encode(random.integers(1, 7, 30).astype(float))
    scores = -np.sort(-random.random((30, 5)), axis=1)
    assert moved_by(CSC, scores, labels, texts, lambda found: found[1]["sarcastic"][name], row=4)


def moved_by(task, scores, labels, texts, of, row):
    """Whether the finite difference is the influence. Texts count by their rows' weights as 1 + h / rows."""
    once = of(measured(task, scores, labels, texts))
    times = 400
    many = np.concatenate([np.repeat(np.arange(len(texts)), times), [row]])
    within = [of(measured(task, scores[some], labels[some], [texts[each] for each in some])).value for some in (many,)]
    own = [each for each, text in enumerate(texts) if text == texts[row]]
    alone = of(measured(task, scores[own], labels[own], [texts[each] for each in own])).value
    count = len(set(texts))
    counts_more = (alone - once.value) / len(own) / count  # of the text, as its weight is the mean over its rows
    found = (within[0] - once.value) * times + counts_more
    return found == pytest.approx(once.influence[row], rel=0.03, abs=2e-4)


def rows_of(task, users=6, texts=12, seed=0):
    random = np.random.default_rng(seed)
    user, text = np.divmod(np.arange(users * texts), texts)
    labels = (random.random((len(user), len(task.labels))) < 0.4).astype(np.float32)
    if task.scales:
        labels = task.scales[0].encode(random.integers(1, 7, len(user)).astype(float)).astype(np.float32)
    return Annotations.from_columns(
        task, text=[f"text {each}" for each in text], user_id=[f"u{each}" for each in user], labels=labels
    )


def results_of(task, rows, **more):
    random = np.random.default_rng(1)
    arms = []
    for name, strength in (("cls", 0.1), ("cls-u", 0.6)):
        trained = []
        for _ in range(2):
            noise = (
                -np.sort(-random.random(rows.labels.shape), axis=1) if task.scales else random.random(rows.labels.shape)
            )
            scores = (strength * rows.labels + (1 - strength) * noise).astype(np.float32)
            trained.append(ArmScores(name, name, np.full(len(task.labels), 0.5, np.float32), scores, scores, 1.0))
        arms.append(ArmScores(**{**vars(trained[0]), "repeats": (trained[1],)}))
    return evaluate(arms, Judgements.of(rows), Judgements.of(rows), task, "cls", **more)


@pytest.mark.parametrize("task", [IRONIC, NLI, CSC])
def test_a_run_reports_them_with_their_gain_and_intervals(task):
    written = results_of(task, rows_of(task)).to_json()["methods"]
    found = MethodResult.from_json(written["cls-u"]).distributions
    assert found and found.texts == 12
    each = list(found.scales["sarcastic"].to_json().values()) if task.scales else [
        getattr(found, name).to_json() for name in ("manhattan", "cross_entropy", "jensen_shannon", "error_rate")
    ]  # fmt: skip
    for one in each:
        assert one["gain"] == pytest.approx(one["reference"] - one["value"]) and one["gain"] > 0
        assert one["low"] < one["gain"] < one["high"] and one["texts_low"] < one["gain"] < one["texts_high"]
    assert (found.manhattan is None) == bool(task.scales)
    reference = MethodResult.from_json(written["cls"]).distributions
    assert reference and (task.scales or reference.manhattan.gain == 0)


def test_nothing_is_added_where_every_text_has_one_reader():
    rows = rows_of(IRONIC, users=1)
    assert "distributions" not in results_of(IRONIC, rows).to_json()["methods"]["cls"]

"""Several sources as tasks of one model: what is joined comes apart again; nobody is measured on what was not asked."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from crowd import crowd
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.adapters.overlay import Overlay
from beholder.data.annotations import Annotations
from beholder.data.controls import shuffle_users
from beholder.data.scales import Scale
from beholder.data.splits import ByNewUsers, ByPeople, ByText, split
from beholder.data.task import Task, tasks_of
from beholder.data.texts import normalise
from beholder.datasets import load, source_class
from beholder.datasets.multitask import join
from beholder.evaluation.arm_scores import ArmScores, Judgements
from beholder.evaluation.gains import gains
from beholder.evaluation.metrics import decide, fit_thresholds, macro_f1
from beholder.evaluation.results import evaluate
from beholder.execution.arm import to_learn
from beholder.experiment.config import make_experiment
from beholder.methods import config_class, save_fitted
from beholder.training.context import Context
from beholder.util.errors import BeholderError, DataError, ExperimentError, MethodError

WORDS = ("you are kind", "go away", "Go  away", "well done", "no", "fine by me")


@st.composite
def some_rows(draw) -> Annotations:
    """A source with one to three labels, some not asked, and perhaps a context column."""
    count = draw(st.integers(1, 3))
    keys = draw(
        st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from("abc")), min_size=1, max_size=12, unique=True)
    )
    labels = np.asarray(
        draw(
            st.lists(
                st.lists(st.sampled_from([0, 1, np.nan]), min_size=count, max_size=count), min_size=12, max_size=12
            )
        )
    )[: len(keys)]
    labels[np.isnan(labels).all(axis=1), 0] = 1
    columns = draw(st.sampled_from([{}, {"lang": str}, {"age": int}, {"age": str}]))
    return Annotations.from_columns(
        Task(tuple(f"label {number}" for number in range(count))),
        text=[text for text, _ in keys],
        user_id=[user for _, user in keys],
        labels=labels,
        text_id=[f"t{text}" for text, _ in keys],
        context={name: [kind(row) for row in range(len(keys))] for name, kind in columns.items()},
    )


@given(st.dictionaries(st.sampled_from(["one", "two", "three-3"]), some_rows(), min_size=2))
@settings(deadline=None, max_examples=40)
def test_the_rows_and_columns_of_a_task_are_its_source(sources):
    joined = join(sources)
    columns = tasks_of(joined.task.labels)
    assert list(columns) == list(sources) == list(joined.rows_of_tasks)
    assert sorted(np.concatenate(list(joined.rows_of_tasks.values()))) == list(range(len(joined)))
    for task, source in sources.items():
        rows = joined.select(joined.rows_of_tasks[task])
        np.testing.assert_array_equal(rows.labels[:, columns[task]], source.labels)
        others = [column for each in columns if each != task for column in columns[each]]
        assert np.isnan(rows.labels[:, others]).all()
        assert [joined.task.labels[column] for column in columns[task]] == [f"{task}.{n}" for n in source.task.labels]
        assert list(rows.texts) == list(source.texts)
        assert list(rows.user_ids) == [f"{task}:{user}" for user in source.user_ids]
        assert list(rows.text_ids) == [f"{task}:{text}" for text in source.text_ids]
        for name in joined.context_columns:
            expected = source.column(name) if name in source.context_columns else [None] * len(source)
            assert [str(value) for value in rows.column(name)] == [str(value) for value in expected]


def test_labels_with_a_dot_in_one_name_only_are_no_tasks():
    assert tasks_of(("rude", "U.S. politics")) == {} == tasks_of(("a.rude", "a.kind"))
    assert tasks_of(("a.x", "b.y.z", "a.w")) == {"a": [0, 2], "b": [1]}


@pytest.mark.parametrize(
    "config",
    [
        ByText(),
        ByNewUsers(by="new-users", fractions=(0.5, 0.2, 0.3), new_users=0.3),
        ByPeople(by="people", people=0.4),
    ],
)
def test_a_text_in_two_sources_falls_into_one_part(config):
    joined = join({"one": crowd(rows=300, users=8), "two": crowd(rows=300, users=8, seed=1)})
    parts = split(joined, config)
    part_of: dict[str, set[str]] = {}
    for part in ("train", "test"):
        for text in joined.texts[parts[part]]:
            part_of.setdefault(normalise(text), set()).add(part)
    assert parts.leaked == 0 and all(len(found) == 1 for found in part_of.values())


def test_classes_of_one_question_are_refused():
    with pytest.raises(DataError, match=r"source\.sources\.two: .*multiclass.* label of its own") as refused:
        join({"one": crowd(), "two": crowd(kind="multiclass")})
    assert "\n" not in str(refused.value)


def test_tables_are_joined_through_the_door_and_every_refused_file_is_named(tmp_path):
    for name in ("mine", "yours"):
        lines = ["text,user_id,rude", *(f"text {i},{i % 3},{i % 2}" for i in range(9)), "odd,1,maybe"]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    tables = {
        name: {"name": "table", "path": str(tmp_path / f"{name}.csv"), "labels": ["rude"]} for name in ("mine", "yours")
    }
    loaded = load(source_class("several")(name="several", sources=tables), "skip")
    assert loaded.annotations.task.labels == ("mine.rude", "yours.rude") and len(loaded.annotations) == 18
    assert loaded.refused == 2 and [file.name for file in loaded.refused_files] == [
        "mine.csv.refused.csv",
        "yours.csv.refused.csv",
    ]
    assert "mine: " in loaded.origin and "yours: " in loaded.origin
    with pytest.raises(DataError, match='row 10, column "rude": "maybe"'):
        load(source_class("several")(name="several", sources=tables))


TWO = {"one": {"name": "simulated"}, "two": {"name": "simulated", "seed": 1}}


def written(sources: object = TWO, methods: object = None) -> dict:
    return {
        "name": "trial",
        "source": {"name": "several", "sources": sources},
        "methods": methods or {"prior": {}, "cls": {}},
        "evaluate": {"reference": "prior"},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": {"one": TWO["one"]}}, r"source\.sources: dictionary should have at least 2 items"),
        ({"sources": {**TWO, "a.b": TWO["one"]}}, r"source\.sources.*pattern"),
        ({"sources": {**TWO, "c": {"name": "convabuze"}}}, r"source\.sources\.c.*'convabuze'.*'convabuse'"),
        (
            {"sources": {**TWO, "c": {"name": "convabuse", "repeat": 1}}},
            r"unknown key 'repeat'. Did you mean 'repeats'",
        ),
        ({"sources": {**TWO, "c": {"name": "several", "sources": TWO}}}, r"'several'"),
        (
            {"methods": {"prior": {}, "cls": {"tasks": ["too"]}}},
            r"methods\.cls\.tasks: unknown task 'too'. Did you mean",
        ),
        ({"methods": {"prior": {}, "cls": {"tasks": []}}}, r"methods\.cls\.tasks: .*at least 1 item"),
        ({"methods": {"prior": {"tasks": ["one"]}}}, r"methods\.prior: unknown key 'tasks'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(change, message):
    with pytest.raises(BeholderError, match=message) as refused:
        make_experiment(written(**change), "mine.yaml")
    assert "\n" not in str(refused.value) and str(refused.value).startswith("mine.yaml")


def test_tasks_need_a_source_with_several():
    alone = {**written(methods={"prior": {}, "cls": {"tasks": ["one"]}}), "source": {"name": "simulated"}}
    with pytest.raises(ExperimentError, match=r"methods\.cls\.tasks: this source has one task only"):
        make_experiment(alone)


def test_shuffled_users_stay_in_their_task():
    joined = join({"one": crowd(rows=200), "two": crowd(rows=200, seed=1)})
    shuffled = shuffle_users(joined, seed=0)
    task = [user.split(":")[0] for user in joined.user_ids]
    assert [user.split(":")[0] for user in shuffled.user_ids] == task
    assert np.mean(shuffled.user_ids == joined.user_ids) < 0.5
    assert sorted(shuffled.user_ids) == sorted(joined.user_ids)


def scores_of(rows: Annotations, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(rows.labels.shape).astype(np.float32)


def test_a_task_is_measured_as_if_it_were_alone():
    sources = {"one": crowd(rows=200), "two": crowd(rows=150, seed=1)}
    joined = join(sources)
    columns = tasks_of(joined.task.labels)
    mine, other = scores_of(joined, 0), scores_of(joined, 1)
    thresholds = fit_thresholds(mine, joined.labels, "multilabel")
    arms = [
        ArmScores(name, "cls", thresholds, scores, scores, 1.0) for name, scores in (("ref", other), ("mine", mine))
    ]
    rows = Judgements.of(joined)
    found = evaluate(arms, rows, rows, joined.task, "ref").to_json()["methods"]["mine"]
    for task, source in sources.items():
        here = np.ix_(joined.rows_of_tasks[task], columns[task])
        np.testing.assert_array_equal(
            thresholds[columns[task]], fit_thresholds(mine[here], source.labels, "multilabel")
        )
        decided = {
            name: decide(scores[here], thresholds[columns[task]], "multilabel")
            for name, scores in (("ref", other), ("mine", mine))
        }
        alone = gains(decided, "ref", source.labels, source.text_keys, source.user_ids)["mine"]
        assert found["per_task"][task] == pytest.approx(macro_f1(decided["mine"], source.labels))
        gain = found["per_task_gain"][task]
        assert gain["points"] == pytest.approx(alone.points) and gain["low"] < gain["points"] < gain["high"]
    alone = evaluate(arms, rows, rows, Task(tuple("abcdef")), "ref").to_json()
    assert "per_task" not in alone["methods"]["mine"]


def test_a_user_prior_is_the_one_of_the_task_alone():
    sources = {"one": crowd(), "two": crowd(seed=1)}
    joined = join(sources)
    fitted = config_class("user-prior")().fit(joined, joined, Context("none"))
    for task, source in sources.items():
        alone = config_class("user-prior")().fit(source, source, Context("none"))
        here = tasks_of(joined.task.labels)[task]
        users = [*source.users, "a stranger"]
        scores = fitted.score([""] * len(users), [f"{task}:{user}" for user in users])
        np.testing.assert_allclose(scores[:, here], alone.score([""] * len(users), users), atol=1e-6)
        np.testing.assert_allclose(fitted.thresholds[here], alone.thresholds, atol=1e-6)


CLS = {"epochs": 1, "batch_size": 16, "max_tokens": 32}


def test_an_arm_of_one_task_learns_from_its_rows_and_says_no_to_the_others():
    joined = join({"one": crowd(), "two": crowd(seed=1)})
    seen = {"train": joined, "valid": joined, "test": joined}
    config = config_class("cls")(**CLS, tasks=("two",))
    train, valid = to_learn(config, seen)
    assert set(train.user_ids) == {user for user in joined.user_ids if user.startswith("two:")}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # the mean of nothing
        fitted = config.fit(train, valid, Context("tiny-bert"))
    scores = fitted.score(list(joined.texts), list(joined.user_ids))
    one, two = tasks_of(joined.task.labels).values()
    assert scores[:, one].max() < 0.05 and (fitted.thresholds[one] == 0.5).all()
    assert scores[:, two].mean() > 0.1
    with pytest.raises(MethodError, match="tasks: two has no valid rows"):
        to_learn(config, {**seen, "valid": joined.select(joined.rows_of_tasks["one"])})


def test_what_is_a_users_own_changes_nothing_they_were_not_asked(tmp_path):
    joined = join({"one": crowd(rows=200), "two": crowd(rows=200, seed=1)})
    context = Context("tiny-bert", run_folder=tmp_path)
    shared = config_class("cls")(**CLS).fit(joined, joined, context)
    (tmp_path / "methods" / "cls").mkdir(parents=True)
    save_fitted(shared, tmp_path / "methods" / "cls")
    bank = {"epochs": 20, "step_size": 0.3, "prior": {"rank": 0, "steps": 10, "strength": 1.0}}
    fitted = config_class("cls-u")(bank=bank).fit(joined, joined, context)
    texts, users = list(joined.texts), list(joined.user_ids)
    nobody = fitted.with_bank(Overlay(fitted.model.shapes, {}, fitted.prior.without_rows()))
    before, after = nobody.score(texts, users), fitted.score(texts, users)
    asked = np.zeros(before.shape, dtype=bool)
    for task, columns in tasks_of(joined.task.labels).items():
        asked[np.ix_(joined.rows_of_tasks[task], columns)] = True
    assert np.abs(after - before)[asked].max() > 0.05
    np.testing.assert_allclose(after[~asked], before[~asked], atol=1e-6)


def test_a_scale_stays_one_beside_other_tasks():
    scale = Scale("polite", (1.0, 2.0, 3.0))
    graded = Annotations.from_columns(
        Task.of([scale]), text=["a", "b"], user_id=["u", "v"], labels=scale.encode(np.asarray([2.0, 3.0]))
    )
    given = Annotations.from_columns(
        Task(("rude",)), text=["a", "b"], user_id=["u", "v"], labels=np.asarray([[1], [0]])
    )
    joined = join({"one": graded, "two": given})
    assert [question.name for question in joined.task.questions] == ["one.polite", "two.rude"]
    assert tasks_of(joined.task.labels) == {"one": [0, 1], "two": [2]}
    assert joined.to_arrow()["one.polite"].to_pylist() == [2.0, 3.0, None, None]

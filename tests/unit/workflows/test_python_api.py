"""The library as Python callers have it: `import beholder as bh`, annotations in and out, fit, predict, evaluate."""

from __future__ import annotations

import gc
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from crowd import crowd

import beholder as bh
from beholder.data.splits import ByText
from beholder.data.splits import split as split_rows
from beholder.evaluation.scores_io import read_scores
from beholder.execution.arm import ArmJob, run_arm
from beholder.methods import config_class
from beholder.training.context import Context
from beholder.util.errors import BeholderError, DataError, ExperimentError, MethodError, RegistryError, SplitError
from beholder.util.run_folder import RunFolder

pytestmark = pytest.mark.long

SMALL = {"texts": "templates", "users": 6, "rows_per_user": 40, "distinct_texts": 60, "effect": 3.0}
CLS = {"epochs": 2, "max_tokens": 48, "lora": {"rank": 2, "targets": "all-linear"}}
BANK = {"bank": {"epochs": 3, "batch_size": 4, "prior": {"rank": 2, "steps": 5}}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A home folder that this file's fitted models share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def parts(place):
    return bh.split(bh.load_dataset("simulated", **SMALL))


@pytest.fixture(scope="module")
def cls(parts):
    return bh.fit("cls", parts["train"], parts["valid"], base="tiny-bert", **CLS)


@pytest.fixture(scope="module")
def personal(parts, cls):
    return bh.fit("cls-u", parts["train"], parts["valid"], on=cls, **BANK)


def refusal(kind, call, *arguments, **settings):
    with pytest.raises(kind) as caught:
        call(*arguments, **settings)
    message = str(caught.value)
    assert "\n" not in message and "--" not in message and "source." not in message
    return message


# The face


def test_importing_it_loads_nothing_heavy():
    code = (
        "import sys, beholder as bh; dir(bh); bh.__version__;"
        "print([name for name in ('torch', 'ray', 'mlflow', 'numpy', 'pandas', 'pyarrow', 'transformers') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_data_are_loaded_and_split_without_ray_or_mlflow():
    code = (
        "import sys, beholder as bh; bh.Annotations; bh.split; bh.fit; bh.evaluate; bh.load_dataset; bh.methods();"
        "print([name for name in ('ray', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in bh.__all__ if name != "__version__"])
def test_every_public_name_is_there_and_says_what_it_is(name):
    assert name in dir(bh)
    assert len(inspect.getdoc(getattr(bh, name)) or "") > 60


def test_a_name_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(AttributeError, match="Did you mean 'evaluate'"):
        _ = bh.evalute


def test_it_is_typed():
    assert (Path(bh.__file__).parent / "py.typed").is_file()
    assert set(bh.__all__) == {*bh._HOMES, "methods", "__version__"}


def test_methods_are_listed_with_their_settings():
    import beholder.methods.base  # the package of that name must not hide the function

    table = bh.methods()
    assert [row["method"] for row in table] == list(beholder.methods.base.METHODS)
    (row,) = [row for row in table if row["method"] == "cls-u"]
    assert row["personal"] and row["starts from"] == "cls" and "bank" in row["settings"]
    assert {"setting": "lora.rank", "default": "8"} in bh.methods("cls")
    assert "cls-u" in str(table) and "<table>" in table._repr_html_()
    assert "Did you mean 'cls-u'" in refusal(MethodError, bh.methods, "cls_u")


# Annotations in and out


def test_an_own_table_is_loaded_by_its_path(tmp_path):
    file = tmp_path / "mine.csv"
    pd.DataFrame({"comment": ["one", "two"], "rater": ["007", "8"], "rude": [0, 1], "mood": ["sad", "calm"]}).to_csv(
        file, index=False
    )
    how = {"text": "comment", "user": "rater"}
    assert bh.load_dataset(file, labels=["rude"], **how).user_ids.tolist() == ["007", "8"]
    assert bh.load_dataset(str(file), labels="mood", **how).task == bh.Task(("calm", "sad"), "multiclass")
    assert "Did you mean 'rude'" in refusal(DataError, bh.load_dataset, file, labels=["rud"], **how)
    assert 'Pass labels=["rude"]' in refusal(DataError, bh.load_dataset, file, labels="rude", **how)
    file.write_text("text,user_id,rude\none,ann,0\ntwo,bob,perhaps\n")
    assert 'on_bad_rows="skip"' in refusal(DataError, bh.load_dataset, file, labels=["rude"])
    with pytest.warns(UserWarning, match="1 bad rows left out"):
        assert len(bh.load_dataset(file, labels=["rude"], on_bad_rows="skip")) == 1


@pytest.mark.parametrize(
    ("name", "settings", "kind", "complaint"),
    [
        ("simulatd", {}, DataError, "Did you mean 'simulated'"),
        ("nowhere.csv", {"labels": ["rude"]}, DataError, "no such file"),
        ("simulated", {"user": 3}, ExperimentError, "Did you mean 'users'"),
        ("simulated", {"users": 1}, ExperimentError, "users"),
        ("unhealthy", {"path": "nowhere"}, DataError, "no such file"),
        ("nowhere.csv", {"path": "other.csv"}, DataError, "Leave out path="),
    ],
)
def test_a_data_set_that_cannot_be_loaded_is_refused(name, settings, kind, complaint):
    assert complaint in refusal(kind, bh.load_dataset, name, **settings)


def test_annotations_show_counts_and_rates_and_nobody(parts):
    rows = parts["train"]
    shown = rows._repr_html_() + repr(rows) + parts._repr_html_() + repr(parts)
    assert f"{len(rows):,} judgements" in shown and "anger" in shown and " %" in shown
    assert not any(text in shown for text in rows.texts) and not any(user in shown for user in rows.users)


# Splits


def test_a_split_unpacks_and_is_that_of_a_run(parts):
    data = bh.load_dataset("simulated", **SMALL)
    train, valid, test = bh.split(data, seed=42, fractions=(0.8, 0.1, 0.1))
    assert bh.split(data).hash == split_rows(data, ByText()).hash == parts.hash
    assert len(train) + len(valid) + len(test) == len(data)
    assert not set(train.texts) & set(test.texts)
    assert bh.split(data, seed=1).hash != parts.hash
    assert "enrol" in bh.split(data, by="people", people=0.4).parts


@pytest.mark.parametrize(
    ("settings", "kind", "complaint"),
    [
        ({"by": "txt"}, SplitError, "Did you mean 'text'"),
        ({"fractions": (0.5, 0.1, 0.1)}, ExperimentError, "add up to 1"),
        ({"peple": 0.5, "by": "people"}, ExperimentError, "Did you mean 'people'"),
        ({"by": "column", "seed": 3}, ExperimentError, "seed"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(parts, settings, kind, complaint):
    with pytest.raises(kind) as caught:
        bh.split(parts["train"], **settings)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


# Fitting and predicting


def test_what_is_fitted_without_a_run_is_what_a_run_fits(parts, cls, personal, tmp_path):
    rows = {name: parts[name] for name in ("train", "valid", "test")}
    jobs = [("cls", CLS), ("cls-u", BANK), ("cls-e", {"epochs": 2})]
    other = bh.fit("cls-e", rows["train"], rows["valid"], on=cls, epochs=2)
    for (name, settings), model in zip(jobs, (cls, personal, other), strict=True):
        config = config_class(name)(**settings).model_dump(mode="json")
        run_arm(ArmJob(name, config, None, "key"), rows, tmp_path, Context("tiny-bert", run_folder=tmp_path))
        arm = read_scores(tmp_path / "scores" / f"{name}.parquet").arm
        test = rows["test"]
        np.testing.assert_allclose(model.score(test.texts, test.user_ids), arm.test_scores, atol=1e-6)
        np.testing.assert_allclose(model.valid_scores(), arm.valid_scores, atol=1e-6)
        np.testing.assert_allclose(model.thresholds, arm.thresholds, atol=1e-6)


def test_a_model_predicts_rows_and_perspectives(parts, personal):
    test = parts["test"]
    found = personal.predict(test.texts[:5], test.user_ids[:5])
    assert found.scores.dtype == np.float32 and found.scores.shape == (5, 4) and found.known.all()
    frame = found.to_pandas()
    assert list(frame)[:3] == ["text", "user_id", "score.anger"] and frame["given.joy"].dtype == bool
    every = personal.perspectives(test.texts[:2])
    assert every.users == personal.users == parts["train"].users and every.scores.shape == (2, 6, 4)
    one_by_one = personal.score([test.texts[1]] * 6, every.users)
    np.testing.assert_allclose(every.scores[1], one_by_one, atol=1e-6)
    assert (every.decisions == (every.scores >= personal.thresholds)).all()
    assert len(every.to_pandas()) == 12
    stranger = personal.predict("you are a robot", "nobody")
    assert not stranger.known.any() and stranger.routes == ["cls-u"] and len(stranger) == 1
    assert personal.predict([], []).scores.shape == (0, 4)


def test_what_a_model_shows_names_no_text_and_no_user_but_those_asked_for(parts, personal):
    test = parts["test"]
    found = personal.predict(test.texts[:3], test.user_ids[:3])
    shown = "".join(
        repr(each) + each._repr_html_() for each in (personal, found, personal.perspectives(test.texts[:2]))
    )
    assert not any(text in shown for text in test.texts)
    assert not any(user in personal._repr_html_() for user in test.users)
    assert "tiny-bert" in shown


@pytest.mark.parametrize(
    ("texts", "users", "complaint"),
    [(["a", "b"], ["u", "v", "w"], "2 texts and 3 users"), (["a", None], "u", "text 2"), (["a"], [3], "user 1")],
)
def test_rows_that_do_not_fit_together_are_refused(cls, texts, users, complaint):
    assert complaint in refusal(DataError, cls.predict, texts, users)


def test_whose_perspectives_must_be_said_where_no_user_is_known(cls):
    assert cls.perspectives("you", users=["a", "b"]).scores.shape == (1, 2, 4)
    assert "users=" in refusal(DataError, cls.perspectives, "you")


@pytest.mark.parametrize("method", ["prior", "user-prior"])
def test_base_rates_need_no_base(parts, method):
    model = bh.fit(method, parts["train"], parts["valid"], base="nowhere")
    assert model.score("a", parts["train"].users[0]).shape == (1, 4)


def test_what_a_method_starts_from_is_fitted_first(parts):
    model = bh.fit("cls+", parts["train"], parts["valid"], base="tiny-bert", epochs=1)
    assert model.start is not None and model.start.name == "cls" and "starts from cls" in repr(model)


def test_nothing_is_left_behind(parts, cls, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    model = bh.fit("cls-u", parts["train"], parts["valid"], on=cls, **BANK)
    assert [folder for folder in tmp_path.glob("beholder-*/files") if RunFolder(folder).unfinished.is_dir()]
    model.save(tmp_path / "saved")
    del model
    gc.collect()
    assert not list(tmp_path.glob("beholder-*"))
    again = bh.load_model(tmp_path / "saved")
    assert again.users == parts["train"].users


@pytest.mark.parametrize(
    ("method", "settings", "kind", "complaint"),
    [
        ("clz", {}, MethodError, "Did you mean 'cls'"),
        ("cls", {"epoch": 3}, ExperimentError, "Did you mean 'epochs'"),
        ("cls", {"epochs": 0}, ExperimentError, "greater than or equal to 1"),
        ("query", {"base": "tiny-bert"}, BeholderError, "Use cls"),
        ("cls-u", {"base": "tiny-bert", "init_from": "clss"}, MethodError, "Did you mean 'cls'"),
        ("cls", {"base": "tiny-brt"}, BeholderError, "Did you mean 'tiny-bert'"),
    ],
)
def test_a_fit_that_cannot_be_made_is_refused_before_it_begins(parts, method, settings, kind, complaint):
    assert complaint in refusal(kind, bh.fit, method, parts["train"], parts["valid"], **settings)


def test_a_start_must_fit(parts, cls):
    rows = parts["train"], parts["valid"]
    prior = bh.fit("prior", *rows)
    assert "cls or cls-p" in refusal(BeholderError, bh.fit, "cls-u", *rows, on=prior, base=None)
    assert "starts from no other method" in refusal(MethodError, bh.fit, "cls", *rows, on=cls)
    assert "Leave base out" in refusal(MethodError, bh.fit, "cls-u", *rows, on=cls, base="tiny-llama")
    assert "Annotations.from_pandas" in refusal(DataError, bh.fit, "prior", parts["train"].to_pandas(), parts["valid"])
    assert "two tasks" in refusal(DataError, bh.fit, "prior", parts["train"], crowd())


def test_a_saved_model_predicts_the_same(parts, cls, personal, tmp_path):
    test = parts["test"]
    texts, users = [*test.texts, "never seen"], [*test.user_ids, "nobody"]
    for name, model in (("cls", cls), ("cls-u", personal)):
        again = bh.load_model(model.save(tmp_path / name))
        np.testing.assert_allclose(again.score(texts, users), model.score(texts, users), atol=1e-6)
        assert (again.predict(texts, users).decisions == model.predict(texts, users).decisions).all()
        assert again.users == model.users
    assert not [file for pattern in ("*.bin", "*.pkl", "*.pt") for file in tmp_path.rglob(pattern)]
    assert "something already" in refusal(MethodError, cls.save, tmp_path / "cls")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("nowhere", "models:/NAME@champion"), (".", "neither a bundle"), ("models:house", "expected models:/NAME@ALIAS")],
)
def test_a_model_that_is_not_there_is_refused(name, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert complaint in refusal(RegistryError, bh.load_model, name)


# Evaluating


def test_models_and_scores_are_evaluated_alike(parts, cls, personal):
    test = parts["test"]
    scores = {name: model.score(test.texts, test.user_ids) for name, model in (("cls", cls), ("cls-u", personal))}
    found = bh.evaluate({"cls-u": personal}, test)  # what it started from is what gains are over
    both = bh.evaluate({"cls": cls, "cls-u": personal, "mine": scores["cls-u"] >= personal.thresholds}, test)
    assert found.results.reference == both.results.reference == "cls"
    assert found.gain("cls-u").points == both.gain("cls-u").points
    assert found.gain("cls-u").low == both.gain("cls-u").low
    assert both.macro_f1("mine") == both.macro_f1("cls-u")
    said = both.to_json()
    assert said["verdict"]["arm"] == "cls-u" and said["methods"]["cls-u"]["gain"]["low"] is not None
    assert "cls-u" in str(found) and found.verdict.sentence in str(found) and "<table>" in found._repr_html_()
    chosen = bh.evaluate({"one": scores["cls"] >= 0.5, "cls-u": scores["cls-u"]}, test)
    assert chosen.results.reference == "one" and chosen.verdict.arm == "cls-u"


def test_a_control_is_held_against_what_it_controls(parts, cls, personal):
    rows = parts["train"], parts["valid"]
    control = bh.fit("cls-u", *rows, on=cls, shuffle_users=True, **BANK)
    models = {"cls": cls, "cls-u": personal, "cls-u~shuffled-users": control}
    found = bh.evaluate(models, parts["test"])
    assert found.results.arm("cls-u~shuffled-users").control_of == "cls-u" and "cls-u" in found.results.beyond
    named = bh.evaluate({"cls": cls, "p": personal, "c": control}, parts["test"], controls={"c": "p"})
    assert named.results.beyond["p"].points == found.results.beyond["cls-u"].points
    test = parts["test"]
    assert np.abs(control.scores_of(test) - control.score(test.texts, test.user_ids)).max() > 1e-4


@pytest.mark.parametrize(
    ("models", "settings", "complaint"),
    [
        ({}, {}, "at least one model"),
        ({"a": np.zeros((2, 2))}, {}, "scores have shape (2, 2)"),
        ({"a": "many"}, {}, "expected a model or an array"),
        ({"a": None}, {"reference": "b"}, "unknown model 'b'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(parts, models, settings, complaint):
    assert complaint in refusal(DataError, bh.evaluate, models, parts["test"], **settings)


def test_a_model_of_another_task_and_scores_out_of_range_are_refused(parts, cls):
    assert "the test rows hold rude" in refusal(DataError, bh.evaluate, {"cls": cls}, crowd())
    wrong = np.full((len(parts["test"]), 4), 0.5)
    wrong[2, 1] = 1.5
    assert "a, row 3" in refusal(DataError, bh.evaluate, {"a": wrong}, parts["test"])
    assert "unknown model 'b'" in refusal(DataError, bh.evaluate, {"a": wrong - 1}, parts["test"], controls={"a": "b"})


# Experiments


def test_an_experiment_is_loaded_with_overrides(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(
        "name: small\nsource: {name: simulated}\nmethods: {prior: {}, cls: {epochs: 3}}\nevaluate: {reference: prior}\n"
    )
    experiment = bh.load_experiment(str(file), {"methods.cls.epochs": 2, "base": "tiny-bert"})
    assert experiment == bh.load_experiment(file, ["methods.cls.epochs=2", "base=tiny-bert"])
    message = refusal(ExperimentError, bh.load_experiment, file, {"methods.cls.epoch": 2})
    assert "Did you mean 'epochs'" in message
    assert "holds a value" in refusal(ExperimentError, bh.load_experiment, file, {"name.first": 2})
    assert "give them to load_experiment" in refusal(ExperimentError, bh.run, experiment, base="tiny-bert").lower()
    assert "expected a name" in refusal(ExperimentError, bh.run, {"name": "x", "source": {}})


def test_it_says_nothing_where_nobody_looks(parts, capfd):
    bh.fit("user-prior", parts["train"], parts["valid"])
    said = capfd.readouterr()
    assert not said.out and not re.sub(r"\s", "", said.err)

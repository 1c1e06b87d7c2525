"""What may be searched, what is refused, and what a search writes back, without Ray."""

from __future__ import annotations

import json

import pytest
import yaml
from crowd import crowd
from experiments import SHIPPED, written
from hypothesis import given
from hypothesis import strategies as st

from beholder.evaluation.metrics import decide, macro_f1
from beholder.evaluation.scores_io import read_scores
from beholder.execution.arm import ArmJob, run_arm
from beholder.execution.trial import measure
from beholder.experiment.config import load_experiment, make_experiment
from beholder.methods import METHODS, config_class
from beholder.search.space import PRIORS, SPACES, SWITCHES, Choices, Numbers, apply, read, space_of
from beholder.search.study import Study, Trial
from beholder.training.context import Context
from beholder.util.errors import ClusterError, ExperimentError, MethodError
from beholder.workflows.search import conclude, front, only_arm

pytestmark = pytest.mark.long

SEARCHED = sorted(set(SPACES) & set(METHODS))
METHODS_OF_MINE = {"prior": {}, "cls": {"epochs": 2}, "cls-p": {"extends": "cls"}, "cls-u": {"init_from": "cls"}}


def mine(search=None, **methods):
    return make_experiment(written(methods={**METHODS_OF_MINE, **methods}, search=search or {}), "mine.yaml")


@pytest.mark.parametrize("method", SEARCHED)
def test_every_point_of_a_methods_own_space_is_a_setting_of_it(method):
    config = config_class(method)()
    space = space_of(method, config)
    dumped = config.model_dump(mode="json", by_alias=True)
    off = {name for name in SPACES[method] if name in SWITCHES and not any(SPACES[method].get(SWITCHES[name], [0]))}
    assert set(space.dimensions) == set(SPACES[method]) - off
    assert space.points[0] == {name: read(dumped, name) for name in space.dimensions}  # its own settings are first
    assert len(space.points) == 1 + len(PRIORS[method])
    ends = []
    for name, dimension in space.dimensions.items():
        values = dimension.values if isinstance(dimension, Choices) else (dimension.low, dimension.high)
        ends += [{name: value} for value in values]
    for point in [*space.points, *ends]:
        made = config_class(method).model_validate(apply(dumped, point))
        assert {name: read(made.model_dump(mode="json", by_alias=True), name) for name in point} == point


@given(own=st.floats(1e-6, 1e3), low=st.floats(1e-5, 1), factor=st.floats(1.1, 1e3))
def test_an_arms_own_setting_is_always_in_its_space(own, low, factor):
    config = config_class("cls-u").model_validate({"bank": {"step_size": own}})
    ranged = space_of("cls-u", config, {"bank.step_size": {"low": low, "high": low * factor, "log": True}})
    dimension = ranged.dimensions["bank.step_size"]
    assert isinstance(dimension, Numbers)
    assert dimension.low <= own <= dimension.high and dimension.low <= low and dimension.high >= low * factor
    chosen = space_of("cls-u", config, {"bank.step_size": [low]}).dimensions["bank.step_size"]
    assert isinstance(chosen, Choices) and set(chosen.values) == {low, own}


def test_what_another_setting_switches_off_is_not_part_of_a_point():
    assert "bank.rank" not in mine().searched("cls-u")[1].dimensions  # nothing but the head is searched
    _, space = mine(**{"cls-u": {"bank": {"top_layers": 2}}}).searched("cls-u")
    assert "bank.rank" not in space.of({**space.points[0], "bank.top_layers": 0})
    assert "bank.rank" in space.of({**space.points[0], "bank.top_layers": 2})


def test_an_arm_without_an_adapter_is_searched_without_it():
    _, space = mine(plain={"extends": "cls", "lora": None, "method": "cls"}).searched("plain")
    assert set(space.dimensions) == {"learning_rate", "batch_size", "epochs"}


def test_how_an_endpoint_decodes_is_not_searched():
    local, hosted = (
        make_experiment(written(base=base, methods={"query": {}}, evaluate={"reference": "query"})).searched("query")[1]
        for base in ("tiny-llama", {"endpoint": "http://127.0.0.1:9/v1", "model": "m"})
    )
    assert set(local.dimensions) - set(hosted.dimensions) == {"decode"} and "prompt.shots" in hosted.dimensions


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"cls-x": {}}, r"search: unknown arm 'cls-x'. Did you mean 'cls-"),
        ({"prior": {}}, r"search.prior: prior has nothing to search. There is for: cls,"),
        ({"cls-u": {"trails": 3}}, r"search.cls-u: unknown key 'trails'. Did you mean 'trials'\?"),
        ({"cls-u": {"trials": 0}}, r"search.cls-u.trials: .*greater than or equal to 1, got 0"),
        ({"cls-u": {"objective": "f1"}}, r"search.cls-u.objective: expected macro_f1, \[macro_f1, seconds\]"),
        ({"cls-u": {"space": {}}}, r"search.cls-u.space: it is empty"),
        ({"cls-u": {"space": {"bank.rnak": [2]}}}, r"search.cls-u.space.bank: unknown key 'rnak'. Did you mean 'rank'"),
        ({"cls-u": {"space": {"bnak.rank": [2]}}}, r"search.cls-u.space: unknown key 'bnak'. Did you mean 'bank'\?"),
        ({"cls-u": {"space": {"bank.head": ["ful"]}}}, r"search.cls-u.space.bank.head: .*got 'ful'"),
        (
            {"cls-u": {"space": {"bank.prior.penalty": []}}},
            r"space.bank.prior.penalty: the list of choices is empty",
        ),
        (
            {"cls-u": {"space": {"bank.prior.penalty": 3}}},
            r"space.bank.prior.penalty: expected a list of choices or",
        ),
        (
            {"cls-u": {"space": {"bank.prior.penalty": {"low": 1, "high": 2, "logs": True}}}},
            r"space.bank.prior.penalty: unknown key 'logs'. Did you mean 'log'\?",
        ),
        (
            {"cls-u": {"space": {"bank.prior.penalty": {"low": 2, "high": 1}}}},
            r"bank.prior.penalty: low: 2 must be under high: 1",
        ),
        (
            {"cls-u": {"space": {"bank.prior.penalty": {"low": 0, "high": 1, "log": True}}}},
            r"log, low: 0 must be over 0",
        ),
        (
            {"cls-u": {"space": {"bank.prior.penalty": {"low": -3, "high": 1}}}},
            r"penalty: .*greater than 0, got -3",
        ),
        (
            {"cls-u": {"space": {"bank.prior.penalty": {"low": 1, "high": 20, "step": 2}}}},
            r"bank.prior.penalty: the arm's own 30 is not low: 1 and a number of steps of 2. Change",
        ),
        ({"cls-u": {"space": {"bank.head": {"low": 1, "high": 2}}}}, r"bank.head: "),
        (
            {"cls-u": {"space": {"bank.rank": [2, 4]}}},
            r"bank.rank: it means nothing while bank.top_layers is 0. Search",
        ),
        ({"cls-u": {"space": {"init_from": ["cls-p"]}}}, r"search.cls-u.space.init_from: this setting is not searched"),
        (
            {"plain": {"space": {"lora.rank": [2]}}},
            r"search.plain.space.lora.rank: lora is null in this arm. Give it a value under methods",
        ),
    ],
)
def test_a_search_that_cannot_be_is_one_line_with_place_and_remedy(search, message):
    with pytest.raises(ExperimentError, match=message) as refused:
        mine(search, plain={"method": "cls", "lora": None})
    assert "\n" not in str(refused.value) and str(refused.value).startswith("mine.yaml")


def test_which_method_is_searched_where_none_is_named():
    assert only_arm(mine({"cls-u": {}})) == "cls-u"
    with pytest.raises(ExperimentError, match=r"name the arm with --arm\. There are: cls, cls-p, cls-u"):
        only_arm(mine())


def test_searching_does_not_change_what_a_run_is():
    assert mine({"cls-u": {"trials": 3}}).digest == mine().digest


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_whatever_is_found_is_written_back_as_the_same_experiment_with_these_settings(file, tmp_path):
    experiment = load_experiment(file)
    for arm in experiment.arms:
        if arm.control_of is not None or arm.method not in SPACES:
            continue
        _, space = experiment.searched(arm.name)
        own, other = (space.of(point) for point in (space.points[0], space.points[-1]))
        tried = [Trial(0, "finished", own, 0.5, 1.0, 10), Trial(1, "finished", other, 0.6, 2.0, 20)]
        found = conclude(experiment, arm.name, tried, own, (), tmp_path)
        tuned = load_experiment(tmp_path / f"{experiment.name}-tuned.yaml")
        assert tuned.name == f"{experiment.name}-tuned" and found["best"]["settings"] == other
        dumped = {each.name: each.config.model_dump(mode="json", by_alias=True) for each in tuned.arms}
        assert dumped[arm.name] == apply(arm.config.model_dump(mode="json", by_alias=True), other)
        for name in ("source", "split", "base", "seed", "evaluate", "register_", "subsample", "cluster"):
            assert getattr(tuned, name) == getattr(experiment, name)


def test_settings_inherited_from_another_arm_stay_when_one_of_them_is_tuned():
    methods = {"cls": {"lora": {"rank": 4, "alpha": 32}}, "cls-p": {"extends": "cls"}}
    tuned = make_experiment(written(methods=methods)).tuned("cls-p", {"lora.rank": 2})
    lora = {arm.name: arm.config.model_dump()["lora"] for arm in tuned.arms}
    assert (lora["cls-p"]["rank"], lora["cls-p"]["alpha"], lora["cls"]["rank"]) == (2, 32, 4)


def test_the_first_wins_ties_only_finished_trials_count_and_a_default_that_failed_is_an_error(tmp_path):
    own, other = {"epochs": 2}, {"epochs": 4}
    tried = [
        Trial(0, "finished", own, 0.5, 2.0, 10),
        Trial(1, "finished", other, 0.5, 1.0, 10),
        Trial(2, "stopped", other, 0.9),
    ]
    costed = conclude(mine(), "cls", tried, own, ("seconds",), tmp_path)
    assert costed["best"]["number"] == 1 and [trial["number"] for trial in costed["front"]] == [1]
    found = conclude(mine(), "cls", tried, own, (), tmp_path)
    assert found["best"]["number"] == found["default"]["number"] == 0 and found["states"]["stopped"] == 1
    said = (tmp_path / "trial-tuned.yaml").read_text()
    assert "optimistic" in said and yaml.safe_load(said)["methods"]["cls"]["epochs"] == 2
    with pytest.raises(MethodError, match=r"methods.cls: its own settings.* did not finish: the loss is nan"):
        conclude(mine(), "cls", [Trial(0, "failed", own, error="the loss is nan"), tried[1]], own, (), tmp_path)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_trial_beats_in_both(pairs):
    trials = [Trial(i, "finished", {}, score / 10, float(cost)) for i, (score, cost) in enumerate(pairs)]
    kept = {(trial.valid_macro_f1, trial.seconds) for trial in front(trials, "seconds")}

    def beaten(trial):
        return any(
            other.valid_macro_f1 >= trial.valid_macro_f1
            and other.seconds <= trial.seconds
            and (other.valid_macro_f1, other.seconds) != (trial.valid_macro_f1, trial.seconds)
            for other in trials
        )

    assert kept == {(trial.valid_macro_f1, trial.seconds) for trial in trials if not beaten(trial)}


def test_a_trial_measures_what_a_run_reports_and_leaves_the_trunk_for_others(tmp_path):
    train, valid = crowd(seed=0), crowd(seed=1)
    parts = {"train": train, "valid": valid, "test": crowd(seed=2)}
    context = Context("tiny-bert", run_folder=tmp_path)
    scores = []
    for name, method in (("cls", {"epochs": 2}), ("cls-u", {"bank": {"epochs": 2}})):
        config = config_class(name).model_validate(method)
        told = Context("tiny-bert", run_folder=tmp_path, after_epoch=lambda *each: scores.append(each))
        measured = measure(config, {"train": train, "valid": valid}, told)  # never asks for the test rows
        run_arm(ArmJob(name, config.model_dump(mode="json"), None, "key"), parts, tmp_path, context)
        saved = read_scores(tmp_path / "scores" / f"{name}.parquet").arm
        decided = decide(saved.valid_scores, saved.thresholds, valid.task.kind)
        assert measured.valid_macro_f1 == pytest.approx(macro_f1(decided, valid.labels))
        assert measured.seconds > 0 and measured.parameters
    assert [epoch for epoch, _ in scores] == [1, 2]  # of cls; a bank's users have epochs of their own
    assert list(tmp_path.glob("unfinished/trunk-*")) and json.dumps(scores)


def test_a_storage_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "optuna.db").write_text("this is no database, whatever its name may say, nor was it ever")
    _, space = mine().searched("cls-u")
    with pytest.raises(ClusterError, match=r"optuna.db: cannot be read .*not a database.*Remove .* again"):
        Study(tmp_path, space, ("macro_f1",), 42)

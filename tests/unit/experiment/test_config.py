"""The experiment file: what it composes, and every way in which it can be wrong."""

from __future__ import annotations

import pytest
import yaml
from experiments import SHIPPED, written

from beholder.experiment.config import load_experiment, make_experiment
from beholder.models.hosted import Endpoint
from beholder.util.errors import BeholderError, ExperimentError


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_file_that_ships_is_valid(file):
    experiment = load_experiment(file)
    assert experiment.name == file.stem
    methods = {arm.method for arm in experiment.arms}
    assert "prior" in methods and methods & {"cls", "lm", "query"}


def test_arms_inherit_and_controls_follow_their_arm():
    arms = {arm.name: arm for arm in make_experiment(written()).arms}
    assert list(arms) == ["prior", "cls", "cls-p", "cls-p~shuffled-users"]
    assert arms["cls-p"].method == "cls-p" and arms["cls-p"].config.model_dump()["epochs"] == 2
    control = arms["cls-p~shuffled-users"]
    assert control.control_of == "cls-p" and control.config.model_dump()["shuffle_users"]


def test_controls_of_several_kinds_and_permutations():
    def controls(written_):
        methods = {
            "prior": {},
            "cls": {"epochs": 1},
            "cls-p": {"extends": "cls", "method": "cls-p", "controls": written_},
        }
        return {arm.name: arm for arm in make_experiment(written(methods=methods)).arms if arm.control_of}

    found = controls([{"shuffled-users": 3}, "shuffled-within-text"])
    assert list(found) == [
        "cls-p~shuffled-users",
        "cls-p~shuffled-users-2",
        "cls-p~shuffled-users-3",
        "cls-p~shuffled-within-text",
    ]
    assert [arm.config.model_dump()["shuffle_users"] for arm in found.values()] == [
        True,
        "shuffled-users-2",
        "shuffled-users-3",
        "shuffled-within-text",
    ]
    for wrong, said in (
        ([{"shuffled-users": 0}], "from 1 to 20, got 0"),
        ([{"shuffled-users": True}], "from 1 to 20, got True"),
        ("shuffled-users", "expected a list"),
        (["shuffled-users", "shuffled-users"], "the same control twice"),
        (["shufled-users"], "Did you mean 'shuffled-users'"),
    ):
        with pytest.raises(ExperimentError, match=f"methods.cls-p.controls: .*{said}"):
            controls(wrong)


def test_one_method_under_several_names():
    methods = {"cls": {"epochs": 1}, "plain": {"extends": "cls", "lora": None}, "big": {"method": "cls", "epochs": 9}}
    arms = {arm.name: arm for arm in make_experiment(written(methods=methods)).arms}
    assert arms["plain"].method == "cls" and arms["plain"].config.model_dump()["lora"] is None
    assert arms["big"].config.model_dump()["epochs"] == 9


def test_the_digest_changes_with_any_setting_and_with_nothing_else():
    same, other = make_experiment(written()), make_experiment(written(seed=43))
    assert make_experiment(written()).digest == same.digest != other.digest
    assert make_experiment(written(forgetting={"source": {"name": "rottger"}})).digest == same.digest  # adds to it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sauce": 1}, r"unknown key 'sauce'. Did you mean 'source'\?"),
        ({"evaluate": {"reference": "clss"}}, r"evaluate.reference: unknown arm 'clss'. Did you mean 'cls'\?"),
        (
            {"evaluate": {"reference": "cls", "bootstraps": 9}},
            r"evaluate: unknown key 'bootstraps'. Did you mean 'bootstrap'",
        ),
        ({"evaluate": {}}, r"evaluate.reference: this key is required"),
        ({"source": {"name": "convabuze"}}, r"source.name: unknown source 'convabuze'. Did you mean 'convabuse'\?"),
        (
            {"source": {"name": "convabuse", "repeat": "keep"}},
            r"source: unknown key 'repeat'. Did you mean 'repeats'\?",
        ),
        ({"source": "convabuse"}, r"source: expected a name"),
        ({"split": {"by": "texts"}}, r"split.by: unknown split 'texts'. Did you mean 'text'\?"),
        ({"split": {"by": "text", "fractions": [0.5, 0.1, 0.1]}}, r"split.*add up to 1"),
        ({"split": {"by": "text", "seeds": 1}}, r"split: unknown key 'seeds'. Did you mean 'seed'\?"),
        ({"methods": {"clss": {}}}, r"methods.clss: unknown method 'clss'. Did you mean 'cls'\?"),
        ({"methods": {"cls": {"epoch": 2}}}, r"methods.cls: unknown key 'epoch'. Did you mean 'epochs'\?"),
        ({"methods": {"cls": {"lora": {"rnak": 2}}}}, r"methods.cls.lora: unknown key 'rnak'. Did you mean 'rank'\?"),
        ({"methods": {"cls": {"epochs": 0}}}, r"methods.cls.epochs: input should be greater than or equal to 1, got 0"),
        ({"methods": {"cls": {"extends": "clz"}}}, r"methods.cls.extends: unknown arm 'clz'"),
        ({"methods": {"cls": {"extends": "cls-p"}, "cls-p": {"extends": "cls"}}}, r"goes in a circle"),
        (
            {"methods": {"cls": {"controls": ["shuffled-users"]}}},
            r"methods.cls.controls: shuffled-users is for methods",
        ),
        ({"methods": {"cls": {}, "cls-p": {"controls": ["shufled"]}}}, r"unknown control 'shufled'. Did you mean"),
        ({"register": {"name": "a/b"}}, r"register.name: .*pattern"),
        ({"base": 3}, r"base: expected a name, a folder, a hub id or \{endpoint: URL, model: NAME\}, got 3"),
        ({"base": {"endpoint": "http://a/v1"}}, r"base.model: this key is required"),
        ({"base": {"endpoint": "http://a/v1", "modle": "m"}}, r"base: unknown key 'modle'. Did you mean 'model'\?"),
        ({"forgetting": {}}, r"forgetting.source: expected a name"),
        ({"forgetting": {"source": {"name": "rotger"}}}, r"forgetting.source.name: .*Did you mean 'rottger'"),
        (
            {"forgetting": {"source": {"name": "rottger"}, "row": 9}},
            r"forgetting: unknown key 'row'. Did you mean 'rows'",
        ),
        (
            {
                "forgetting": {"source": {"name": "rottger"}},
                "methods": {"prior": {}},
                "evaluate": {"reference": "prior"},
            },
            r"forgetting: no method of this file trains",
        ),
        ({"subsample": {"rows": 0}}, r"subsample.rows: .*greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_what_was_meant(change, message):
    with pytest.raises(BeholderError, match=message) as refused:
        make_experiment(written(**change), "mine.yaml")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("mine.yaml")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ExperimentError, match="no such experiment file"):
        load_experiment(tmp_path / "nowhere.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: x\nmethods: {cls: {]\n")
    with pytest.raises(ExperimentError, match="line 2: not YAML"):
        load_experiment(bad)
    bad.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ExperimentError, match="UTF-8"):
        load_experiment(bad)
    bad.write_text("- a list")
    with pytest.raises(ExperimentError, match="expected keys"):
        load_experiment(bad)


def test_overrides_reach_any_depth_and_are_checked(tmp_path):
    file = tmp_path / "trial.yaml"
    file.write_text(yaml.safe_dump(written()))
    sets = ["methods.cls.lora.rank=3", "subsample.rows=50", "methods.cls-p.user_token=text"]
    arms = {arm.name: arm.config.model_dump() for arm in load_experiment(file, sets).arms}
    assert arms["cls"]["lora"]["rank"] == 3 and arms["cls-p"]["lora"]["rank"] == 3
    assert arms["cls-p"]["user_token"] == "text"
    assert load_experiment(file, sets).subsample.rows == 50
    hosted = ["base.endpoint=http://a/v1", "base.model=m"]
    assert load_experiment(file, hosted).base == Endpoint(endpoint="http://a/v1", model="m")
    assert load_experiment(file, [*hosted, "base=minilm-l6"]).base == "minilm-l6"
    with pytest.raises(ExperimentError, match="'base' holds a value"):
        load_experiment(file, ["base=minilm-l6", "base.model=m"])
    with pytest.raises(ExperimentError, match=r"--set nonsense: expected dotted.key=value"):
        load_experiment(file, ["nonsense"])
    with pytest.raises(ExperimentError, match=r"--set epochs=2: unknown key 'epochs'.* methods\.ARM\.epochs"):
        load_experiment(file, ["epochs=2"])
    with pytest.raises(ExperimentError, match=r"unknown key 'contols'. Did you mean 'controls'"):
        load_experiment(file, ["methods.cls-p.contols=[]"])
    with pytest.raises(ExperimentError, match="'name' holds a value"):
        load_experiment(file, ["name.x=1"])
    with pytest.raises(ExperimentError, match="Did you mean 'rank'"):
        load_experiment(file, ["methods.cls.lora.ranks=3"])

"""Keys of experiment files that were renamed: the old ones are read with one notice, and no run becomes another run."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from project import ROOT

import beholder as bh
from beholder.experiment.config import Experiment, load_experiment, make_experiment
from beholder.experiment.renamed_keys import with_new_keys
from beholder.methods import METHODS, config_class
from beholder.util.errors import BeholderError, ExperimentError
from beholder.workflows.prepare import prepare

EXPERIMENTS = ROOT / "experiments"
SHIPPED = sorted(EXPERIMENTS.rglob("*.yaml"))
BEFORE = {
    "babe": (
        "6d1275ff6af43294c551d5156f29311560fac6789964fb141cb0ece628d2b242",
        "aa15957c989b54e5313a3acba041651a28957a37503265499d7f4a7364be0b2a",
    ),
    "convabuse": (
        "658f8c42f2f8232643179860c5a481f3d397f7a3a600387a5b88f2a839b85eb4",
        "c16f154c2c14507a08f73058e977ddeb53edcf35c3a2ad79603b44702e536dbf",
    ),
    "convabuse-lm": (
        "ec8894dac9d52aea06c5ec0a62f6d7aad8b0d069be30396455a28d260a9c62a2",
        "4d1347641af3a12ff7468cfece71a4ee3b11889d518572890939863171f77d49",
    ),
    "endpoint": (
        "0d139344323aafccb91a21d30dba1d88b3dda9b603e1bb422cb5de81b2963e88",
        "ee5b465b69f0d308ed61245f6b42d9301564383acfff72c69b5c718d317c28af",
    ),
    "forgetting": (
        "106565d6429989aacb4b2d6b38202b1c397a2aaa24611a61d861303e07ea3408",
        "4cc36c40ecc4c34deb01882dcb9663ed569044bd88e83d2cf693e42583b06665",
    ),
    "hatexplain": (
        "81d4c747dee5bfc664f7ec6f4b398161ab966d922a6e800afd0d6e9d6965e826",
        "2538c5c21af7bb44200f59d03d69bde0a9b619090118846bf2543823b04f882f",
    ),
    "newcomers": (
        "172947c0b0eff11a67a537c1eb0ed8f776e3f262d8d62d4810f0a4e64a6e623b",
        "2b4de60683e268f0413564740f4bf8171ed1553386cfe0f032f51542c6084fb0",
    ),
    "reference-convabuse": (
        "fa3bbcab197f7f764aeac3668988bd4a7af29ad977126d6107ddf28bfdd17a5f",
        "d524f4bc06114850198b539e44a47803085d9674ce8268383757942da38ba712",
    ),
}
"""File -> its digest, and that of its arms' settings, by the version before the keys were renamed."""


def settings_of(experiment: Experiment) -> str:
    arms = [*experiment.arms, *(point for points in experiment.curves.values() for point in points.values())]
    written = [[arm.name, arm.config.identity, arm.control_of] for arm in arms]
    return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()


def with_old_spelling(file: Path, folder: Path) -> Path:
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"\binit_from: ", "from: ", re.sub(r"^subsample:", "limits:", text, flags=re.M))
    copy = folder / file.name
    copy.write_text(text, encoding="utf-8")
    return copy


def written(**more) -> dict:
    methods = {"prior": {}, "cls": {"epochs": 2}, "cls-u": {"init_from": "cls"}}
    return {
        "name": "trial",
        "source": {"name": "simulated"},
        "base": "tiny-bert",
        "methods": methods,
        "evaluate": {"reference": "cls"},
        **more,
    }


OLD = {
    "methods": {"prior": {}, "cls": {"epochs": 2}, "cls-u": {"from": "cls"}},
    "limits": {"rows": 300},
}


@pytest.mark.parametrize("name", BEFORE)
def test_digests_of_shipped_files_are_those_of_the_version_before(name):
    experiment = load_experiment(EXPERIMENTS / f"{name}.yaml")
    assert (experiment.digest, settings_of(experiment)) == BEFORE[name]
    assert experiment.notes == []


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_file_with_old_keys_is_the_same_run_with_one_notice(file, tmp_path):
    now, before = load_experiment(file), load_experiment(with_old_spelling(file, tmp_path))
    assert before.digest == now.digest and settings_of(before) == settings_of(now)
    assert before.model_dump() == now.model_dump()
    text = file.read_text(encoding="utf-8")
    assert len(before.notes) == bool(re.search(r"^[^#\n]*init_from: |^subsample:", text, re.M))
    assert not any("\n" in line for line in before.notes)


def test_the_notice_names_file_section_and_both_keys(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(written(**OLD)))
    assert load_experiment(file).notes == [
        f"note: {file}: limits is now subsample, methods.cls-u.from is now init_from. "
        "Old keys are accepted in this release only."
    ]


def test_old_keys_in_overrides(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(written(subsample={"rows": 9})))
    found = load_experiment(
        file, ["limits.rows=50", "methods.other={method: cls-u, from: cls}", "methods.cls-u.from=cls"]
    )
    assert found.subsample.rows == 50 and {arm.name: arm.after for arm in found.arms}["other"] == "cls"
    assert len(found.notes) == 1
    assert "limits is now subsample, methods.other.from is now init_from, methods.cls-u.from is" in found.notes[0]
    file.write_text(yaml.safe_dump(written(**OLD)))
    assert load_experiment(file, {"subsample.rows": 50, "methods.cls-u.init_from": "cls"}).subsample.rows == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits": {}, "subsample": {}}, r"^mine.yaml: limits is the old name of subsample\. Keep only subsample\.$"),
        (
            {"methods": {"cls": {}, "cls-u": {"from": "cls", "init_from": "cls"}}},
            r"^mine.yaml: methods\.cls-u\.from is the old name of init_from\. Keep only init_from\.$",
        ),
    ],
)
def test_both_keys_are_an_error(change, message):
    with pytest.raises(ExperimentError, match=message):
        make_experiment(written(**change), "mine.yaml")


def test_arms_of_a_file_with_old_keys_are_not_fitted_again():
    now, before = prepare(make_experiment(written(subsample={"rows": 300}))), prepare(make_experiment(written(**OLD)))
    assert [job.key for job in now.jobs] == [job.key for job in before.jobs]
    assert len(now.annotations) == len(before.annotations) <= 300
    assert not any("is now" in line for line in now.notes) and sum("is now" in line for line in before.notes) == 1


def test_the_settings_of_a_run_of_an_earlier_version_are_read_without_a_notice():
    saved = json.loads(make_experiment(written(subsample={"rows": 300})).model_dump_json(by_alias=True))
    saved["limits"] = saved.pop("subsample")
    saved["methods"]["cls-u"] = {"from": "cls"}
    read = make_experiment(with_new_keys(saved, "a run")[0])
    assert read.notes == [] and read.digest == make_experiment(written(subsample={"rows": 300})).digest


def test_the_caller_of_make_experiment_keeps_its_dict():
    mine = written(**OLD)
    make_experiment(mine, overrides=["limits.rows=5"])
    assert mine == written(**OLD)


@pytest.mark.parametrize("method", METHODS)
def test_settings_keep_the_names_that_keys_of_arms_have(method):
    identity = config_class(method)().identity
    assert "init_from" not in identity and ("from_" in identity) == ("init_from" in config_class(method).model_fields)


def test_fit_takes_the_old_name_with_a_warning():
    rows = bh.load_dataset("simulated", texts="templates", users=4, rows_per_user=20, distinct_texts=40)
    with pytest.warns(UserWarning, match="from_ is now init_from"), pytest.raises(BeholderError, match="clss"):
        bh.fit("cls-u", rows, rows, base="tiny-bert", from_="clss")

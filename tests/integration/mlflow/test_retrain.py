"""Erased people are taken out of the prior as well, in a real MLflow: what is learned again is what they never saw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from house import MODEL, content, said, settings
from inside import listening, server
from typer.testing import CliRunner
from worlds import home_with_a_run

from beholder.adapters.prior import FILES, Prior, load_prior
from beholder.cli.main import app
from beholder.data.annotations import Annotations
from beholder.registry import maintenance as upkeep
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store
from beholder.registry.bundle import Bundle
from beholder.registry.bundle_store import unfolded
from beholder.registry.feedback import Feedback
from beholder.registry.memory import TOLD
from beholder.training.context import Context
from beholder_serve.client import Client

BANK = {"block_users": 4, "epochs": 8, "prior": {"steps": 20, "rank": 2, "strength": 1.0}}
"""A small bank: its prior is learned four times here."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder, and what the run found."""
    folder = tmp_path_factory.mktemp("home")
    written = settings()
    written["methods"]["cls-u"] = {"init_from": "cls", "bank": BANK}
    with home_with_a_run(folder, written) as outcome:
        yield folder, outcome


def opened(which: str) -> Bundle:
    return registry.open_version(registry.find(MODEL, which))


def manifest_of(which: str) -> dict:
    return Store().manifest(registry.bundle_of(registry.find(MODEL, which)))


def prior_file(which: str) -> str:
    return manifest_of(which)["files"][f"personal/{FILES[0]}"]["sha256"]


def learned_without(user: str, bundle: Bundle, rows: Annotations, folder: Path) -> Prior:
    """The prior of the bundle's global model and settings, learned from scratch on the rows of all others."""
    part = np.asarray(rows.column("part"), dtype=object)
    train, valid = (
        rows.select(np.flatnonzero((part == name) & (rows.user_ids != user))) for name in ("train", "valid")
    )
    folder.mkdir()
    context = Context("tiny-bert", bundle.manifest["seed"], run_folder=folder)
    fitted = bundle.personal
    return fitted.config.begin_on(fitted.shared, train, valid, context).prior


def by_hand(rows: Annotations, user: str, some: slice) -> pd.DataFrame:
    """Judgements of training rows, under another name."""
    mine = np.flatnonzero(np.asarray(rows.column("part"), dtype=object) == "train")[some]
    labels = {label: rows.labels[mine, at].astype(int) for at, label in enumerate(rows.task.labels)}
    return pd.DataFrame({"text": list(rows.texts[mine]), "user_id": [user] * len(mine), **labels})


@pytest.fixture(scope="module")
def erased(world, tmp_path_factory):
    """Two newcomers, by a table and by what they told the served model; then one of the run's people is erased."""
    home, outcome = world
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_HOME", str(home))
        scratch = tmp_path_factory.mktemp("retrain")
        rows = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
        by_hand(rows, "from a table", slice(0, 12)).to_parquet(scratch / "new.parquet")
        refreshed = said("refresh", MODEL, "--annotations", scratch / "new.parquet")
        registry.promote(MODEL, refreshed["version"], force=True)
        told = by_hand(rows, "told", slice(0, 12)).to_dict("records")
        judged = [(each["text"], {label: bool(each[label]) for label in rows.task.labels}) for each in told]
        Feedback().put(MODEL, "told", judged)
        user = str(rows.user_ids[0])
        own = int(((rows.user_ids == user) & (np.asarray(rows.column("part"), dtype=object) == "train")).sum())
        expected = learned_without(user, opened("1"), rows, scratch / "work")
        before = {"prior": prior_file("2"), "table": opened("2").personal.bank.take(["from a table"])}
        assert prior_file("1") == prior_file("2")
        found = said("registry", "erase", "--user", user, "--retrain-prior")
        yield user, own, rows, expected, before, found


def test_the_share_in_every_version_is_stated(erased, outcome):
    user, own, rows, _, _, found = erased
    train = int((np.asarray(rows.column("part"), dtype=object) == "train").sum())
    share = {"rows": own, "of_rows": train, "of_people": 6}
    assert found["priors"] == [{"model": MODEL, "version": number, **share} for number in (2, 1)]
    assert [manifest_of(number)["prior_still_holds"] for number in "12"] == [{"people": 1, "rows": own}] * 2
    assert user not in json.dumps(found)


def test_the_new_prior_is_the_one_learned_without_them(erased, outcome):
    _, own, rows, expected, before, found = erased
    (retrained,) = found["retrained"]
    assert retrained["refreshed_from"] == 2 and retrained["aliases"] == ["candidate"]
    number = str(retrained["version"])
    assert prior_file(number) != before["prior"] == prior_file("2")
    assert "prior_still_holds" not in manifest_of(number)
    with unfolded(manifest_of(number), Store()) as folder:
        prior = load_prior(folder / "personal", opened(number).personal.model.shapes)
    assert prior.checksum == expected.checksum
    train = int((np.asarray(rows.column("part"), dtype=object) == "train").sum())
    assert retrained["prior"] == {"people": 5, "rows": train - own}


def test_everybody_is_estimated_given_it_and_nobody_is_lost(erased, outcome):
    user, _, rows, _, before, found = erased
    number = str(found["retrained"][0]["version"])
    assert (found["retrained"][0]["users"], found["retrained"][0]["kept"]) == (7, 0)  # five of the run, two who came
    old, new = opened("2").personal, opened(number).personal
    others = [each for each in rows.users if each != user]
    assert set(new.bank.users) == {*others, "told", "from a table"}
    was, now = old.bank.take(others)["head.bias"], new.bank.take(others)["head.bias"]
    assert all((one != other).any() for one, other in zip(was, now, strict=True))
    assert any((tensor != before["table"][name]).any() for name, tensor in new.bank.take(["from a table"]).items())
    counted = dict(zip(*(new.bank.index[name].to_pylist() for name in ("user_id", "prior_rows")), strict=True))
    assert counted["told"] == counted["from a table"] == 0
    assert sum(counted.values()) == found["retrained"][0]["prior"]["rows"]
    assert set(opened(number).users) == set(new.bank.users)


def test_it_can_be_judged_and_promoted(erased, outcome):
    found = erased[-1]["retrained"][0]
    manifest = manifest_of(str(found["version"]))
    assert None not in found["valid_macro_f1"].values()
    assert found["valid_macro_f1"] == manifest["prior_retrained"]["valid_macro_f1"]
    assert manifest["routes"]["population"] != manifest_of("2")["routes"]["population"]
    assert len(manifest["thresholds"]) == len(manifest["task"]["labels"])
    registry.promote(MODEL, found["version"], force=True)
    assert upkeep.verify(Store()).problems == ()
    again = said("registry", "erase", "--user", erased[0], "--retrain-prior")
    assert again["priors"] == again["retrained"] == []  # the champion holds nothing of them


def test_the_erased_are_nowhere(erased, world, outcome):
    for file in [each for each in world[0].rglob("*") if each.is_file()]:
        assert erased[0].encode() not in content(file), file


def test_those_who_came_after_the_prior_have_no_share(erased, outcome):
    found = said("registry", "erase", "--user", "told")
    assert found["bundles"] == 1 and found["priors"] == [] and found["judgements"] == 12


def test_without_the_run_it_is_refused_and_the_erasure_stands(erased, outcome, tmp_path):
    user, _, rows, *_ = erased
    other = next(each for each in rows.users if each != user)
    shown = CliRunner().invoke(app, ["registry", "erase", "--user", other])
    assert shown.exit_code == 0 and other not in shown.output
    assert f"beholder refresh {MODEL} --retrain-prior" in shown.output and "the prior still holds" in shown.output
    champion = registry.find(MODEL).number
    shutil.move(outcome.run_folder, tmp_path / "elsewhere")
    try:
        for arguments in (["refresh", MODEL], ["registry", "erase", "--user", other]):  # the share was counted before
            refused = CliRunner().invoke(app, [*arguments, "--retrain-prior"])
            assert refused.exit_code == 2 and "is not in" in refused.stderr and "Traceback" not in refused.output
            assert ("erased, but" in refused.stderr) == (arguments[0] == "registry")
    finally:
        shutil.move(tmp_path / "elsewhere", outcome.run_folder)
    assert registry.find(MODEL, "candidate").number == champion
    was = manifest_of(str(champion))  # as of a version from before judgements of tables were kept
    without = {**was, "files": {name: entry for name, entry in was["files"].items() if name != TOLD}}
    Store().write_manifest(registry.bundle_of(registry.find(MODEL)), without, instead_of=was)
    tensors = opened(str(champion)).personal.bank.take(["from a table"])
    found = said("refresh", MODEL, "--retrain-prior")
    assert found["prior"]["people"] == 4 and found["users"] == 4 and found["kept"] == 1
    for name, tensor in opened(str(found["version"])).personal.bank.take(["from a table"]).items():
        np.testing.assert_array_equal(tensor, tensors[name])
    assert CliRunner().invoke(app, ["refresh", MODEL, "--retrain-prior", "--feedback"]).exit_code == 2


def test_the_api_states_the_share_in_the_served_model(erased, outcome):
    own = {}
    for version in registry.versions(MODEL):
        index = registry.open_version(version).personal.bank.index.to_pylist()
        own[version.number] = {row["user_id"]: row["prior_rows"] for row in index}
    user = next(each for each, rows in own[1].items() if rows)
    with listening(server(MODEL)[0]) as url, Client(url) as client:
        found = client.erase(user).priors
    assert {share.version: share.rows for share in found} == {number: rows[user] for number, rows in own.items()}
    assert {share.of_people for share in found} == {6, 5, 4}

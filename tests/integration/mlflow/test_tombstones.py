"""Whoever was erased is in nothing that is made afterwards, whatever was under way or comes from a copy."""

from __future__ import annotations

import json
import shutil

import bundles
import numpy as np
import pytest
from bundles import ADA, BOB, bundle_of, grep, weights_of
from house import MODEL, settings, table_of
from typer.testing import CliRunner
from worlds import home_with_a_run

from beholder.cli.main import app
from beholder.data.annotations import Annotations
from beholder.experiment.config import make_experiment
from beholder.lifecycle.erase import admit_again, erase_everywhere
from beholder.lifecycle.refresh import refresh
from beholder.registry import maintenance as upkeep
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store
from beholder.registry.bundle_store import files_of, keep, open_stored, unfolded
from beholder.util.errors import RegistryError
from beholder.util.tombstones import tombstone
from beholder.workflows import run as pipeline

fitted = bundles.fitted


def test_a_tombstone_depends_on_key_and_id_and_holds_neither():
    """HMAC-SHA-256 by RFC 4231, test case 2, and by other keys and ids something else."""
    assert tombstone(b"Jefe", "what do ya want for nothing?") == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
    assert len({tombstone(key, user) for key in (b"a", b"b") for user in ("ada", "bob")}) == 4


def test_a_bundle_of_somebody_erased_is_not_kept(fitted, home, tmp_path):
    store = Store()
    kept = keep(bundle_of(fitted, tmp_path / "before"), store)
    assert upkeep.erase(ADA, store).problems == ()
    with pytest.raises(RegistryError, match="1 person was erased after their judgements were read here") as refused:
        keep(bundle_of(fitted, tmp_path / "after"), store)
    assert ADA not in str(refused.value) and store.bundles() == [kept]
    assert upkeep.gc(store) >= 0 and not grep(home, ADA.encode())
    assert store.erased([ADA, BOB]) == {ADA}
    with store.writing("admitting"):
        assert store.unbury(ADA) and not store.unbury(ADA)
    again = keep(bundle_of(fitted, tmp_path / "again"), store)
    assert open_stored(again, store).predict(["hello"], [ADA]).routes == ["cls-u"]


def test_people_that_are_in_no_table_of_users_are_asked_after_too(fitted, home, tmp_path):
    """As of a bundle that has one model for all: it was trained on their judgements."""
    store = Store()
    upkeep.erase("nell", store)
    with pytest.raises(RegistryError, match="1 person was erased"):
        keep(bundle_of(fitted, tmp_path / "bundle"), store, ["nell", "owen"])
    assert store.bundles() == [] == store.objects()


def test_a_copy_that_is_put_back_is_found_and_serves_nobody_who_was_erased(fitted, home, tmp_path):
    store = Store()
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), store)
    for folder in ("bundles", "objects"):
        shutil.copytree(home / "store" / folder, tmp_path / "copy" / folder)
    weights = weights_of(open_stored(kept, store), ADA)
    upkeep.erase(ADA, store)
    assert upkeep.verify(store).problems == ()
    shutil.copytree(tmp_path / "copy", home / "store", dirs_exist_ok=True)
    (problem,) = upkeep.verify(store).problems
    assert "1 person was erased" in problem and problem.endswith("Erase them again.") and ADA not in problem
    opened = open_stored(kept, store)
    assert opened.predict(["hello"] * 2, [ADA, BOB]).routes == ["cls", "cls-u"]
    assert ADA not in opened.users and opened.user_row(ADA) == {"known": False, "route": "global"}
    assert upkeep.erase(ADA, store).bundles == 1 and upkeep.verify(store).problems == ()
    assert not grep(home, ADA.encode(), *weights)


@pytest.mark.parametrize("what", ["missing", "damaged"])
def test_a_key_that_is_gone_is_one_line_and_the_rest_is_erased(fitted, home, tmp_path, what):
    store = Store()
    keep(bundle_of(fitted, tmp_path / "bundle"), store)
    upkeep.erase(ADA, store)
    key = home / "store" / "keys" / "tombstones"
    key.unlink() if what == "missing" else key.write_bytes(b"short")
    found = upkeep.erase(BOB, store)
    assert found.bundles == 1 and len(found.problems) == 1
    assert f"keys/tombstones is {what}, so nobody can tell who was erased" in found.problems[0]
    with pytest.raises(RegistryError, match="Put it back from a copy"):
        store.erased([ADA])
    shutil.rmtree(home / "store" / "tombstones")  # the remedy
    key.unlink(missing_ok=True)
    assert upkeep.erase(BOB, store).problems == () and store.erased([ADA, BOB]) == {BOB}


def test_a_file_that_goes_while_a_bundle_is_made_of_it_is_not_left_out_in_silence(fitted, home, tmp_path):
    store = Store()
    manifest = store.manifest(keep(bundle_of(fitted, tmp_path / "bundle"), store))
    with unfolded(manifest, store, shards=True) as folder:
        assert files_of(folder, manifest, store) == manifest["files"]
        gone = next(name for name in manifest["files"] if "shard-" in name)
        store.delete_object(manifest["files"][gone]["sha256"])
        with pytest.raises(RegistryError, match="an object was deleted while a bundle was made of it"):
            files_of(folder, manifest, store)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home with one published version, for each test to have a copy of."""
    folder = tmp_path_factory.mktemp("made") / "home"
    folder.mkdir()
    with home_with_a_run(folder, settings()) as outcome:
        yield folder, outcome


class Notes(pipeline.Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class ErasesWhenItTrains(Notes):
    """Somebody is erased at the first step of a method's training."""

    def __init__(self, user: str, method: str) -> None:
        super().__init__()
        self.user, self.method, self.record = user, method, None

    def step(self, arm: str, done: int, total: int, note: str = "", unit: str = "steps") -> None:
        if arm == self.method and self.record is None:
            self.record = erase_everywhere(self.user)


@pytest.fixture
def world(made, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(made[0]))
    return made


@pytest.mark.parametrize("known", [True, False])
def test_somebody_erased_while_a_refresh_trains_is_not_in_what_it_publishes(world, tmp_path, known):
    """One of the champion's people, or somebody who is in the new table alone."""
    home, outcome = world
    rows = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
    someone, other = sorted(rows.users)[:2] if known else ("zoe@example.org", sorted(rows.users)[-1])
    table_of(
        rows if known else renamed(rows, sorted(rows.users)[2], someone), [someone, other], tmp_path / "new.parquet"
    )
    versions = len(registry.versions(MODEL))
    reporter = ErasesWhenItTrains(someone, "refresh")
    found = refresh(MODEL, tmp_path / "new.parquet", reporter)
    assert reporter.record is not None and found["users"] == 1
    assert "the champion changed meanwhile, as when somebody is erased: beginning again" in reporter.lines
    assert any(line.startswith("1 person was erased: their") for line in reporter.lines)
    assert not any(someone in line for line in reporter.lines)
    assert len(registry.versions(MODEL)) == versions + 1 and len(Store().bundles()) == versions + 1
    assert upkeep.gc(Store()) >= 0 and not grep(home, someone.encode())
    assert upkeep.verify(Store()).problems == ()
    opened = registry.open_version(registry.find(MODEL, str(found["version"])))
    assert someone not in opened.users and other in opened.users
    assert np.isfinite(opened.predict(["hello"] * len(opened.users), opened.users).scores).all()  # every shard is there


def renamed(rows: Annotations, user: str, becomes: str) -> Annotations:
    return rows.replace_users([becomes if each == user else each for each in rows.user_ids])


@pytest.mark.slow
def test_somebody_erased_while_a_run_trains_is_in_nothing_it_leaves(tmp_path, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path))
    experiment = make_experiment(settings(users=5))
    someone = "reader2"
    reporter = ErasesWhenItTrains(someone, "cls-u")
    with pytest.raises(RegistryError, match=r"1 person was erased while the run was under way.* Run it again"):
        pipeline.run(experiment, reporter)
    assert reporter.record is not None and registry.models() == []
    assert not grep(tmp_path, someone.encode())
    notes = Notes()
    outcome = pipeline.run(experiment, notes)
    assert any(line.startswith("1 person was erased: their 60 judgements") for line in notes.lines)
    assert someone not in outcome.test.users and not grep(tmp_path, someone.encode())
    assert registry.find(MODEL).number == 1
    done = CliRunner().invoke(app, ["registry", "admit", "--user", someone])
    assert done.exit_code == 0 and done.stdout.strip() == "admitted again"
    done = CliRunner().invoke(app, ["registry", "admit", "--user", someone, "--json"])
    assert json.loads(done.stdout) == {"admitted": False}
    assert not admit_again("nobody")
    assert someone in pipeline.run(experiment).test.users

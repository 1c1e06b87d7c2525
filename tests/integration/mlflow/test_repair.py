"""A store that can be repaired and emptied: what is damaged comes back from copies, what nobody serves goes."""

from __future__ import annotations

import json
import shutil
import time

import bundles
import numpy as np
import pytest
from bundles import ADA, BOB, bundle_of, grep
from house import MODEL, said, settings
from typer.testing import CliRunner
from worlds import home_with_a_run

from beholder.cli.main import app
from beholder.registry import maintenance as upkeep
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store
from beholder.registry.bundle_store import keep, open_stored
from beholder.registry.repair import delete_unnamed, repair
from beholder.tracking.client import client
from beholder.util.errors import RegistryError

fitted = bundles.fitted


def objects(store: Store, kept: str) -> list[str]:
    return sorted({entry["sha256"] for entry in store.manifest(kept)["files"].values()})


def damage(root, digest: str, how: str) -> None:
    file = root / "objects" / digest[:2] / digest
    if how == "missing":
        file.unlink()
        return
    data = file.read_bytes()
    file.unlink()  # it may be a link to a copy
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if how == "altered" else data[: len(data) // 2])


@pytest.mark.parametrize("how", ["missing", "altered", "cut"])
def test_publishing_again_repairs_what_is_damaged(fitted, home, tmp_path, how):
    store = Store()
    folder = bundle_of(fitted, tmp_path / "bundle")
    kept = keep(folder, store)
    expected = open_stored(kept, store).predict(["hello"] * 2, [ADA, BOB]).scores
    for digest in objects(store, kept):
        damage(home / "store", digest, how)
    assert len(upkeep.verify(store).problems) == len(objects(store, kept))
    again = keep(folder, store)
    assert upkeep.verify(store).problems == ()
    for bundle in (kept, again):
        np.testing.assert_array_equal(open_stored(bundle, store).predict(["hello"] * 2, [ADA, BOB]).scores, expected)


def test_a_repair_takes_what_bundles_name_and_nothing_else(fitted, home, tmp_path):
    """From a copy that still has somebody who was erased since: she does not come back with it."""
    store = Store()
    keep(bundle_of(fitted, tmp_path / "bundle"), store)
    other = keep(bundle_of(fitted, tmp_path / "other", "cls-p"), store)
    shutil.copytree(home / "store", tmp_path / "backup")
    assert upkeep.erase(ADA, store).problems == ()
    for place, digest in enumerate(objects(store, other)):
        damage(home / "store", digest, ("missing", "altered", "cut")[place % 3])
    found = repair(store, [tmp_path / "backup"])
    rewritten = set(found.missing)  # what the erasure wrote is in no copy of before it
    assert found.files + len(rewritten) == len(objects(store, other)) and found.files > 3
    left = [each for each in upkeep.verify(store).problems if not any(digest in each for digest in rewritten)]
    assert left == []
    for digest in rewritten:  # they are damaged still; everything else can be read
        (home / "store" / "objects" / digest[:2] / digest).unlink(missing_ok=True)
    assert not grep(home, ADA.encode())
    second = Store(str(tmp_path / "second"))
    copied = keep(bundle_of(fitted, tmp_path / "third", "cls-p"), second)
    for digest in rewritten & set(objects(second, copied)):
        damage(tmp_path / "second", digest, "altered")  # a copy that is damaged itself is none
    assert set(repair(store, (), second).missing) == rewritten


def test_the_command_repairs_from_a_run_and_from_another_store(tmp_path, monkeypatch):
    with home_with_a_run(tmp_path / "home", settings(users=4)):
        home, store = tmp_path / "home", Store()
        champion = registry.bundle_of(registry.find(MODEL))
        shutil.copytree(home / "store", tmp_path / "backup")
        expected = open_stored(champion, store).predict(["hello"], ["reader0"]).scores
        for digest in objects(store, champion):
            damage(home / "store", digest, "cut")
        found = said("registry", "verify", "--repair")
        assert found["repaired"] == len(objects(store, champion)) and found["intact"]
        np.testing.assert_array_equal(open_stored(champion, store).predict(["hello"], ["reader0"]).scores, expected)
        (home / "runs").rename(tmp_path / "runs")
        for digest in objects(store, champion):
            damage(home / "store", digest, "missing")
        refused = CliRunner().invoke(app, ["registry", "verify", "--repair"])
        assert refused.exit_code == 2 and "0 files restored" in refused.stdout and "is missing" in refused.stderr
        alone = CliRunner().invoke(app, ["registry", "verify", "--from", "x"])
        assert alone.exit_code == 2 and "Give both" in alone.stderr
        one = CliRunner().invoke(app, ["registry", "verify", MODEL, "--repair"])
        assert one.exit_code == 2 and "whole store" in one.stderr  # and not passed over in silence
        done = CliRunner().invoke(app, ["registry", "verify", "--repair", "--from", str(tmp_path / "backup")])
        assert done.exit_code == 0 and f"{len(objects(store, champion))} files restored" in done.stdout
        (tmp_path / "runs").rename(home / "runs")

        # What no version names goes, once it is old enough; what another tracking server may name stays.
        run = next((home / "runs").iterdir())
        mine, theirs = keep(run / "bundle", store, tracking="mine"), keep(run / "bundle", store, tracking="theirs")
        named = registry.bundles_named(store)
        assert named == {champion}
        assert delete_unnamed(store, named, "mine", 3600) == 0  # young: it may become a version yet
        time.sleep(1.1)
        assert delete_unnamed(store, named, "mine", 1.0) == 1
        assert set(store.bundles()) == {champion, theirs} and mine not in store.bundles()
        registry.publish("other", run / "bundle", registry.find(MODEL).run_id, {}, "")
        second = registry.bundle_of(registry.find("other", "1"))
        assert said("registry", "gc", "--older-than", "0")["bundles"] == 0
        client().delete_model_version("other", "1")
        time.sleep(1.1)
        assert said("registry", "gc")["bundles"] == 0  # a day has to pass
        assert said("registry", "gc", "--older-than", "0")["bundles"] == 1
        assert second not in store.bundles() and theirs in store.bundles()
        assert json.loads(json.dumps(said("registry", "verify")))["orphans"] == 0


def test_a_repair_of_a_store_whose_manifest_is_damaged_is_one_line(fitted, home, tmp_path):
    store = Store()
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), store)
    manifest = home / "store" / "bundles" / f"{kept}.json"
    manifest.write_text(manifest.read_text().replace("1", "2", 1))
    with pytest.raises(RegistryError, match="altered since it was written"):
        repair(store)

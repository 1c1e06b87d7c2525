"""Bundles in a store: each file once, whole or not at all; checked, collected, and a person erased from all of them."""

from __future__ import annotations

import contextlib
import re

import bundles
import numpy as np
import pytest
from bundles import ADA, BOB, bundle_of, grep, weights_of

from beholder.registry import maintenance as upkeep
from beholder.registry.blob_store import Store
from beholder.registry.bundle_store import check, keep, open_stored, users_of
from beholder.util.errors import BankError, BeholderError, RegistryError

pytestmark = pytest.mark.long

fitted = bundles.fitted


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "home"))
    return Store(str(tmp_path / "store"))


def test_a_stored_bundle_scores_as_the_one_that_was_put_there(fitted, store, tmp_path):
    from beholder.registry.bundle import open_bundle

    folder = bundle_of(fitted, tmp_path / "bundle")
    kept = keep(folder, store)
    assert store.bundles() == [kept]
    assert check(kept, store) > len(store.objects()) > 9  # the shared model is in it twice, and there once
    texts, users = [*fitted[1].texts[:9], "never seen"], [*fitted[1].user_ids[:9], "nobody"]
    one, other = open_bundle(folder).predict(texts, users), open_stored(kept, store).predict(texts, users)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.routes == other.routes == ["cls-u"] * 9 + ["cls"]
    assert users_of(kept, store)["user_id"].to_pylist() == fitted[1].users


def test_what_two_versions_share_is_there_once(fitted, store, tmp_path):
    first = keep(bundle_of(fitted, tmp_path / "a"), store)
    before = store.objects()
    second = keep(bundle_of(fitted, tmp_path / "b", seed=2), store)
    assert first != second and store.objects() == before and store.manifest(second)["seed"] == 2
    other = keep(bundle_of(fitted, tmp_path / "c", "cls-p"), store)
    assert set(before) < set(store.objects())
    store.delete_manifest(other)
    assert upkeep.verify(store).orphans == upkeep.gc(store) > 0
    assert sorted(store.objects()) == sorted(before) and upkeep.verify(store).problems == ()


def test_every_kind_of_damage_is_one_line_and_nothing_else_is_lost(fitted, store, tmp_path):
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), store)
    ask = (["you are kind"], [ADA])
    whole = open_stored(kept, store).predict(*ask).scores
    for file in [each for each in (tmp_path / "store").rglob("*") if each.is_file() and not each.name.startswith(".")]:
        good = file.read_bytes()
        middle = len(good) // 2
        for bad in (good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :], None):
            file.unlink()
            if bad is not None:
                file.write_bytes(bad)
            with pytest.raises((RegistryError, BankError)) as refused:
                open_stored(kept, store).predict(*ask)
            assert len(str(refused.value).splitlines()) == 1
            assert re.search(r"altered|missing|not a manifest|no bundle", str(refused.value))
            assert upkeep.verify(store).problems or (bad is None and file.parent.name == "bundles")
        file.write_bytes(good)
    np.testing.assert_array_equal(open_stored(kept, store).predict(*ask).scores, whole)


def test_a_newer_format_and_another_base_are_said(fitted, store, tmp_path):
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), store)
    manifest = store.manifest(kept)
    newer = {**manifest, "format": 99}
    store.write_manifest(kept, newer, instead_of=manifest)
    with pytest.raises(RegistryError, match="format 99 is newer"):
        open_stored(kept, store)
    store.write_manifest(kept, {**manifest, "base": {**manifest["base"], "checksum": "0"}}, instead_of=newer)
    with pytest.raises(RegistryError, match="another base"):
        open_stored(kept, store)


@pytest.mark.parametrize("personal", ["cls-u", "cls-p", "user-prior"])
def test_an_erased_person_is_gone_from_every_bundle_and_others_score_as_before(fitted, store, tmp_path, personal):
    rows = fitted[1]
    kept = [keep(bundle_of(fitted, tmp_path / name, personal), store) for name in ("a", "b")]
    other = keep(bundle_of(fitted, tmp_path / "c", "user-prior"), store)
    mine = rows.user_ids == ADA
    texts, users = list(rows.texts[~mine]), list(rows.user_ids[~mine])
    before = [open_stored(each, store).predict(texts, users) for each in (*kept, other)]
    weights = weights_of(open_stored(kept[0], store), ADA)
    assert grep(tmp_path / "store", ADA.encode(), *weights)

    erased = upkeep.erase(ADA, store)
    assert erased.bundles == 3 and erased.objects > 0 and ADA not in str(erased)
    assert not grep(tmp_path / "store", ADA.encode(), *weights)
    for name, expected in zip((*kept, other), before, strict=True):
        found = open_stored(name, store).predict(texts, users)
        np.testing.assert_array_equal(found.scores, expected.scores)
        assert found.routes == expected.routes
        assert open_stored(name, store).predict(["hello"], [ADA]).routes == ["cls"]
    assert upkeep.verify(store).problems == () and upkeep.verify(store).orphans == 0
    again = upkeep.erase(ADA, store)
    assert (again.bundles, again.objects) == (0, 0) and not again.problems
    assert upkeep.erase(BOB, store).bundles == 3


@pytest.mark.parametrize("death", range(1, 11))
def test_an_erasure_that_dies_anywhere_is_finished_by_the_next(fitted, store, tmp_path, monkeypatch, death):
    kept = [keep(bundle_of(fitted, tmp_path / name), store) for name in ("a", "b")]
    rows = fitted[1]
    others = list(rows.texts[rows.user_ids == BOB]), [BOB] * int((rows.user_ids == BOB).sum())
    before = open_stored(kept[0], store).predict(*others).scores
    steps = 0

    def dying(step):
        def stepped(*arguments):
            nonlocal steps
            steps += 1
            if steps == death:
                raise KeyboardInterrupt
            return step(*arguments)

        return stepped

    with monkeypatch.context() as patch:
        for name in ("write", "swap", "delete"):
            patch.setattr(store.place, name, dying(getattr(store.place, name)))
        with contextlib.suppress(KeyboardInterrupt):
            upkeep.erase(ADA, store)
    assert steps >= min(death, 8)  # it has at least as many steps, and died at the one that was asked for
    np.testing.assert_array_equal(open_stored(kept[0], store).predict(*others).scores, before)
    upkeep.erase(ADA, store)
    assert not grep(tmp_path / "store", ADA.encode()) and upkeep.verify(store).orphans == 0
    np.testing.assert_array_equal(open_stored(kept[1], store).predict(*others).scores, before)


def test_a_second_writer_is_told_to_wait(store):
    told = pytest.raises(RegistryError, match="another process is writing there, so promoting did not begin")
    with store.writing("this"), told, Store(store.uri).writing("promoting", patience=0):
        raise AssertionError


def test_a_store_that_cannot_be_written_is_one_line(fitted, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BeholderError, match=r"^store file://.*: Not a directory. Check BEHOLDER_STORE, its rights"):
        keep(bundle_of(fitted, tmp_path / "bundle"), Store(str(tmp_path / "file" / "store")))

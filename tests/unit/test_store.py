"""Bundles in a store: each file once, whole or not at all; checked, collected, and a person erased from all of them."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from crowd import crowd

from beholder.errors import BankError, BeholderError, RegistryError
from beholder.methods import Context, config_class, save_fitted
from beholder.registry import upkeep
from beholder.registry.bundle import write_bundle
from beholder.registry.routes import USERS, Choice
from beholder.registry.store import Store
from beholder.registry.stored import check, keep, open_stored, users_of

SMALL = {"epochs": 1, "batch_size": 16, "max_tokens": 48, "lora": {"rank": 2, "targets": "all-linear"}}
NAMES = {"u0": "ada@example.org", "u1": "bob-7731", "u2": "cleo-9924", "u3": "dirk-5550"}
ADA, BOB = NAMES["u0"], NAMES["u1"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Run folder with `cls`, `cls-p` and `cls-u` fitted on users whose ids are found when they are looked for."""
    folder = tmp_path_factory.mktemp("run")
    plain = crowd()
    rows = type(plain).from_columns(
        plain.task, text=list(plain.texts), user_id=[NAMES[user] for user in plain.user_ids], labels=plain.labels
    )
    context = Context(base="tiny-bert", seed=1, run_folder=folder)
    bank = {"epochs": 3, "batch_size": 4, "prior": {"rank": 2, "steps": 5}}
    arms = {
        "cls": config_class("cls")(**SMALL),
        "cls-p": config_class("cls-p")(**SMALL, user_token="added"),
        "cls-u": config_class("cls-u")(from_="cls", bank=bank),
        "user-prior": config_class("user-prior")(),
    }
    for name, config in arms.items():
        (folder / "methods" / name).mkdir(parents=True)
        save_fitted(config.fit(rows, rows, context), folder / "methods" / name)
    return folder, rows


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "home"))
    return Store(str(tmp_path / "store"))


def bundle_of(fitted, folder: Path, personal: str = "cls-u", **facts) -> Path:
    """A bundle's folder; everybody is routed to the personal arm."""
    run, rows = fitted
    names = rows.users
    columns = [names, [9] * len(names), [2] * len(names), [0.1] * len(names), [0.1] * len(names)]
    users = pa.table([*columns, ["personal"] * len(names)], names=USERS.names).cast(USERS)
    folders = {name: run / "methods" / name for name in ("cls", personal)}
    return write_bundle(folder, Choice("cls", personal), folders, "tiny-bert", facts, users)


def grep(root: Path, *needles: bytes) -> list[str]:
    """Files below a folder with any of these bytes in them, Parquet by its values."""
    import pyarrow.parquet as pq

    found = []
    for file in root.rglob("*"):
        if not file.is_file():
            continue
        content = file.read_bytes()
        if content[:4] == b"PAR1":
            content += json.dumps(pq.read_table(file).to_pydict(), default=str).encode()
        found += [str(file) for needle in needles if needle in content]
    return found


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
    store.write_manifest(kept, {**manifest, "format": 99})
    with pytest.raises(RegistryError, match="format 99 is newer"):
        open_stored(kept, store)
    store.write_manifest(kept, {**manifest, "base": {**manifest["base"], "checksum": "0"}})
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
    assert (again.bundles, again.objects) == (0, 0) and again.fingerprint != erased.fingerprint
    assert upkeep.erase(BOB, store).bundles == 3


def weights_of(bundle, user: str) -> list[bytes]:
    """The bytes of what is a user's own in a bundle."""
    fitted = bundle.personal
    if hasattr(fitted, "bank"):
        return [tensor[0].numpy().tobytes() for tensor in fitted.bank.take([user]).values() if tensor.any()]
    if hasattr(fitted, "by_user"):
        return []  # rates stand as text beside the id
    return [fitted.network.users.weight.detach()[fitted.users[user]].numpy().tobytes()]


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
        for name in ("write", "delete"):
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

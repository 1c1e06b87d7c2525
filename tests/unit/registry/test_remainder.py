"""What a prior holds of one person: counted in the bank's index, stated at an erasure, unchanged by a refresh."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from crowd import crowd
from fits import personal, start_from

from beholder.adapters.prior import FILES
from beholder.adapters.shards import Bank, erase, record_prior_rows, update
from beholder.methods import load_fitted, save_fitted
from beholder.registry.remainder import Share, add, share_of
from beholder.util.atomic import sha256_of
from beholder.util.errors import RegistryError

QUICK = {"steps": 4, "rank": 1, "strength": 0.5}


def saved(folder, rows, **bank):
    """A `cls-u` fitted on rows and saved; returns its folder, and the fitted method."""
    _, context = start_from(folder, rows)
    fitted = personal(**{"prior": QUICK, "block_users": 2, **bank}).fit(rows, rows, context)
    (folder / "saved").mkdir()
    save_fitted(fitted, folder / "saved")
    return folder / "saved", fitted


def rows_of(folder) -> dict[str, int | None]:
    index = Bank(folder / "bank").index
    return dict(zip(index["user_id"].to_pylist(), index["prior_rows"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Six people, four of whom the prior is learned from."""
    rows = crowd(rows=96, users=6)
    folder, fitted = saved(tmp_path_factory.mktemp("run"), rows, prior={**QUICK, "users": 4})
    return rows, folder, fitted


def copy_of(folder, to):
    shutil.copytree(folder, to)
    return to


def test_the_shares_of_all_people_are_the_rows_the_prior_was_learned_from(model):
    rows, folder, fitted = model
    counted = rows_of(folder)
    assert sum(counted.values()) == fitted.prior.facts["rows"] < len(rows)
    assert sum(each > 0 for each in counted.values()) == fitted.prior.facts["people"] == 4
    for user, some in counted.items():
        own = int((rows.user_ids == user).sum())
        assert some in (0, own)
        assert share_of(folder, user) == (Share(own, fitted.prior.facts["rows"], 4) if some else None)
    assert share_of(folder, "nobody") is None


def test_an_index_from_before_it_was_recorded_opens_and_the_share_is_unknown(model, tmp_path):
    _, folder, fitted = model
    old = copy_of(folder, tmp_path / "old")
    file = old / "bank" / "index.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["prior_rows"]), file)
    described = json.loads((old / "bank" / "bank.json").read_text())
    (old / "bank" / "bank.json").write_text(json.dumps({**described, "index_sha256": sha256_of(file)}))
    users = Bank(old / "bank").users
    np.testing.assert_array_equal(
        Bank(old / "bank").take(users)["head.bias"], Bank(folder / "bank").take(users)["head.bias"]
    )
    assert share_of(old, users[0]) == Share(None, fitted.prior.facts["rows"], 4)
    assert share_of(old, "nobody") is None
    assert erase(old / "bank", users[0])
    assert set(rows_of(old).values()) == {None}
    assert share_of(old, users[0]) is None


def test_a_bundle_without_a_prior_holds_nothing_and_a_damaged_one_is_named(model, tmp_path):
    _, folder, _ = model
    other = copy_of(folder, tmp_path / "other")
    (other / FILES[1]).write_text("no JSON")
    with pytest.raises(RegistryError, match=r"prior\.json: no readable prior"):
        share_of(other, "u0")
    (other / FILES[1]).unlink()
    assert share_of(other, "u0") is None


def test_a_refresh_of_some_leaves_all_other_bytes_and_what_the_prior_was_learned_from(model, tmp_path):
    rows, folder, fitted = model
    refreshed = copy_of(folder, tmp_path / "refreshed")
    before = {file.name: file.read_bytes() for file in refreshed.rglob("*") if file.is_file()}
    index = Bank(folder / "bank").index
    some = index["user_id"].to_pylist()[0]
    mine = rows.select(np.flatnonzero(rows.user_ids == some)[:4])
    new = mine.select([*range(len(mine)), *range(len(mine))]).replace_users([some] * len(mine) + ["late"] * len(mine))
    (tmp_path / "work").mkdir()
    context = start_from(tmp_path / "work", rows)[1]
    fitting = fitted.config.begin_on(fitted.shared, new, new.select([]), context, fitted.prior)
    for number in range(len(fitting.blocks)):
        fitting.train(number)
    bank, _ = fitting.finish()
    assert set(bank.index["prior_rows"].to_pylist()) == {0}
    assert update(refreshed / "bank", bank) == 2
    assert rows_of(refreshed) == {**rows_of(folder), "late": 0}
    touched = index.filter(pc.field("user_id") == some)["shard"].to_pylist()[0]
    for name, content in before.items():
        stays = name not in (f"shard-{touched}.safetensors", "index.parquet", "bank.json")
        found = [file for file in refreshed.rglob(name) if file.read_bytes() == content]
        assert bool(found) == stays, name
    assert share_of(refreshed, "late") is None


def test_only_those_named_are_taken_over(model, tmp_path):
    _, folder, fitted = model
    other = copy_of(folder, tmp_path / "other")
    users = fitted.bank.users
    fresh = fitted.before_refit.bank
    update(other / "bank", fresh, {users[1]})
    was, now, new = fitted.bank.take(users), Bank(other / "bank").take(users), fresh.take(users)
    for name, tensor in now.items():
        np.testing.assert_array_equal(tensor[1], new[name][1])
        np.testing.assert_array_equal(tensor[[0, *range(2, len(users))]], was[name][[0, *range(2, len(users))]])
    assert any((was[name][1] != new[name][1]).any() for name in was)
    record_prior_rows(other / "bank", {users[1]: 7})
    assert rows_of(other) == {user: 7 if user == users[1] else 0 for user in rows_of(folder)}


def test_what_is_held_of_several_erased_people_adds_up():
    once = add(None, Share(18, 100, 9))
    assert once == {"people": 1, "rows": 18}
    assert add(once, Share(2, 100, 9)) == {"people": 2, "rows": 20}
    unknown = add(once, Share(None, 100, 9))
    assert unknown == {"people": 2, "rows": None} and add(unknown, Share(2, 100, 9)) == {"people": 3, "rows": None}


@pytest.mark.parametrize("shape", [{}, {"top_layers": 1, "rank": 2}], ids=["head", "layer"])
def test_people_who_come_later_are_estimated_as_the_run_estimated_its_own(shape, tmp_path):
    rows = crowd(rows=96, users=6)
    given = {"epochs": 7, "batch_size": 3, "step_size": 0.4, "clip": 0.3, "refit": False, **shape}
    folder, fitted = saved(tmp_path, rows, **given)
    again = load_fitted(folder, "tiny-bert")
    assert again.settings == fitted.settings and again.settings.model_dump().items() >= given.items()
    some = fitted.bank.users[2]
    later = again.adapt(rows.select(np.flatnonzero(rows.user_ids == some)), seed=1)
    for name, tensor in later.bank.take([some]).items():
        torch.testing.assert_close(tensor, fitted.bank.take([some])[name], atol=1e-5, rtol=0)

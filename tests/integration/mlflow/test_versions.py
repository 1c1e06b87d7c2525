"""Versions in a real MLflow: published, loaded by MLflow, promoted and rolled back, refreshed, and a person erased."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from house import MODEL, content, said, table_of

from beholder.data.annotations import Annotations
from beholder.data.folds import parts_of
from beholder.evaluation.scores_io import read_scores, write_scores
from beholder.registry import bundle_store as stored
from beholder.registry import maintenance as upkeep
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store
from beholder.util.errors import RegistryError
from beholder.util.run_folder import RunFolder
from beholder.workflows.record import refuse_surely_worse


def test_the_pair_that_is_served_is_measured_beside_its_arms(outcome):
    results = outcome.results.to_json()
    methods = results["methods"]
    assert list(methods) == ["cls", "cls-u", "routed"]
    assert methods["routed"]["valid_macro_f1"] > methods["cls"]["valid_macro_f1"]
    registered = results["registered"]
    assert (registered["best"], registered["global"]) == ("cls-u", "cls")
    assert registered["on_personal"] + registered["on_global"] == 6 and registered["on_personal"] > 0
    shown = said("registry", "show", MODEL)["manifest"]
    assert shown["routes"]["population"]["within"] > 0 and "shrunk" in shown["routes"]["rule"]


def test_mlflow_loads_it_and_predicts_the_same(outcome):
    import mlflow

    from beholder.tracking.client import client

    client()
    rows = pd.DataFrame({"user_id": [*outcome.test.user_ids, "a stranger"], "text": [*outcome.test.texts, "hello"]})
    found = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion").predict(rows)
    ours = registry.open_version(registry.find(MODEL)).predict(list(rows["text"]), list(rows["user_id"]))
    labels = outcome.test.task.labels
    np.testing.assert_array_equal(found[[f"score.{label}" for label in labels]].to_numpy(), ours.scores)
    np.testing.assert_array_equal(found[[f"given.{label}" for label in labels]].to_numpy(), ours.decisions)
    assert list(found["route"]) == ours.routes and ours.routes[-1] == "cls" and "cls-u" in ours.routes


def mlflow_says(outcome, number: str) -> np.ndarray:
    """Scores of the test rows by a version as MLflow loads it."""
    import mlflow

    rows = pd.DataFrame({"user_id": list(outcome.test.user_ids), "text": list(outcome.test.texts)})
    found = mlflow.pyfunc.load_model(f"models:/{MODEL}/{number}").predict(rows)
    return found[[name for name in found.columns if name.startswith("score.")]].to_numpy()


def shards_of_users(files: dict, users: list[str]) -> set[str]:
    """The shards that hold tensors of some users, by a manifest's files."""
    index = pd.read_parquet(Store().checked(files["personal/bank/index.parquet"]["sha256"]))
    return set(index[index["user_id"].isin(users)]["shard"])


def test_a_refresh_touches_the_users_it_is_of_and_nobody_else(outcome, tmp_path):
    everybody = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
    users = everybody.users[:2]
    table_of(everybody, users, tmp_path / "new.parquet")
    before = registry.open_version(registry.find(MODEL))
    shards = set(Store().objects())
    found = said("refresh", MODEL, "--annotations", tmp_path / "new.parquet")
    assert found["aliases"] == ["candidate"] and found["users"] == 2 and found["refreshed_from"] == 1
    assert 1 <= found["shards_rewritten"] <= 2 and set(found["valid_macro_f1"]) == {"old", "new"}
    after = registry.open_version(registry.find(MODEL, "candidate"))
    test = outcome.test
    others = [row for row, user in enumerate(test.user_ids) if user not in users]
    ask = [test.texts[row] for row in others], [test.user_ids[row] for row in others]
    np.testing.assert_array_equal(before.predict(*ask).scores, after.predict(*ask).scores)
    theirs = [row for row, user in enumerate(test.user_ids) if user in users]
    ask = [test.texts[row] for row in theirs], [test.user_ids[row] for row in theirs]
    one, other = (np.asarray(each.predict(*ask).scores) for each in (before, after))
    routes = {row["route"] for user in users for row in said("registry", "history", MODEL, "--user", user)}
    assert np.abs(one - other).max() > 0 or routes == {"global"}
    files = [Store().manifest(registry.bundle_of(registry.find(MODEL, which)))["files"] for which in ("1", "candidate")]
    assert all(files[1][name] == entry for name, entry in files[0].items() if name.startswith("personal/prior."))
    assert {name for name in files[0] if "shard-" in name and name not in files[1]} <= {
        f"personal/bank/shard-{digest}.safetensors" for digest in shards_of_users(files[0], users)
    }
    new = set(Store().objects()) - shards
    # The index, what describes the bank, the routes, what was learned, and which enrolments.
    assert len(new) <= found["shards_rewritten"] + 5

    rows = said("registry", "history", MODEL, "--user", users[0])
    assert [row["version"] for row in rows] == [2, 1] and rows[0]["train_rows"] > rows[1]["train_rows"]
    by_number = {number: mlflow_says(outcome, number) for number in ("1", "2")}
    ours = before.predict(list(test.texts), list(test.user_ids)).scores
    np.testing.assert_array_equal(by_number["1"], ours)  # the champion's pointer is its own
    ours = after.predict(list(test.texts), list(test.user_ids)).scores
    np.testing.assert_array_equal(by_number["2"], ours)
    changed = said("registry", "diff", MODEL, "1", "2")
    assert {change["user_id"] for change in changed["users"]} <= set(users)
    assert changed["better"] + changed["worse"] + changed["same"] == 6
    assert not said("registry", "show", MODEL, "--user", "a stranger")[0]["known"]


def test_a_version_says_what_it_is_and_how_good(outcome):
    from beholder.tracking.client import client

    routed, version = outcome.results.methods["routed"], registry.find(MODEL, "1")
    assert set(version.tags) >= {"users", "gain_points", "win_rate", "base", "split_hash"}
    assert float(version.tags["win_rate"]) == pytest.approx(routed.users.better / 6, abs=1e-3)
    page = client().get_model_version(MODEL, "1").description
    assert page.startswith("# house on tiny-bert") and "| routed |" in page
    assert f"Serves **cls-u** to {outcome.results.registered.on_personal} users" in page
    assert f"macro-F1 {100 * routed.macro_f1:.1f} on test, {routed.gain.points:+.1f} points over cls" in page


def test_a_refresh_that_nobody_can_judge_is_not_promoted_unless_told(outcome, tmp_path):
    """All that a newcomer said is of texts to learn from, so no row tells whether their adapter is better."""
    everybody = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
    rows = np.flatnonzero(
        (everybody.user_ids == everybody.users[0]) & (np.asarray(everybody.column("part")) == "train")
    )[:8]
    columns = {"text": list(everybody.texts[rows]), "user_id": ["a newcomer"] * len(rows)}
    columns |= {label: everybody.labels[rows, at].astype(int) for at, label in enumerate(everybody.task.labels)}
    pd.DataFrame(columns).to_parquet(tmp_path / "new.parquet")
    found = said("refresh", MODEL, "--annotations", tmp_path / "new.parquet")
    assert found["rows"]["valid"] == 0 and found["valid_macro_f1"] == {"old": None, "new": None}
    assert set(found["tags"]) >= {"users", "base"} and "gain_points" not in found["tags"]  # that was the champion's
    with pytest.raises(RegistryError, match=r"refreshed without a row to choose by.*--force"):
        registry.promote(MODEL, found["version"])
    assert [row["known"] for row in said("registry", "history", MODEL, "--user", "a newcomer")] == [True, False, False]


def test_who_is_best_on_validation_and_surely_worse_on_test_is_not_promoted_by_its_run(outcome, tmp_path):
    tags, run_id = registry.find(MODEL).tags, outcome.results.mlflow.run_id
    for _ in range(2):
        registry.publish("gate", outcome.run_folder / "bundle", run_id, tags, "")
    registry.promote("gate", 1)
    own = read_scores(outcome.run_folder / "scores" / "routed.parquet").arm
    parts = parts_of(Annotations.read_parquet(outcome.run_folder / "annotations.parquet"))
    wrong = 1 - np.nan_to_num(parts["test"].labels)  # about every judgement
    for name, scores in (("same", own.test_scores), ("worse", wrong)):
        write_scores(
            tmp_path / "scores" / f"{name}.parquet", replace(own, test_scores=scores), parts["valid"], parts["test"]
        )

    def promoted(best):
        return registry.promote(
            "gate", 2, check=lambda mine, theirs: refuse_surely_worse(mine, theirs, RunFolder(tmp_path), best)
        ).number

    with pytest.raises(RegistryError, match=r"v2 is surely worse on test than the champion v1 .*--force"):
        promoted("worse")
    assert registry.find("gate").number == 1
    assert promoted("same") == 2 and registry.find("gate").number == 2


@pytest.mark.parametrize("name", [MODEL, "a new model"])
def test_a_bundle_that_is_collected_before_it_is_a_version_becomes_none(outcome, name):
    """A publisher that stands still for longer than `gc` lets unnamed bundles be."""
    before = registry.versions(MODEL), registry.models()
    champion = registry.find(MODEL)
    store = registry.store_of(champion)
    kept = stored.new_id()
    store.write_manifest(kept, store.manifest(registry.bundle_of(champion)))

    class Late:
        """What is looked at before the version is made takes long."""

        def hold(self, folder) -> None:
            with store.writing("collecting"):
                store.delete_manifest(kept)

    with pytest.raises(RegistryError, match="there is no bundle"):
        registry.make_version(name, kept, store, champion.run_id, champion.tags, "", Late())
    assert (registry.versions(MODEL), registry.models()) == before


def test_promotion_goes_forward_and_back(outcome):
    registry.promote(MODEL, 2, force=True)
    assert registry.find(MODEL).number == 2
    assert said("registry", "rollback", MODEL)["version"] == 1
    with pytest.raises(RegistryError, match="no champion before v1"):
        registry.rollback(MODEL)
    registry.promote(MODEL, 2, force=True)
    registry.promote(MODEL, 2, force=True)  # twice is once
    assert registry.rollback(MODEL).number == 1


PROMOTE = """
import sys, time
from beholder.util.errors import RegistryError
from beholder.util.run_folder import RunFolder
from beholder.registry import versions as registry
time.sleep(max(0, float(sys.argv[2]) - time.time()))
try:
    registry.promote("house", int(sys.argv[1]), force=True)
    print("promoted")
except RegistryError as error:
    print("refused:", error)
"""


def test_of_two_who_promote_at_once_one_does_or_both_one_after_another(outcome):
    at = str(time.time() + 12)
    both = [
        subprocess.Popen([sys.executable, "-c", PROMOTE, number, at], stdout=subprocess.PIPE, text=True)
        for number in ("1", "2")
    ]
    lines = [process.communicate(timeout=120)[0].strip() for process in both]
    assert "promoted" in lines
    assert all(line == "promoted" or "another process is writing there" in line for line in lines)
    champions = [version for version in registry.versions(MODEL) if "champion" in version.aliases]
    assert len(champions) == 1
    history = registry._former(MODEL)
    assert history[-1] == champions[0].number
    registry.promote(MODEL, 1, force=True)


def test_an_erased_person_is_nowhere(outcome, world):
    home = world[0]
    user = str(outcome.test.user_ids[0])
    others = outcome.test.user_ids != user
    ask = list(outcome.test.texts[others]), list(outcome.test.user_ids[others])
    before = {number: registry.open_version(registry.find(MODEL, number)).predict(*ask) for number in "123"}
    found = said("registry", "erase", "--user", user)
    everywhere = [version for model in registry.models() for version in registry.versions(model)]
    assert found["bundles"] == len(everywhere) >= 3 and found["runs"] == 1 and user not in json.dumps(found)
    for number, expected in before.items():
        version = registry.find(MODEL, number)
        again = registry.open_version(version).predict(*ask)
        np.testing.assert_array_equal(again.scores, expected.scores)
        assert again.routes == expected.routes
    assert not any(registry.user_row(version, user)["known"] for version in everywhere)
    for file in [each for each in home.rglob("*") if each.is_file()]:
        assert user.encode() not in content(file), file
    assert upkeep.verify(Store()).problems == ()
    assert said("registry", "erase", "--user", user)["runs"] == 0
    assert said("report", outcome.run_folder.name)["users"] == 5

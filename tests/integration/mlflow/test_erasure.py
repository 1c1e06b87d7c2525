"""What an erasure reaches beyond bundles, and what it says where something is in its way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import bundles
import numpy as np
import pyarrow.parquet as pq
import pytest
from bundles import ADA, BOB, bundle_of, grep
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.lifecycle import erase as erasure
from beholder.lifecycle.earlier import earlier
from beholder.lifecycle.erase import erase_everywhere
from beholder.lifecycle.traces import find_traces
from beholder.registry import maintenance as upkeep
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store
from beholder.registry.bundle_store import keep, open_stored
from beholder.registry.feedback import Feedback
from beholder.registry.manifest import Manifest
from beholder.tracking.client import client
from beholder.util.atomic import scratch
from beholder.util.errors import RegistryError

fitted = bundles.fitted


def judged(*users: str) -> Annotations:
    labels = np.ones((len(users), 1), dtype=np.float32)
    return Annotations.from_columns(
        Task(("rude",)), text=[f"text {row}" for row in range(len(users))], user_id=list(users), labels=labels
    )


@pytest.fixture
def run(home):
    """A run of judgements by Bob, and what was measured of forgetting on another source, by both."""
    folder = home / "runs" / "one-1234"
    (folder / "forgetting").mkdir(parents=True)
    (folder / "scores").mkdir()
    judged(BOB).write_parquet(folder / "annotations.parquet")
    judged(ADA, BOB).write_parquet(folder / "forgetting" / "test.parquet")
    return folder


def dead() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_whoever_is_in_another_source_of_a_run_alone_is_erased_from_it(home, run):
    assert erase_everywhere(ADA)["runs"] == 1
    assert not grep(home, ADA.encode())
    assert pq.read_table(run / "forgetting" / "test.parquet")["user_id"].to_pylist() == [BOB]
    assert pq.read_table(run / "annotations.parquet").num_rows == 1
    assert erase_everywhere(ADA)["runs"] == 0


def test_what_a_killed_process_left_half_written_goes_and_what_one_writes_stays(home, run):
    killed = dead()
    names = [
        f".annotations.parquet.{killed}.0a1b2c3d",
        f"scores/.cls.parquet.{killed}",
        f"forgetting/.t.parquet.{killed}",
    ]
    for name in names:
        (run / name).write_bytes(ADA.encode())
    mine = run / f".annotations.parquet.{os.getpid()}.0a1b2c3d"
    mine.write_bytes(b"being written")
    erase_everywhere(ADA)
    assert not grep(home, ADA.encode()) and mine.exists()
    assert not [name for name in names if (run / name).exists()]


@pytest.mark.parametrize("ends", ["killed", "lives"])
def test_what_a_killed_process_left_in_the_temporary_folder_goes_and_what_one_works_on_stays(home, run, ends):
    """A refresh or an opened bundle works there, on a copy of everybody's adapters."""
    code = (
        "import sys, time\nfrom beholder.util.atomic import scratch\nwith scratch() as folder:\n"
        "    (folder / 'bank').write_bytes(b'adapters')\n    print(folder, flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        bank = Path(other.stdout.readline().strip()) / "bank"
        if ends == "killed":
            other.kill()
            other.wait()
        assert bank.read_bytes() == b"adapters"
        erase_everywhere(ADA)
        assert bank.exists() == (ends == "lives")
        other.kill()
        other.wait()
        with scratch() as mine:
            assert not bank.exists() and mine.is_dir() and not list(mine.iterdir())
        assert not mine.parent.exists()


def test_a_store_in_the_temporary_folder_is_no_leftover(monkeypatch, tmp_path, fitted):
    """A store has a lock file, too, which nobody holds most of the time."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Store(str(tmp_path / "beholder-store"))
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), store)
    assert (tmp_path / "beholder-store" / ".lock").exists()
    with scratch():
        pass
    assert upkeep.verify(store).problems == () and store.bundles() == [kept]


def test_of_two_erasures_at_once_in_one_home_neither_brings_the_other_back(home, run, monkeypatch):
    """Each reads a table and writes it without one person; the second begins when the first has read."""
    read, begun = pq.read_table, []
    second = threading.Thread(target=lambda: begun.append(erase_everywhere(BOB)))

    def reads(file, **how):
        table = read(file, **how)
        if not how and Path(file).parent.name == "forgetting" and not second.ident:
            second.start()
            second.join(2)
        return table

    monkeypatch.setattr(pq, "read_table", reads)
    assert erase_everywhere(ADA)["runs"] == 1
    second.join()
    assert begun[0]["runs"] == 1 and not grep(home, ADA.encode(), BOB.encode())


def test_a_damaged_shard_keeps_nobody_from_being_erased_from_the_rest(home, fitted, tmp_path):
    store = Store()
    damaged = keep(bundle_of(fitted, tmp_path / "a"), store)
    time.sleep(1.1)  # ids begin with the second
    whole = keep(bundle_of(fitted, tmp_path / "b", "cls-p"), store)
    assert store.bundles() == [damaged, whole]
    entry = next(each for name, each in store.manifest(damaged)["files"].items() if "shard-" in name)
    shard = store.get(entry["sha256"])
    shard.unlink()  # a link to the run's
    shard.write_bytes(b"damaged")
    for found in (find_traces(ADA).not_seen, upkeep.erase(ADA, store).problems):
        assert len(found) == 1 and "shard-" in found[0] and ADA not in found[0]
    assert store.erased([ADA]) == {ADA} and not upkeep.traces(ADA, store).found
    assert open_stored(whole, store).predict(["hello"] * 2, [ADA, BOB]).routes == ["cls", "cls-p"]


def test_without_the_lock_of_the_home_or_the_storage_all_else_is_erased(home, run, fitted, tmp_path, monkeypatch):
    search = home / "searches" / "one"
    search.mkdir(parents=True)
    judged(ADA, BOB).write_parquet(search / "annotations.parquet")
    refused = home / "refused" / "mine.csv.refused.csv"
    refused.parent.mkdir()
    refused.write_text(f"text,user_id,rude,reason\na,{ADA},9,no\n", newline="")
    keep(bundle_of(fitted, tmp_path / "a"), Store())
    lock = home / ".erasing.lock"
    lock.mkdir()
    with pytest.raises(RegistryError, match=r"not erased everywhere: .*\.erasing\.lock: Is a directory") as said:
        erase_everywhere(ADA)
    assert len(str(said.value).splitlines()) == 1 and Store().erased([ADA]) == {ADA}
    assert not grep(home / "store", ADA.encode()) and json.loads((home / "erasures.jsonl").read_text())["bundles"] == 1
    lock.rmdir()
    monkeypatch.setenv("BEHOLDER_STORAGE", "file:///proc/beholder")
    with pytest.raises(
        RegistryError, match=r"not erased everywhere: store file:///proc/beholder.*Check BEHOLDER_STORAGE"
    ):
        erase_everywhere(ADA)
    assert not grep(home, ADA.encode())


def test_a_run_that_only_the_storage_has_is_read_and_erased_without_leaving_a_copy_here(
    home, run, tmp_path, monkeypatch
):
    """An erasure on another machine would not find it."""
    rows = judged(ADA, BOB)
    storage = tmp_path / "storage" / "runs" / "two-5678"
    storage.mkdir(parents=True)
    rows.with_column("part", ["train", "train"]).write_parquet(storage / "annotations.parquet")
    monkeypatch.setenv("BEHOLDER_STORAGE", (tmp_path / "storage").as_uri())
    before = {file for file in home.rglob("*") if file.is_file()}
    found = earlier(Manifest({"run": "two-5678"}), judged(ADA).select([]))
    assert found is not None
    assert {file for file in home.rglob("*") if file.is_file()} == before
    assert erase_everywhere(ADA)["runs"] == 2
    assert pq.read_table(storage / "annotations.parquet")["user_id"].to_pylist() == [BOB]
    assert not (home / "runs" / "two-5678").exists() and not grep(tmp_path / "storage", ADA.encode())


def test_while_another_holds_the_storage_its_runs_are_left_alone_and_that_is_said(home, run, tmp_path, monkeypatch):
    """Written without the lock, what the other erases would come back."""
    storage = tmp_path / "storage" / "runs" / "two-5678"
    storage.mkdir(parents=True)
    judged(ADA, BOB).write_parquet(storage / "annotations.parquet")
    before = (storage / "annotations.parquet").read_bytes()
    monkeypatch.setenv("BEHOLDER_STORAGE", (tmp_path / "storage").as_uri())
    monkeypatch.setattr(erasure, "PATIENCE_S", 0.3)
    with Store((tmp_path / "storage").as_uri()).writing("erasing"):
        with pytest.raises(RegistryError, match="another process is writing there, so erasing did not begin"):
            erase_everywhere(ADA)
        assert (storage / "annotations.parquet").read_bytes() == before
        assert pq.read_table(run / "forgetting" / "test.parquet")["user_id"].to_pylist() == [BOB]  # of this machine
    assert erase_everywhere(ADA)["runs"] == 1
    assert not grep(tmp_path / "storage", ADA.encode())


def test_rows_that_were_refused_are_theirs_too(home):
    file = home / "refused" / "mine.csv.refused.csv"
    file.parent.mkdir(parents=True)
    file.write_text(f'text,user_id,rude,reason\n"a, b",{ADA},9,no\n"c\nd",{BOB},9,no\n', newline="")
    erase_everywhere(ADA)
    assert file.read_text() == f'text,user_id,rude,reason\n"c\nd",{BOB},9,no\n'


def test_nothing_on_record_tells_who(home, run):
    first, second = erase_everywhere(ADA), erase_everywhere(ADA)
    assert first["record"] != second["record"]
    lines = [json.loads(line) for line in (home / "erasures.jsonl").read_text().splitlines()]
    assert [line["record"] for line in lines] == [first["record"], second["record"]]
    assert not {"salt", "fingerprint"} & set(lines[0])
    again = erase_everywhere("somebody else")
    assert {key: value for key, value in again.items() if key not in ("record", "when")} == {
        key: value for key, value in second.items() if key not in ("record", "when")
    }


def test_what_is_damaged_is_named_and_keeps_nothing_else_from_being_erased(home, run, fitted, tmp_path):
    store = Store()
    damaged, intact = (keep(bundle_of(fitted, tmp_path / name, seed=ord(name)), store) for name in "ab")
    manifest = home / "store" / "bundles" / f"{damaged}.json"
    was = manifest.read_text()
    manifest.write_text(was.replace('"seed": 97', '"seed": 98'))
    (home / "runs" / "broken-1" / "scores").mkdir(parents=True)
    (home / "runs" / "broken-1" / "annotations.parquet").write_bytes(b"PAR1 nonsense")
    client()  # whose first use makes its tables
    feedback = Feedback()
    for user in (ADA, BOB):
        feedback.put("a model", user, [("a text", {"rude": True})])
    done = CliRunner().invoke(app, ["registry", "erase", "--user", ADA])
    assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 1
    assert (
        done.stderr.startswith("error: not erased everywhere: ")
        and "And 1 more. Repair or delete that, then erase again." in done.stderr
    )
    assert ADA not in done.output
    kept = feedback.annotations("a model", Task(("rude",)))
    assert kept is not None and kept.users == [BOB]
    assert pq.read_table(run / "forgetting" / "test.parquet")["user_id"].to_pylist() == [BOB]
    assert json.loads((home / "erasures.jsonl").read_text())["left"] == 2
    with pytest.raises(RegistryError, match="not erased everywhere"):
        erase_everywhere(ADA)  # and again, as long as it is so
    manifest.write_text(was)
    (home / "runs" / "broken-1" / "annotations.parquet").unlink()
    assert erase_everywhere(ADA)["bundles"] == 1  # the intact one was done before
    assert not grep(home, ADA.encode()) and intact in store.bundles()


def test_an_erasure_is_proved_by_searching_every_place_it_reaches(home, run, fitted, tmp_path):
    store = Store()
    bundle = keep(bundle_of(fitted, tmp_path / "a"), store)
    shutil.copytree(tmp_path / "a", run / "bundle")
    client()
    Feedback().put("a model", ADA, [("a text", {"rude": True})])
    file = home / "refused" / "mine.csv.refused.csv"
    file.parent.mkdir(parents=True)
    file.write_text(f"text,user_id,rude,reason\na,{ADA},9,no\n", newline="")
    before = {each: each.read_bytes() for each in home.rglob("*") if each.is_file() and ".db" not in each.name}
    found = find_traces(ADA)
    assert not found.not_seen and found.bundles == 1 and found.runs == 1
    places = "\n".join(found.found)
    for place in (
        f"bundle {bundle}",
        f"store {store.uri}: no tombstone",
        "1 judgements and 0 enrolments",
        "feedback.db: no tombstone",
        "one-1234: forgetting/test.parquet",
        "one-1234: bundle/personal",
        "mine.csv.refused.csv",
    ):
        assert place in places, place
    assert "one-1234: annotations.parquet" not in places  # these are Bob's alone
    assert [file for file, was in before.items() if file.read_bytes() != was] == []  # nothing was changed

    told = CliRunner().invoke(app, ["registry", "erase", "--user", ADA, "--verify"])
    assert told.exit_code == 2 and ADA not in told.output
    assert f"error: they are in {len(found.found)} places. Erase them" in told.stderr
    erase_everywhere(ADA)
    told = CliRunner().invoke(app, ["registry", "erase", "--user", ADA, "--verify", "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout) == {"found": [], "not_seen": [], "bundles": 1, "runs": 1}
    assert (
        Feedback().annotations("a model", Task(("rude",))) is None
        and BOB in pq.read_table(run / "annotations.parquet")["user_id"].to_pylist()
    )


def test_what_could_not_be_searched_is_said_and_is_no_proof(home, run, fitted, tmp_path):
    store = Store()
    keep(bundle_of(fitted, tmp_path / "a"), store)
    erase_everywhere(ADA)
    assert find_traces(ADA).not_seen == ()
    (tmp_path / "left").write_bytes(b"of somebody")
    store.put(tmp_path / "left")
    assert "1 objects that no bundle names" in find_traces(ADA).not_seen[0]
    half = run / "scores" / f".cls.parquet.{dead()}.0a1b2c3d"
    half.write_bytes(ADA.encode())
    assert any("1 files are half-written" in line for line in find_traces(ADA).not_seen)
    erase_everywhere(ADA)
    assert not half.exists()
    manifest = next((home / "store" / "bundles").glob("*.json"))
    manifest.write_text("{}")
    (run / "annotations.parquet").write_bytes(b"PAR1 nonsense")
    found = find_traces(ADA)
    assert len(found.not_seen) == 2 and not found.found
    told = CliRunner().invoke(app, ["registry", "erase", "--user", ADA, "--verify"])
    assert told.exit_code == 2 and told.stderr.startswith("error: 2 places could not be searched.")
    for two in (["--verify", "--retrain-prior"], ["--verify", "--retrain"], ["--retrain", "--retrain-prior"]):
        refused = CliRunner().invoke(app, ["registry", "erase", "--user", ADA, *two])
        assert refused.exit_code == 2 and "give one of --verify" in refused.stderr


def test_models_beyond_the_first_page_of_mlflow_are_models(home):
    tracker = client()
    for number in range(106):
        tracker.create_registered_model(f"model-{number:03d}")
    assert registry.models() == [f"model-{number:03d}" for number in range(106)]

"""A store that has no conditional writes, as `gs://`: machines take turns by a row in the database of judgements.

Google's storage is not here: its file system is one of this machine's under its name.
"""

from __future__ import annotations

import threading
import time

import bundles
import pytest
from bundles import ADA, BOB, bundle_of, grep
from pyarrow import fs
from servers import postgres

from beholder.registry import maintenance as upkeep
from beholder.registry.blob_store import Store
from beholder.registry.bundle_store import keep, open_stored
from beholder.registry.feedback import Feedback
from beholder.registry.lease import Lease
from beholder.registry.rows import LeaseRow
from beholder.util.errors import RegistryError

fitted = bundles.fitted


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with postgres(tmp_path_factory.mktemp("postgres") / "log") as address:
        yield address.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes the store as a machine with a home folder of its own sees it."""
    for folder in (
        "",
        *(f"objects/{place:02x}" for place in range(256)),
        "bundles",
        "unfinished",
        "tombstones",
        "keys",
    ):
        (tmp_path / "bucket" / folder).mkdir(parents=True, exist_ok=True)  # a bucket needs none

    real = fs.FileSystem.from_uri

    class Google(fs.FileSystem):
        """Stands in for pyarrow's file systems."""

        @staticmethod
        def from_uri(uri: str) -> tuple[fs.FileSystem, str]:
            return (fs.LocalFileSystem(), str(tmp_path / "bucket")) if uri == "gs://bucket/kept" else real(uri)

    monkeypatch.setattr(fs, "FileSystem", Google)

    def made(name: str) -> Store:
        monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / name))
        store = Store("gs://bucket/kept")
        store.term = 1.5
        return store

    return made


def test_only_who_has_read_what_it_says_now_replaces_it(database):
    row = LeaseRow(Feedback(database), "gs://one/store")
    assert row.read("lease.json") is None and row.swap("lease.json", b"0", "other") is None
    first = row.swap("lease.json", b"1", None)
    assert first is not None and row.read("lease.json") == (b"1", first)
    assert row.swap("lease.json", b"2", None) is None  # there is one
    second = row.swap("lease.json", b"2", first)
    assert second not in (None, first)
    assert row.swap("lease.json", b"3", first) is None  # it was replaced
    assert row.read("lease.json") == (b"2", second)
    assert LeaseRow(Feedback(database), "gs://another/store").read("lease.json") is None


def test_eight_that_count_lose_no_count(database):
    counted = [0]

    def count():
        with Lease(LeaseRow(Feedback(database), "gs://counted"), "gs://counted", 5).held("counting", 60):
            found = counted[0]
            time.sleep(0.02)
            counted[0] = found + 1

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted == [8]


def test_two_machines_take_turns_and_erase_one_after_the_other(fitted, machine, tmp_path, database, monkeypatch):
    monkeypatch.setenv("BEHOLDER_FEEDBACK", database)
    one, other = machine("one"), machine("other")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)
    refused = pytest.raises(RegistryError, match="another process is publishing there, so erasing did not begin")
    with one.writing("publishing"), refused, other.writing("erasing", 0.5):
        pass
    done = []
    threads = [
        threading.Thread(target=lambda user=user, store=store: done.append(upkeep.erase(user, store)))
        for user, store in ((ADA, one), (BOB, other))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.problems for each in done] == [(), ()]
    assert not grep(tmp_path / "bucket", ADA.encode(), BOB.encode())
    assert open_stored(kept, machine("third")).predict(["hello"] * 2, [ADA, BOB]).routes == ["cls"] * 2
    assert upkeep.verify(one).problems == ()


def test_without_a_database_that_others_reach_the_lock_is_of_one_machine(machine):
    one, other = machine("one"), machine("other")
    with one.writing("publishing"), other.writing("erasing", 0.5):
        pass
    refused = pytest.raises(RegistryError, match="another process is writing there, so erasing did not begin")
    with one.writing("publishing"), refused, machine("one").writing("erasing", 0.5):
        pass


def test_a_database_that_is_away_is_said_and_nothing_begins(machine, monkeypatch):
    monkeypatch.setenv("BEHOLDER_FEEDBACK", "postgresql+psycopg://nobody:secret@127.0.0.1:9/none")
    begun = []
    refused = pytest.raises(RegistryError, match="it has no lock of its own, and postgresql")
    with refused as told, machine("one").writing("erasing", 0.5):
        begun.append(True)
    assert not begun and "secret" not in str(told.value) and len(str(told.value).splitlines()) == 1


def test_where_nobody_can_be_kept_from_writing_what_was_left_half_made_stays_until_it_is_old(
    fitted, machine, tmp_path, monkeypatch
):
    """A writer that stands still may still name it: deleted, the bundle would be lost to everybody."""
    one, other = machine("one"), machine("other")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)
    swap, asleep = one.place.swap, []

    def sleeps(name, data, tag):
        if name.startswith("bundles/") and not asleep:
            asleep.append(upkeep.gc(other))  # by a lock of its own machine
        return swap(name, data, tag)

    monkeypatch.setattr(one.place, "swap", sleeps)
    assert upkeep.erase(BOB, one).problems == () and asleep == [0]
    assert upkeep.verify(other).problems == ()
    assert open_stored(kept, machine("third")).predict(["hello"] * 2, [ADA, BOB]).routes == ["cls-u", "cls"]

"""One bucket, two machines: they wait for each other, and neither can break what the other writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import bundles
import machines
import numpy as np
import pytest
from bundles import ADA, BOB, bundle_of, grep, weights_of
from machines import TERM_S, everything

from beholder.registry import bundle_store as stored
from beholder.registry import lease as leases
from beholder.registry import maintenance as upkeep
from beholder.registry.blob_store import ChangedError
from beholder.registry.bundle_store import keep, open_stored
from beholder.registry.cache import evict
from beholder.registry.lease import Lease
from beholder.registry.places import Folder
from beholder.util.errors import RegistryError

fitted, bucket, machine = bundles.fitted, machines.bucket, machines.machine
CLEO = bundles.NAMES["u2"]


@pytest.fixture
def place(machine):
    return machine("one").place.swaps


@pytest.mark.parametrize("kind", ["bucket", "folder"])
def test_only_who_has_read_what_it_says_now_replaces_a_file(place, tmp_path, kind):
    place = place if kind == "bucket" else Folder(tmp_path / "folder")
    assert place.read("a.json") is None and place.swap("a.json", b"0", "other") is None
    first = place.swap("a.json", b"1", None)
    assert first is not None and place.read("a.json") == (b"1", first)
    assert place.swap("a.json", b"2", None) is None  # there is one
    second = place.swap("a.json", b"2", first)
    assert second not in (None, first)
    assert place.swap("a.json", b"3", first) is None  # it was replaced
    assert place.read("a.json") == (b"2", second)


def test_a_write_whose_answer_was_lost_is_known_by_its_content(machine, monkeypatch):
    """The client asks again when no answer comes; the second time it is refused, for what it wrote the first time."""
    place = machine("one").place.swaps
    put = place._client.put_object

    def twice(**asked):
        put(**asked)
        return put(**asked)

    monkeypatch.setattr(place._client, "put_object", twice)
    first = place.swap("a.json", b"mine", None)
    assert first is not None and place.swap("a.json", b"mine too", first) is not None
    assert place.swap("a.json", b"late", first) is None and place.read("a.json")[0] == b"mine too"
    with Lease(place, "here", 1.0).held("writing", 0) as hold:
        time.sleep(1.5)
        hold.check()


def test_one_holds_it_and_the_other_waits_or_is_refused(place):
    one, other = (Lease(place, "here", TERM_S) for _ in range(2))
    fences = []
    with one.held("publishing", 1) as hold:
        fences.append(hold.fence)
        began = time.monotonic()
        refused = pytest.raises(RegistryError, match="another process is publishing there, so erasing did not begin")
        with refused, other.held("erasing", 2 * TERM_S):  # which is renewed all the time
            pass
        assert time.monotonic() - began >= 2 * TERM_S
        hold.check()
    with other.held("erasing", 0) as hold:  # given back at once
        fences.append(hold.fence)
    assert fences == [1, 2]


def test_eight_that_count_lose_no_count(place):
    """Each reads a number, waits, and writes one more: under a lease none is lost."""
    place.swap("count.json", b"0", None)

    def count():
        with Lease(place, "here", 5).held("counting", 60):
            data, _ = place.read("count.json")
            time.sleep(0.02)
            assert place.swap("count.json", str(int(data) + 1).encode(), place.read("count.json")[1])

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place.read("count.json")[0] == b"8"


@pytest.mark.parametrize("written", [b"", b"nonsense", b"[]", b'{"holder": "x", "fence": "y"}'])
def test_a_damaged_lease_runs_out(place, written):
    place.swap(leases.FILE, written, None)
    with Lease(place, "here", 0.4).held("writing", 5) as hold:
        assert hold.fence >= 1


@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lease_of_one_that_died_or_stands_still_runs_out(machine, tmp_path, ends):
    store = machine("one")
    code = (
        "import sys, time\nfrom beholder.registry.blob_store import Store\nstore = Store(sys.argv[1])\n"
        f"store.term = {TERM_S}\nwith store.writing('erasing'):\n    print('held', flush=True)\n    time.sleep(2)\n"
        "    while True:\n        time.sleep(0.1)\n        store.delete_object('0' * 64)\n"
    )
    command = [sys.executable, "-c", code, store.uri]
    surroundings = {**os.environ, "BEHOLDER_HOME": str(tmp_path / "other")}
    with subprocess.Popen(
        command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stderr is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RegistryError, match="another process is erasing there"), store.writing("publishing", 0.5):
            pass
        other.send_signal(ends)
        with store.writing("publishing", 20):
            if ends == signal.SIGSTOP:
                other.send_signal(signal.SIGCONT)  # it wakes up, and knows by its own clock that it was held up
                _, said = other.communicate(timeout=60)
                assert "was held up for so long that another process may be writing there" in said
        other.kill()


def test_two_erasures_at_once_leave_the_champion_whole(fitted, machine, tmp_path, bucket):
    """The findings' own schedule: one is about to write its manifest when the other begins."""
    one = machine("one")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)
    other = machine("other")
    before = open_stored(kept, one)
    gone = [needle for user in (ADA, BOB) for needle in (user.encode(), *weights_of(before, user))]
    rows = fitted[1]
    mine = rows.user_ids == CLEO
    ask = list(rows.texts[mine]), list(rows.user_ids[mine])
    expected = before.predict(*ask).scores
    assert any(needle in data for needle in gone for data in everything(bucket, tmp_path.name).values())
    results, swap = [], one.place.swaps.swap
    second = threading.Thread(target=lambda: results.append(upkeep.erase(BOB, other)))

    def late(name, data, tag):
        if name.startswith("bundles/") and not second.ident:
            second.start()
            time.sleep(2 * TERM_S)
        return swap(name, data, tag)

    one.place.swaps.swap = late
    results.append(upkeep.erase(ADA, one))
    second.join()
    assert [(each.bundles, each.problems) for each in results] == [(1, ())] * 2
    for store in (one, other, machine("third")):
        found = open_stored(kept, store)
        np.testing.assert_array_equal(found.predict(*ask).scores, expected)
        assert found.predict(["hello"] * 2, [ADA, BOB]).routes == ["cls"] * 2
        assert upkeep.verify(store).problems == ()
    left = everything(bucket, tmp_path.name)
    assert not [key for key, data in left.items() for needle in gone if needle in data]
    assert not [key for key in left if "/unfinished/" in key and not key.endswith("/")]


def test_one_that_was_held_up_past_its_lease_writes_nothing_more(fitted, machine, tmp_path):
    """It stands still before its manifest; another erases meanwhile; it wakes up, and is told to do it again."""
    one = machine("one")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)
    other, erased, asleep = machine("other"), [], []
    swap = one.place.swaps.swap

    def stopped(name, data, tag):
        if asleep and name == leases.FILE:
            raise OSError("it does not renew while it sleeps")
        if name.startswith("bundles/") and not erased:
            asleep.append(True)
            erased.append(upkeep.erase(BOB, other))
            asleep.clear()
        return swap(name, data, tag)

    one.place.swaps.swap = stopped
    found = []
    try:
        found = list(upkeep.erase(ADA, one).problems)
    except RegistryError as error:
        found = [str(error)]
    assert erased[0].bundles == 1 and found and ADA not in str(found)
    again = machine("third")
    (unfinished,) = upkeep.verify(again).problems  # all is whole, and Ada is still to be erased
    assert "1 person was erased" in unfinished
    assert open_stored(kept, again).predict(["hello"], [BOB]).routes == ["cls"]
    one.place.swaps.swap = swap
    assert upkeep.erase(ADA, one).problems == ()
    assert open_stored(kept, again).predict(["hello"] * 2, [ADA, BOB]).routes == ["cls"] * 2


def test_an_erasure_that_died_is_finished_however_young_its_remains(fitted, machine, tmp_path, bucket):
    one = machine("one")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)
    gone = [ADA.encode(), *weights_of(open_stored(kept, one), ADA)]
    delete = one.place.delete

    def dies(name):
        raise KeyboardInterrupt

    one.place.delete = dies
    with pytest.raises(KeyboardInterrupt):
        upkeep.erase(ADA, one)
    one.place.delete = delete
    upkeep.erase(ADA, machine("other"))
    left = everything(bucket, tmp_path.name)
    assert not [key for key, data in left.items() for needle in gone if needle in data]


def test_what_another_machine_erased_leaves_this_ones_cache_at_the_next_look(fitted, machine, tmp_path):
    one, other = machine("one"), machine("other")
    first, second = (keep(bundle_of(fitted, tmp_path / name, seed=place), one) for place, name in enumerate("ab"))
    opened = open_stored(first, other)
    gone = [ADA.encode(), *weights_of(opened, ADA)]
    assert weights_of(opened, BOB) and grep(tmp_path / "other", *gone)
    upkeep.erase(ADA, one)
    assert grep(tmp_path / "other", *gone)  # nobody has told it
    again = open_stored(first, other)
    assert not grep(tmp_path / "other", *gone) and not grep(tmp_path / "one", *gone)
    assert again.predict(["hello"] * 2, [ADA, BOB]).routes == ["cls", "cls-u"]
    open_stored(second, other)
    with one.writing("deleting"):
        one.delete_manifest(second)
    fetched = len(list((tmp_path / "other" / "fetched").rglob("objects/*/*")))
    upkeep.gc(other)  # of another bundle that is no more, too
    left = {file.name for file in (tmp_path / "other" / "fetched").rglob("objects/*/*")}
    assert left == other.named() & left and 0 < len(left) <= fetched


def test_a_bundle_that_somebody_is_erased_from_while_it_is_opened_is_opened_without_them(
    fitted, machine, tmp_path, monkeypatch
):
    """Another process of the same home sees the erasure first, and what it evicts this one has just found."""
    one, other = machine("one"), machine("other")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), other)
    load, erased = stored.load_bundle, []

    def late(*what):
        if not erased:
            erased.append(upkeep.erase(ADA, other))
            evict(one)
        return load(*what)

    monkeypatch.setattr(stored, "load_bundle", late)
    opened = open_stored(kept, one)
    assert erased[0].bundles == 1 and opened.predict(["hello"] * 2, [ADA, BOB]).routes == ["cls", "cls-u"]
    monkeypatch.setattr(stored, "load_bundle", lambda *what: (_ for _ in ()).throw(FileNotFoundError(2, "gone")))
    with pytest.raises(RegistryError, match="was deleted while it was opened"):
        open_stored(kept, one)


def test_what_was_fetched_is_bounded_and_what_was_not_used_for_longest_goes_first(
    fitted, machine, tmp_path, monkeypatch
):
    store = machine("one")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), store)
    expected = open_stored(kept, store).predict(["hello"] * 2, [ADA, BOB]).scores

    def fetched() -> dict[str, int]:
        return {file.name: file.stat().st_size for file in (tmp_path / "one" / "fetched").rglob("objects/*/*")}

    def unused_for(hours: float, names) -> None:
        when = time.time() - 3_600 * hours
        for file in (tmp_path / "one" / "fetched").rglob("objects/*/*"):
            if file.name in names:
                os.utime(file, (when, when))

    monkeypatch.setenv("BEHOLDER_FETCHED_GB", "0")
    before = fetched()
    assert evict(store) == 0 and fetched() == before  # somebody may be opening it
    oldest = set(sorted(before)[::2])
    unused_for(25, before)
    unused_for(30, oldest)
    rest = sum(size for name, size in before.items() if name not in oldest)
    monkeypatch.setenv("BEHOLDER_FETCHED_GB", str((rest + 1) / 1e9))
    assert evict(store) == len(oldest) > 1
    assert set(fetched()) == set(before) - oldest
    monkeypatch.setenv("BEHOLDER_FETCHED_GB", "0")
    used = sorted(fetched())[0]
    store.get(used)  # is a use
    (folder,) = (tmp_path / "one" / "fetched").glob("*/objects")
    half = [folder / "ab" / f".{place}.part" for place in "ab"]  # of downloads: one died, one is under way
    for file in half:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half")
    unused_for(25, {half[0].name})
    evict(store)
    assert set(fetched()) == {used, half[1].name}
    unused_for(25, {used})
    evict(store)
    assert set(fetched()) == {half[1].name}
    half[1].unlink()
    again = open_stored(kept, store)  # it is fetched again
    np.testing.assert_array_equal(again.predict(["hello"] * 2, [ADA, BOB]).scores, expected)
    with store.writing("deleting"):
        store.delete_manifest(kept)
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("BEHOLDER_FETCHED_GB", wrong)
        with pytest.raises(RegistryError, match=f"BEHOLDER_FETCHED_GB={wrong}: not a number of gigabytes"):
            evict(store)
        assert fetched() == {}  # what no bundle names goes all the same


def test_a_manifest_is_replaced_only_by_who_read_it(fitted, machine, tmp_path):
    one, other = machine("one"), machine("other")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)
    read = one.manifest(kept)
    other.write_manifest(kept, {**read, "seed": 7}, instead_of=read)
    with pytest.raises(ChangedError, match=f"bundle {kept} was changed by another process meanwhile"):
        one.write_manifest(kept, {**read, "seed": 8}, instead_of=read)
    with pytest.raises(ChangedError):
        one.write_manifest(kept, read)  # as if it were new
    assert one.manifest(kept)["seed"] == 7


def test_threads_that_fetch_one_object_all_get_it_whole(machine, tmp_path):
    """An engine answers in several threads, all of which may be the first to ask for a shard."""
    one, digests = machine("one"), []
    for number in range(3):
        (tmp_path / "file").write_bytes(os.urandom(4_000_000) + bytes([number]))
        digests.append(one.put(tmp_path / "file"))
    other, found = machine("other"), []

    def fetch(digest):
        try:
            found.append(other.checked(digest).name == digest)
        except BaseException as error:
            found.append(error)

    for digest in digests:
        threads = [threading.Thread(target=fetch, args=(digest,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [True] * 24
    assert not [file for file in (tmp_path / "other").rglob(".*") if file.is_file() and file.name != ".lock"]


def test_what_is_young_is_not_collected_from_a_bucket(fitted, machine, tmp_path):
    one = machine("one")
    (tmp_path / "file").write_bytes(b"of a publishing whose manifest is still to come")
    digest = one.put(tmp_path / "file")
    assert upkeep.gc(machine("other")) == 0 and digest in one.objects()
    time.sleep(1.1)
    assert upkeep.gc(one, older_than=1.0) == 1 and digest not in one.objects()


def test_one_damaged_bundle_keeps_nobody_from_being_erased_from_the_rest(fitted, machine, tmp_path, bucket):
    one = machine("one")
    first, second, third = (
        keep(bundle_of(fitted, tmp_path / name, seed=place), one) for place, name in enumerate("abc")
    )
    _, client = bucket
    key = f"{tmp_path.name}/bundles/{first}.json"
    client.put_object(Bucket="shared", Key=key, Body=b"{}")
    manifest = one.manifest(second)
    client.put_object(
        Bucket="shared",
        Key=f"{tmp_path.name}/bundles/{second}.json",
        Body=json.dumps({**manifest, "format": 99, "sha256": "0"}).encode(),
    )
    found = upkeep.erase(ADA, machine("other"))
    assert found.bundles == 1 and len(found.problems) == 2 and ADA not in str(found.problems)
    assert open_stored(third, one).predict(["hello"], [ADA]).routes == ["cls"]
    with pytest.raises(RegistryError):
        upkeep.gc(one)  # nobody knows what those two name

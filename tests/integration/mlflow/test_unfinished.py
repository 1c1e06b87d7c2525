"""Writers that die, or stand still, in the midst of a change: what they wrote of somebody goes with them."""

from __future__ import annotations

import contextlib
import json
import time

import bundles
import machines
import pytest
from bundles import ADA, BOB, bundle_of, weights_of
from machines import TERM_S, everything

from beholder.registry import blob_store as stores
from beholder.registry import lease as leases
from beholder.registry import maintenance as upkeep
from beholder.registry.blob_store import ChangedError, Store
from beholder.registry.bundle_store import keep, open_stored
from beholder.registry.cache import evict
from beholder.registry.repair import repair
from beholder.util.errors import RegistryError

fitted, bucket, machine = bundles.fitted, machines.bucket, machines.machine
CLEO = bundles.NAMES["u2"]


class Died(BaseException):
    """As a process that is killed: nothing of it cleans up."""


def dies_before_its_manifest(store: Store) -> None:
    """The store's process has written its objects when it dies."""
    swap = store.place.swaps.swap

    def dying(name, data, tag):
        if name.startswith("bundles/"):
            raise Died
        return swap(name, data, tag)

    store.place.swaps.swap = dying


def sleeps(store: Store, before: str, meanwhile) -> None:
    """The store's process stands still before its first write to a folder, or first `delete` in it, for longer than its
    lease's term.
    """
    swap, write, delete = store.place.swaps.swap, store.place.write, store.place.delete_there
    state = {"slept": False, "asleep": False}

    def sleep(name):
        if name.startswith(before) and not state["slept"]:
            state.update(slept=True, asleep=True)
            meanwhile()
            state["asleep"] = False

    def swapping(name, data, tag):
        if state["asleep"] and name == leases.FILE:
            raise OSError("it does not renew while it sleeps")
        sleep(name)
        return swap(name, data, tag)

    def writing(name, source):
        sleep(name)
        write(name, source)

    def deleting(name):
        sleep(f"delete {name}")
        return delete(name)

    store.place.swaps.swap, store.place.write, store.place.delete_there = swapping, writing, deleting


def remains(bucket, prefix: str, needles: list[bytes]) -> list[str]:
    return [key for key, data in everything(bucket, prefix).items() if any(needle in data for needle in needles)]


def erased_everywhere(bucket, tmp_path, kept: str, needles: list[bytes], machine) -> None:
    """Nothing of Ada is left, and the bundle serves everybody else."""
    assert remains(bucket, tmp_path.name, needles) == []
    again = open_stored(kept, machine("third"))
    assert again.predict(["hello"] * 2, [ADA, CLEO]).routes == ["cls", "cls-u"]
    found = upkeep.verify(machine("third"))
    assert (found.problems, found.orphans) == ((), 0) and machine("third").bundles() == [kept]


def test_what_a_publisher_that_died_wrote_of_somebody_goes_with_them_however_young(fitted, machine, tmp_path, bucket):
    one, other = machine("one"), machine("other")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), other)
    gone = [ADA.encode(), *weights_of(open_stored(kept, other), ADA)]
    dies_before_its_manifest(one)
    before = len(remains(bucket, tmp_path.name, gone))
    with pytest.raises(Died):
        keep(bundle_of(fitted, tmp_path / "second", "cls-p"), one)
    assert len(remains(bucket, tmp_path.name, gone)) > before
    assert upkeep.erase(ADA, other).problems == ()
    erased_everywhere(bucket, tmp_path, kept, gone, machine)


def test_what_an_erasure_of_another_that_died_wrote_goes_too_and_can_be_done_again(fitted, machine, tmp_path, bucket):
    one, other = machine("one"), machine("other")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)
    gone = [ADA.encode(), *weights_of(open_stored(kept, one), ADA)]
    before = len(remains(bucket, tmp_path.name, gone))
    dies_before_its_manifest(one)
    with pytest.raises(Died):
        upkeep.erase(BOB, one)  # the bank without Bob has Ada in it
    assert len(remains(bucket, tmp_path.name, gone)) > before
    assert upkeep.erase(ADA, other).problems == ()
    assert remains(bucket, tmp_path.name, gone) == []
    assert upkeep.erase(BOB, other).problems == ()
    erased_everywhere(bucket, tmp_path, kept, gone, machine)


@pytest.mark.parametrize("wakes_before", ["objects/", "bundles/"])
def test_a_publisher_that_wakes_up_after_an_erasure_publishes_nothing(fitted, machine, tmp_path, bucket, wakes_before):
    """It stands still before an object, or before its manifest; somebody in it is erased; it wakes up."""
    one, other = machine("one"), machine("other")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), other)
    gone = [ADA.encode(), *weights_of(open_stored(kept, other), ADA)]
    sleeps(one, wakes_before, lambda: upkeep.erase(ADA, other))
    with pytest.raises(RegistryError, match=r"held up for so long|changed by another process"):
        keep(bundle_of(fitted, tmp_path / "second", "cls-p"), one)
    erased_everywhere(bucket, tmp_path, kept, gone, machine)


@pytest.mark.parametrize("who", [ADA, BOB])
def test_an_erasure_that_wakes_up_after_another_names_no_object_that_is_gone(fitted, machine, tmp_path, bucket, who):
    """Of another person, and of the same: the bundle is whole whichever it is, and both are gone after a second try."""
    one, other = machine("one"), machine("other")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)
    gone = [ADA.encode(), *weights_of(open_stored(kept, one), ADA)]
    sleeps(one, "bundles/", lambda: upkeep.erase(ADA, other))
    found = upkeep.erase(who, one)
    assert found.problems and not any(user in str(found.problems) for user in (ADA, BOB))
    assert open_stored(kept, machine("third")).predict(["hello"], [CLEO]).routes == ["cls-u"]
    assert upkeep.erase(who, one).problems == ()
    erased_everywhere(bucket, tmp_path, kept, gone, machine)


def test_a_writer_that_stands_still_is_kept_from_writing_even_where_nobody_is_erased_from_its_bundle(
    fitted, machine, tmp_path
):
    """`gc` deletes what it wrote: had it not been kept from naming that, its bundle would lack files."""
    one, other = machine("one"), machine("other")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)
    before = one.seal(kept)
    sleeps(one, "bundles/", lambda: upkeep.gc(other))
    assert upkeep.erase(BOB, one).problems
    found = upkeep.verify(other)
    assert other.seal(kept) != before and found.orphans == 0 and len(found.problems) == 1  # Bob is still to be erased
    assert upkeep.erase(BOB, one).problems == () == upkeep.verify(other).problems


def test_records_are_taken_down(fitted, machine, tmp_path, bucket, monkeypatch):
    """Of changes that came to their end at once, of others after a day."""
    one = machine("one")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)

    def noted() -> list[str]:
        return [key for key in everything(bucket, tmp_path.name) if "/unfinished/" in key and not key.endswith("/")]

    assert noted() == []
    swap = one.place.swaps.swap
    dies_before_its_manifest(one)
    with pytest.raises(Died):
        keep(bundle_of(fitted, tmp_path / "second", seed=4), one)
    one.place.swaps.swap = swap
    assert len(noted()) == 1
    upkeep.gc(one)
    empty = [key for key, data in everything(bucket, tmp_path.name).items() if "/bundles/" in key and not data]
    assert len(noted()) == 1 == len([key for key in empty if key.endswith(".json")]) and one.bundles() == [kept]
    upkeep.erase(ADA, one)
    assert len(noted()) == 1
    monkeypatch.setattr(stores, "GRACE_S", -60.0)
    upkeep.gc(one)
    assert noted() == [] and len(everything(bucket, tmp_path.name)) > 3
    assert upkeep.verify(one).problems == () and one.bundles() == [kept]


def test_a_repair_that_wakes_up_after_an_erasure_brings_nothing_back(fitted, machine, tmp_path, bucket):
    one, other = machine("one"), machine("other")
    source = bundle_of(fitted, tmp_path / "bundle")
    kept = keep(source, other)
    gone = [ADA.encode(), *weights_of(open_stored(kept, other), ADA)]
    for key, data in everything(bucket, tmp_path.name).items():
        if "/objects/" in key and any(needle in data for needle in gone):
            bucket[1].put_object(Bucket="shared", Key=key, Body=b"damaged")
    sleeps(one, "objects/", lambda: (repair(other, [source]), upkeep.erase(ADA, other)))
    with contextlib.suppress(RegistryError):
        repair(one, [source])
    erased_everywhere(bucket, tmp_path, kept, gone, machine)


@pytest.mark.parametrize("wakes_before", ["unfinished/", "objects/", "bundles/"])
def test_a_writer_whose_clock_stood_still_with_it_publishes_nothing_of_somebody_erased(
    fitted, machine, tmp_path, bucket, wakes_before
):
    """As on a machine that was suspended: it does not know that it lost its lease, and continues."""
    one, other = machine("one"), machine("other")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), other)
    gone = [ADA.encode(), *weights_of(open_stored(kept, other), ADA)]
    one.term = 1000.0
    sleeps(one, wakes_before, lambda: upkeep.erase(ADA, other))
    with pytest.raises(ChangedError, match=r"1 person was erased|changed by another process"):
        keep(bundle_of(fitted, tmp_path / "second", "cls-p"), one)
    erased_everywhere(bucket, tmp_path, kept, gone, machine)


@pytest.mark.parametrize("term", [TERM_S, 1000.0])
def test_a_collection_that_wakes_up_takes_nothing_from_a_bundle_that_was_made_meanwhile(
    fitted, machine, tmp_path, term
):
    """A publisher died, `gc` is about to delete what it wrote, stands still, and the same is published once more.

    With a long term its clock stands still, too: it does not know that it lost its lease.
    """
    one, other = machine("one"), machine("other")
    source, dying = bundle_of(fitted, tmp_path / "bundle"), machine("third")
    dies_before_its_manifest(dying)
    with pytest.raises(Died):
        keep(source, dying)
    published = []
    one.term = term
    sleeps(one, "delete objects/", lambda: published.append(keep(source, other)))
    with contextlib.suppress(RegistryError):
        upkeep.gc(one)
    assert published and upkeep.verify(other).problems == ()
    assert open_stored(published[0], machine("fourth")).predict(["hello"], [CLEO]).routes == ["cls-u"]


def test_what_was_uploaded_in_part_goes_and_is_no_secret(fitted, machine, tmp_path, bucket):
    one, client = machine("one"), bucket[1]
    keep(bundle_of(fitted, tmp_path / "bundle"), one)
    upkeep.erase(ADA, one)
    where = {"Bucket": "shared", "Key": f"{tmp_path.name}/objects/ab/{'ab' * 32}"}
    upload = client.create_multipart_upload(**where)["UploadId"]
    client.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"of somebody")
    assert any("1 objects are half-written" in line for line in upkeep.traces(ADA, one).not_seen)
    upkeep.erase(ADA, one)
    assert upkeep.traces(ADA, one).not_seen == ()
    assert not client.list_multipart_uploads(Bucket="shared").get("Uploads")


def test_what_an_erasure_of_an_earlier_version_noted_is_finished(fitted, machine, tmp_path, bucket):
    one, client = machine("one"), bucket[1]
    keep(bundle_of(fitted, tmp_path / "bundle"), one)
    (tmp_path / "old").write_bytes(b"a bank with Ada in it")
    digest = one.put(tmp_path / "old")
    noted = f"{tmp_path.name}/retired/{'0' * 64}.json"
    client.put_object(Bucket="shared", Key=noted, Body=json.dumps([digest]).encode())
    client.put_object(Bucket="shared", Key=f"{tmp_path.name}/retired/.x.json.77.0a1b", Body=b"")  # half-written
    assert upkeep.erase(ADA, one).problems == ()
    left = everything(bucket, tmp_path.name)
    assert not [key for key in left if digest in key or ("/retired/" in key and not key.endswith("/"))]


@pytest.mark.parametrize("written", [b"", b"[]", b"{}", b'{"state": "begun", "objects": []}', b'{"objects": 3}'])
def test_a_damaged_record_is_named_and_nothing_is_deleted(fitted, machine, tmp_path, bucket, written):
    one, client = machine("one"), bucket[1]
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)
    key = f"{tmp_path.name}/unfinished/odd.json"
    client.put_object(Bucket="shared", Key=key, Body=written)
    with pytest.raises(RegistryError, match=r"unfinished/odd\.json is not a record of a change.*Delete it") as refused:
        upkeep.gc(one)
    assert len(str(refused.value).splitlines()) == 1
    (problem,) = upkeep.erase(ADA, one).problems
    assert "unfinished/odd.json" in problem and ADA not in problem
    client.delete_object(Bucket="shared", Key=key)
    assert upkeep.erase(ADA, one).problems == () == upkeep.verify(one).problems
    assert open_stored(kept, one).predict(["hello"], [ADA]).routes == ["cls"]


def test_what_was_fetched_and_evicted_in_between_is_deleted_all_the_same(fitted, machine, tmp_path, bucket):
    """A server of the same home opens the new version while an erasure deletes what the old one had."""
    one = machine("one")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)
    gone = [ADA.encode(), *weights_of(open_stored(kept, one), ADA)]
    local = one.place.local

    def evicted(name, again=False):
        file = local(name, again)
        if name.startswith("objects/"):
            evict(one)
        return file

    delete = one.delete_object

    def deleting(digest, young=False):
        one.place.local = evicted
        try:
            return delete(digest, young)
        finally:
            one.place.local = local

    one.delete_object = deleting
    found = upkeep.erase(ADA, one)
    assert found.objects > 0 and found.problems == ()
    erased_everywhere(bucket, tmp_path, kept, gone, machine)


@pytest.mark.parametrize("code", ["AccessDenied", "NotImplemented", "NoSuchKey"])
def test_a_bucket_that_does_not_list_uploads_keeps_nobody_from_being_erased(fitted, machine, tmp_path, code):
    from botocore.exceptions import ClientError

    one = machine("one")
    keep(bundle_of(fitted, tmp_path / "bundle"), one)

    class Refuses:
        def paginate(self, **asked):
            raise ClientError({"Error": {"Code": code}}, "ListMultipartUploads")

    client = one.place.swaps._client
    ask = client.get_paginator
    client.get_paginator = lambda name: Refuses() if name == "list_multipart_uploads" else ask(name)
    assert upkeep.erase(ADA, one).problems == () and upkeep.gc(one) == 0
    said = upkeep.traces(ADA, one).not_seen
    if code == "AccessDenied":
        assert len(said) == 1 and "Grant s3:ListBucketMultipartUploads and s3:AbortMultipartUpload" in said[0]
    else:
        assert said == ()


def test_old_records_are_taken_down_by_the_clock_of_the_bucket(fitted, machine, tmp_path, bucket, monkeypatch):
    one = machine("one")
    kept = keep(bundle_of(fitted, tmp_path / "bundle"), one)
    dies_before_its_manifest(dying := machine("third"))
    with pytest.raises(Died):
        keep(bundle_of(fitted, tmp_path / "second", seed=4), dying)
    monkeypatch.setattr(stores, "GRACE_S", 3.0)
    monkeypatch.setattr(time, "time", lambda: 4e9)  # this machine's clock is wrong by decades
    upkeep.gc(one, older_than=0.0)

    def left() -> list[str]:
        there = everything(bucket, tmp_path.name).items()
        return [key for key, data in there if ("/unfinished/" in key and data) or ("/bundles/" in key and not data)]

    assert len([key for key in left() if not key.endswith("/")]) == 2
    time.sleep(4)
    upkeep.gc(one, older_than=0.0)
    assert [key for key in left() if not key.endswith("/")] == [] and one.bundles() == [kept]

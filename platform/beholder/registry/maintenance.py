"""Keeping a store whole and clean: check it, collect what nobody needs, erase a person from every bundle in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder.data.annotations import Annotations
from beholder.methods import erase_saved
from beholder.registry.blob_store import GRACE_S, Store
from beholder.registry.bundle import PARTS, USERS_FILE, checked_format
from beholder.registry.bundle_store import files_of, put_files, unfolded
from beholder.registry.cache import evict
from beholder.registry.manifest import Manifest
from beholder.registry.memory import forget
from beholder.registry.places import Folder
from beholder.registry.remainder import STILL_HOLDS, Share, add, share_of
from beholder.util.atomic import atomic_write
from beholder.util.errors import BeholderError, RegistryError, first_line
from beholder.util.tombstones import erased_people


@dataclass(frozen=True)
class StoreCheck:
    """What `verify` found.

    Attributes:
        bundles, files: that are there and whole.
        orphans: objects no bundle names: left by what died, or what was erased or deleted; `gc` removes them.
        problems: a line each.
    """

    bundles: int
    files: int
    orphans: int
    problems: tuple[str, ...]


def verify(store: Store) -> StoreCheck:
    """Compare every file of every bundle with its checksum; of a store elsewhere, each is fetched again."""
    problems: list[str] = []
    named: set[str] = set()
    bundles = 0
    for bundle in store.bundles():
        try:
            manifest = checked_format(store.manifest(bundle), f"{store.uri}, bundle {bundle}")
        except RegistryError as error:
            problems.append(str(error))
            continue
        bundles += 1
        named |= manifest.digests
        problems += _returned(bundle, manifest, store)
    whole_files = 0
    for digest in sorted(named):
        try:
            store.checked(digest, again=True)
            whole_files += 1
        except RegistryError as error:
            problems.append(str(error))
    return StoreCheck(bundles, whole_files, len(set(store.objects()) - named), tuple(problems))


def _returned(bundle: str, manifest: Manifest, store: Store) -> list[str]:
    """A line where a bundle has somebody who was erased, as one has that was restored from a copy."""
    try:
        file = store.checked(manifest.files[USERS_FILE]["sha256"])
    except (KeyError, RegistryError):  # it knows nobody, or the table is damaged: reported with the other files
        return []
    try:
        erased = store.erased(pq.read_table(file, columns=["user_id"])["user_id"].to_pylist())
    except RegistryError as error:
        return [str(error)]
    if not erased:
        return []
    return [f"store {store.uri}: in bundle {bundle}, {erased_people(len(erased))} from the store. Erase them again."]


def gc(store: Store, older_than: float | None = None) -> int:
    """Delete the objects that no bundle names; returns how many. No bundle can be published meanwhile.

    Args:
        store: where.
        older_than: seconds; what came later stays. By default `GRACE_S`, and 0 in a folder, whose lock no process can
            lose while it lives.

    Raises:
        RegistryError: a manifest is damaged, so that nobody knows what it names: nothing was deleted.
    """
    with store.writing("collecting"):
        evict(store)
        return _collect(store, _grace(store) if older_than is None else older_than)


@dataclass(frozen=True)
class Erased:
    """What an erasure deleted: nothing in it identifies the person.

    Attributes:
        bundles: rewritten without the person.
        objects: deleted, those among them that held something of theirs.
        shares: bundle -> what its prior still holds of them, where it holds anything or that is not recorded.
        problems: a line for each bundle that may still hold something of theirs, as it is damaged or could not be
            written.
    """

    bundles: int
    objects: int
    shares: Mapping[str, Share]
    problems: tuple[str, ...]


def erase(user: str, store: Store) -> Erased:
    """Take a person out of every bundle of a store, and read everything back to see that they are gone.

    A tombstone comes first: from then on nothing of theirs is published (`bundle_store.keep`). Bundles keep their ids,
    and everybody else's bytes. Each is replaced as a whole, and its former bytes are deleted when no bundle names
    them; an erasure that died half-way is finished by doing it again. What is damaged keeps nobody from being erased
    from the rest; but while nobody knows what a bundle names, no bytes are deleted. What a bundle's prior was learned
    from stays in it: how much that is of erased people is counted in its manifest (`remainder`).

    Raises:
        RegistryError: the store cannot be reached, or is written by another process for too long.
    """
    changed, deleted = 0, 0
    shares: dict[str, Share] = {}
    problems: dict[str, str] = {}
    with store.writing("erasing"):
        try:
            store.bury(user)
        except RegistryError as error:
            problems["tombstone"] = str(error)
        for bundle in store.bundles():
            try:
                manifest = checked_format(store.manifest(bundle), f"{store.uri}, bundle {bundle}")
                with unfolded(manifest, store, shards=True) as folder:
                    share = share_of(folder / "personal", user)
                    if not _erase_in(folder, manifest, user):
                        continue
                    counted = manifest
                    if share is not None:
                        shares[bundle] = share
                        counted = manifest.but(**{STILL_HOLDS: add(manifest.get(STILL_HOLDS), share)})
                    becomes = counted.but(files=files_of(folder, manifest, store))
                    with store.changing(bundle, becomes.digests, instead_of=manifest):
                        put_files(folder, becomes, store)
                        store.write_manifest(bundle, becomes, instead_of=manifest)
                    changed += 1
                if _is_in(becomes, store, user):
                    problems[bundle] = f"store {store.uri}: bundle {bundle} still names this user. Erase again."
            except (BeholderError, OSError) as error:
                problems[bundle] = str(error) if isinstance(error, BeholderError) else f"{bundle}: {first_line(error)}"
        try:
            deleted = _collect(store, _grace(store))
        except RegistryError as error:  # what a bundle that cannot be read names, nobody knows: all is kept till then
            if str(error) not in problems.values():
                problems["objects"] = str(error)
    return Erased(changed, deleted, shares, tuple(problems.values()))


@dataclass(frozen=True)
class Looked:
    """What `traces` came to: a line for each bundle with something of theirs, and for each that could not be read."""

    bundles: int
    found: tuple[str, ...]
    not_seen: tuple[str, ...]


def traces(user: str, store: Store) -> Looked:
    """Search a store for somebody: the tables, indexes and methods of every bundle; nothing is changed.

    Found by erasing them from links to a bundle's files, so that what is searched is what an erasure erases. What no
    bundle names cannot be searched by id; where there is any, it is listed, as what a killed erasure left may be among
    it.

    Raises:
        RegistryError: the store cannot be reached.
    """
    found: list[str] = []
    not_seen: list[str] = []
    named: set[str] = set()
    bundles = store.bundles()
    for bundle in bundles:
        try:
            manifest = checked_format(store.manifest(bundle), f"{store.uri}, bundle {bundle}")
            named |= manifest.digests
            if _is_in(manifest, store, user):
                found.append(f"store {store.uri}: bundle {bundle}")
        except BeholderError as error:
            not_seen.append(str(error))
    try:
        if not store.erased([user]):
            found.append(f"store {store.uri}: no tombstone, so that a run or refresh would publish them")
    except RegistryError as error:
        not_seen.append(str(error))
    if not not_seen and (orphans := len((set(store.objects()) | set(store.cached())) - named)):
        not_seen.append(
            f"store {store.uri}: {orphans:,} objects that no bundle names, here or there, of which nobody can tell "
            "whose they are. Remove them: beholder registry gc (what is younger than a day: --older-than 0)"
        )
    try:
        if half := store.half_written():
            not_seen.append(f"store {store.uri}: {half:,} objects are half-written. Remove them: beholder registry gc")
    except RegistryError as error:
        not_seen.append(str(error))
    return Looked(len(bundles), tuple(found), tuple(not_seen))


def without_erased(rows: Annotations, store: Store) -> Annotations:
    """The rows of people who were not erased from a store; the same object where nobody was.

    Raises:
        RegistryError: see `Store.erased`.
    """
    erased = store.erased(rows.users)
    if not erased:
        return rows
    return rows.select(np.flatnonzero([user not in erased for user in rows.user_ids]))


def _collect(store: Store, older_than: float) -> int:
    """Delete objects that no bundle names; returns how many.

    What changes replaced, or left half-made, goes however young it is: somebody who is gone may be in it.
    """
    count = store.clear(store.objects(older_than))
    store.sweep()
    return count


def _grace(store: Store) -> float:
    return 0.0 if isinstance(store.place, Folder) else GRACE_S


def _erase_in(folder: Path, manifest: Manifest, user: str) -> bool:
    """Take a user out of a bundle's files in a folder of links; returns whether there was anything."""
    found = [erase_saved(folder / part, user) for part in PARTS if part in manifest.arms]
    file = folder / USERS_FILE
    if file.is_file():
        users = pq.read_table(file)
        others = users.filter(pc.field("user_id") != user)
        if len(others) < len(users):
            with atomic_write(file) as temporary:
                pq.write_table(others, temporary, compression="zstd")
            found.append(True)
    found.append(forget(folder, user))
    return any(found)


def _is_in(manifest: Manifest, store: Store, user: str) -> bool:
    """Whether any file of a bundle holds something of a user: found by doing it once more, in a folder of links."""
    with unfolded(manifest, store, shards=True) as folder:
        return _erase_in(folder, manifest, user)

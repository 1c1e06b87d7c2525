"""Keeping a store whole and clean: check it, collect what nobody needs, erase a person from every bundle in it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder.errors import RegistryError
from beholder.files import whole
from beholder.methods import erase_saved
from beholder.registry.bundle import PARTS, USERS_FILE, checked_format
from beholder.registry.remainder import STILL_HOLDS, Share, add, share_of
from beholder.registry.store import Store
from beholder.registry.stored import files_of, unfolded


@dataclass(frozen=True)
class Checked:
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


def verify(store: Store) -> Checked:
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
        named |= _named(manifest)
    whole_files = 0
    for digest in sorted(named):
        try:
            store.checked(digest, again=True)
            whole_files += 1
        except RegistryError as error:
            problems.append(str(error))
    return Checked(bundles, whole_files, len(set(store.objects()) - named), tuple(problems))


def gc(store: Store) -> int:
    """Delete the objects that no bundle names; returns how many. No bundle can be published meanwhile.

    Raises:
        RegistryError: a manifest is damaged, so that nobody knows what it names: nothing was deleted.
    """
    with store.writing("collecting"):
        return _collect(store)


@dataclass(frozen=True)
class Erased:
    """What an erasure came to: nothing in it says who.

    Attributes:
        bundles: written anew without the person.
        objects: deleted, those among them that held something of theirs.
        fingerprint: a salted hash of the id, for the record.
        salt: of the hash; new every time.
        shares: bundle -> what its prior still holds of them, where it holds anything or that is not recorded.
    """

    bundles: int
    objects: int
    fingerprint: str
    salt: str
    shares: Mapping[str, Share]


def erase(user: str, store: Store) -> Erased:
    """Take a person out of every bundle of a store, and read everything back to see that they are gone.

    Bundles keep their ids, and everybody else's bytes. Each is replaced by one rename, and old bytes are deleted when
    no bundle names them; an erasure that died half-way is finished by doing it again. What a bundle's prior was learned
    from stays in it: how much that is of erased people is counted in its manifest (`remainder`).

    Raises:
        RegistryError: a bundle is damaged, or cannot be written; the others stay as they are.
    """
    with store.writing("erasing"):
        changed = 0
        shares: dict[str, Share] = {}
        for bundle in store.bundles():
            manifest = checked_format(store.manifest(bundle), f"{store.uri}, bundle {bundle}")
            with unfolded(manifest, store, shards=True) as folder:
                share = share_of(folder / "personal", user)
                if _erase_in(folder, manifest, user):
                    counted = manifest
                    if share is not None:
                        shares[bundle] = share
                        counted = {**manifest, STILL_HOLDS: add(manifest.get(STILL_HOLDS), share)}
                    store.write_manifest(bundle, {**counted, "files": files_of(folder, manifest, store)})
                    changed += 1
        deleted = _collect(store)
        left = [bundle for bundle in store.bundles() if _is_in(store.manifest(bundle), store, user)]
        if left:
            raise RegistryError(f"store {store.uri}: bundle {left[0]} still names this user. Erase again.")
    salt = secrets.token_hex(16)
    return Erased(changed, deleted, hashlib.sha256(f"{salt} {user}".encode()).hexdigest(), salt, shares)


def _named(manifest: dict[str, Any]) -> set[str]:
    return {entry["sha256"] for entry in manifest["files"].values()}


def _collect(store: Store) -> int:
    named: set[str] = set()
    for bundle in store.bundles():
        named |= _named(store.manifest(bundle))
    orphans = [digest for digest in store.objects() if digest not in named]
    for digest in orphans:
        store.delete_object(digest)
    store.sweep()
    return len(orphans)


def _erase_in(folder: Path, manifest: dict[str, Any], user: str) -> bool:
    """Take a user out of a bundle's files in a folder of links; returns whether there was anything."""
    found = [erase_saved(folder / part, user) for part in PARTS if part in manifest["methods"]]
    file = folder / USERS_FILE
    if file.is_file():
        users = pq.read_table(file)
        others = users.filter(pc.field("user_id") != user)
        if len(others) < len(users):
            with whole(file) as temporary:
                pq.write_table(others, temporary, compression="zstd")
            found.append(True)
    return any(found)


def _is_in(manifest: dict[str, Any], store: Store, user: str) -> bool:
    """Whether any file of a bundle says something of a user: found by doing it once more, in a folder of links."""
    with unfolded(manifest, store, shards=True) as folder:
        return _erase_in(folder, manifest, user)

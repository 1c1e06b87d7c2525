"""A store that can be repaired and emptied: damaged files taken from copies, bundles that no version names deleted."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from beholder.registry.blob_store import Store
from beholder.registry.bundle import checked_format
from beholder.registry.bundle_store import made, new_id
from beholder.util.atomic import sha256_of
from beholder.util.errors import RegistryError


@dataclass(frozen=True)
class Repaired:
    """What a repair came to.

    Attributes:
        files: restored.
        missing: digests of files that are still missing or damaged, as no copy of them was found.
    """

    files: int
    missing: tuple[str, ...]


def repair(store: Store, folders: Iterable[Path] = (), other: Store | None = None) -> Repaired:
    """Put files back that are missing or damaged, from wherever the same bytes are.

    Only what a bundle names today is restored, so that nothing of an erased person comes back with it.

    Args:
        store: to repair.
        folders: with copies of files, under whatever names: runs kept here, a backup.
        other: another store.

    Raises:
        RegistryError: the store cannot be read or written, or a manifest is damaged: no other copy exists
            but in a backup.
    """
    with store.writing("repairing"):
        wanted: dict[str, int] = {}  # digest -> bytes
        for bundle in store.bundles():
            manifest = checked_format(store.manifest(bundle), f"{store.uri}, bundle {bundle}")
            wanted |= {entry["sha256"]: int(entry["bytes"]) for entry in manifest.files.values()}
        damaged = {digest: size for digest, size in wanted.items() if not store.has(digest)}
        found = dict(_copies(damaged, folders)) if damaged else {}
        for digest in damaged.keys() - found.keys():
            if other is not None and other.has(digest):
                found[digest] = other.get(digest)
        with store.changing(f"repair-{new_id()}", found.keys()):
            for file in found.values():
                store.put(file)
    return Repaired(len(found), tuple(sorted(damaged.keys() - found.keys())))


def _copies(wanted: dict[str, int], folders: Iterable[Path]) -> Iterable[tuple[str, Path]]:
    """(digest, file with these bytes) of whatever is found; only files of a wanted size are read."""
    sizes = set(wanted.values())
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file() and file.stat().st_size in sizes and (digest := sha256_of(file)) in wanted:
                yield digest, file


def delete_unnamed(store: Store, named: Collection[str], tracking: str, older_than: float) -> int:
    """Delete bundles that no version names: left by a publishing that died, or of a version that was deleted.

    A bundle that another tracking server's versions may name stays: each names the one that published it.

    Args:
        store: where.
        named: bundles that versions name.
        tracking: see `bundle_store.keep`.
        older_than: seconds; younger ones stay, as they may be about to become versions.

    Returns:
        How many; their files go when they are collected (`maintenance.gc`).
    """
    with store.writing("collecting"):
        before, count = time.time() - older_than, 0
        for bundle in set(store.bundles()) - set(named):
            try:
                mine = store.manifest(bundle).get("tracking") == tracking
            except RegistryError:  # damaged: `verify` reports it
                continue
            if mine and made(bundle) <= before:
                store.delete_manifest(bundle)
                count += 1
    return count

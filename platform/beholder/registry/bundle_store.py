"""Bundles in a store: put there, opened from there."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beholder.registry.blob_store import ChangedError, Store
from beholder.registry.bundle import USERS_FILE, Bundle, checked_format, load_bundle, read_manifest
from beholder.registry.cache import evict
from beholder.registry.manifest import FileEntry, Manifest
from beholder.registry.memory import TOLD
from beholder.registry.routing import USERS
from beholder.util.atomic import scratch, sha256_of
from beholder.util.errors import BeholderError, RegistryError
from beholder.util.tombstones import erased_people

TRIES = 3
"""How often a bundle is opened, where somebody is erased from it meanwhile."""


def new_id() -> str:
    """A bundle's name in a store: when it was made, and a few letters that nobody else has."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


def made(bundle: str) -> float:
    """Seconds since 1970 at which a bundle got its id."""
    return datetime.strptime(bundle[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()


def keep(folder: Path, store: Store, people: Collection[str] = (), tracking: str = "") -> str:
    """Put a bundle that `write_bundle` wrote into a store; returns its id there.

    Files that the store has already cost a look only. The manifest comes last: before it, nothing is there.

    Args:
        folder: of the bundle.
        store: where it goes.
        people: whose judgements it was made from, besides those in its table of users.
        tracking: identity of the tracking server whose versions name the bundle (`tracking.client.identity`).

    Raises:
        RegistryError: one of the people was erased; a file was altered since it was written; or the store cannot be
            written.
    """
    manifest = read_manifest(folder)
    with store.writing("publishing"):
        bundle = new_id()
        with store.changing(bundle, manifest.digests):
            refuse_erased(folder, store, people, "Run the experiment again: it leaves their rows out.")
            put_files(folder, manifest, store)
            store.write_manifest(bundle, manifest.but(tracking=tracking))
    return bundle


def put_files(folder: Path, manifest: Manifest, store: Store) -> None:
    """Put the files of a manifest into a store; links stand for what is there. For those who hold the store's lock.

    Raises:
        RegistryError: a file is missing or was altered, or the store cannot be written.
    """
    for name, expected in manifest.files.items():
        file = folder / name
        if file.is_symlink():
            continue
        try:
            found = store.put(file)
        except FileNotFoundError:
            raise RegistryError(f"{file}: missing from the bundle. Run the experiment again.") from None
        if found != expected["sha256"]:
            raise RegistryError(f"{file}: altered since it was written. Run the experiment again.")


def open_stored(bundle: str, store: Store, device: str = "cpu", like: Bundle | None = None) -> Bundle:
    """Load a stored bundle's methods onto the base it names. Shards are fetched, and checked, on first use.

    It knows nobody who was erased, even where it was restored from a copy; and what this machine fetched of
    bundles that are no more is deleted. `like`: see `load_bundle`.

    Raises:
        RegistryError: not there, damaged, or the base here is not the one it was trained on.
        BaseModelError: the base is not here at all.
    """
    for left in reversed(range(TRIES)):
        manifest = checked_format(store.manifest(bundle), f"{store.uri}, bundle {bundle}")
        with contextlib.suppress(RegistryError):  # another bundle is damaged: what it names, nobody knows
            evict(store)
        try:
            opened = _opened(manifest, store, device, like)
            opened.leave_out(store.erased(opened.users))
            return opened
        except (BeholderError, FileNotFoundError) as error:
            if left and store.manifest(bundle) != manifest:
                continue  # somebody was erased meanwhile, and files that have them in it are gone
            if isinstance(error, BeholderError):
                raise
            raise RegistryError(
                f"store {store.uri}: a file of bundle {bundle} was deleted while it was opened. Try again."
            ) from None
    raise AssertionError("the last try returns or raises")


def _opened(manifest: Manifest, store: Store, device: str, like: Bundle | None) -> Bundle:
    def checked(name: str) -> Path:
        return store.checked(manifest.files[name]["sha256"])

    with unfolded(manifest, store) as folder:
        return load_bundle(folder, manifest, device, store.get, checked, like)


@contextlib.contextmanager
def unfolded(manifest: Manifest, store: Store, shards: bool = False) -> Iterator[Path]:
    """A bundle's files under their names, as links in a temporary folder; all checked but shards.

    Args:
        manifest: of the bundle.
        store: where it is.
        shards: whether a bank's shards are there, too, and judgements that were learned from.

    Raises:
        RegistryError: a file is missing or was altered.
    """
    with scratch() as folder:
        for name, expected in manifest.files.items():
            is_shard = Path(name).name.startswith("shard-")
            if (is_shard or name == TOLD) and not shards:
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(store.get(expected["sha256"]) if is_shard else store.checked(expected["sha256"]))
        yield folder


def refuse_erased(folder: Path, store: Store, people: Collection[str], remedy: str) -> None:
    """Refuse a bundle of somebody who was erased. For those who hold the store's lock; see `keep`.

    Raises:
        ChangedError: states how many there are.
    """
    table = folder / USERS_FILE
    known = pq.read_table(table, columns=["user_id"])["user_id"].to_pylist() if table.is_file() else []
    erased = store.erased({*people, *known})
    if erased:
        raise ChangedError(
            f"{erased_people(len(erased))} after their judgements were read here, so this was not published. {remedy}"
        )


def files_of(folder: Path, manifest: Manifest, store: Store) -> dict[str, FileEntry]:
    """The files of a manifest, after some in a folder of links (`unfolded`) were rewritten, or left out.

    What is no link any more is still to be put into the store (`put_files`).

    Raises:
        RegistryError: what a link stands for is gone.
    """
    files: dict[str, FileEntry] = {}
    for file in sorted(each for each in folder.rglob("*") if each.is_symlink() or each.is_file()):
        if not file.exists():
            raise RegistryError(
                f"store {store.uri}: an object was deleted while a bundle was made of it, so that was not published. "
                "Try again."
            )
        name = file.relative_to(folder).as_posix()
        files[name] = (
            manifest.files[name] if file.is_symlink() else {"sha256": sha256_of(file), "bytes": file.stat().st_size}
        )
    return files


def users_of(bundle: str, store: Store) -> pa.Table:
    """Who gets which method, and why: see `routing.USERS`. Empty where a bundle has no personal method.

    Raises:
        RegistryError: see `open_stored`.
    """
    manifest = checked_format(store.manifest(bundle), f"{store.uri}, bundle {bundle}")
    if USERS_FILE not in manifest.files:
        return USERS.empty_table()
    return pq.read_table(store.checked(manifest.files[USERS_FILE]["sha256"]))


def check(bundle: str, store: Store) -> int:
    """Compare every file of a stored bundle with its checksum; returns how many there are.

    Raises:
        RegistryError: names the first that is missing or altered.
    """
    manifest = checked_format(store.manifest(bundle), f"{store.uri}, bundle {bundle}")
    for expected in manifest.files.values():
        store.checked(expected["sha256"], again=True)
    return len(manifest.files)

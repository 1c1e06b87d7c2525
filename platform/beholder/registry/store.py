"""Where bundles are kept: every file once, under the SHA-256 of its bytes, and manifests that say what a bundle is.

```
objects/ab/ab12...        the bytes of one file of one or more bundles
bundles/ID.json           a bundle's manifest (see `bundle`); with it the bundle is there, whole
tombstones/HASH           of somebody who was erased (see `erased`)
unfinished/ID.json        of a change that was begun (see `unfinished`)
```

Two versions that share a file share its bytes: a refresh that trains ten users anew writes their shards, not the bank.
A store is a folder of this machine, or any place that pyarrow's file systems reach (`s3://bucket/prefix`). Objects of a
folder are used where they lie; those of other places are fetched once, when first asked for.

One process writes at a time: in a folder by a lock on a file, elsewhere by a lease (`lease`) that lies in the bucket
or, where that has no conditional writes, in the database of judgements, so that machines wait for each other. A
manifest is replaced only if it has not changed since it was read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from filelock import FileLock, Timeout

from beholder.errors import RegistryError
from beholder.files import link, scratch, sha256_of
from beholder.home import home
from beholder.registry.erased import Tombstones
from beholder.registry.lease import TERM_S, Hold, Lease
from beholder.registry.places import MANIFESTS, Elsewhere, Folder, told
from beholder.registry.rows import row_of
from beholder.registry.seal import opened, seal_in, seal_of, sealed
from beholder.registry.unfinished import Unfinished

OBJECTS = "objects"
GRACE_S = 24 * 3600.0
"""What is younger is not collected where a writer that was stopped may wake up: longer than any publishing takes."""


class ChangedError(RegistryError):
    """Another process changed what this one had read."""


class Store:
    """Bundles by id.

    Args:
        uri: a folder, or `scheme://...`; by default `BEHOLDER_STORE`, else `store/` in the home folder.
    """

    def __init__(self, uri: str | None = None) -> None:
        written = uri or os.environ.get("BEHOLDER_STORE") or str(home() / "store")
        parsed = urlparse(written)
        if parsed.scheme in ("", "file"):
            root = Path(parsed.path if parsed.scheme else written).expanduser().absolute()
            self.uri, self.place, self._lock_file = root.as_uri(), Folder(root), root / ".lock"
        else:
            self.uri = written.rstrip("/")
            kept = home() / "fetched" / hashlib.sha256(self.uri.encode()).hexdigest()[:16]
            self._lock_file = kept / ".lock"
            with told(self.uri):
                self.place = Elsewhere(self.uri, kept)
        self.term = TERM_S
        self._hold: Hold | None = None
        self._begun = self._refused = False
        self._held: Path | None = None

    @contextlib.contextmanager
    def writing(self, what: str, patience: float = 600.0) -> Iterator[None]:
        """For all that writes manifests or deletes objects: one at a time.

        In a bucket of S3, of all machines (`lease`); in another store elsewhere, of all that share a database of
        judgements (`rows`), or of this machine only.

        Args:
            what: for the message.
            patience: seconds to wait for another process.

        Raises:
            RegistryError: another process is at it.
        """
        with told(self.uri):
            self._lock_file.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._lock_file, timeout=patience)
            try:
                lock.acquire()
            except Timeout:
                raise RegistryError(
                    f"store {self.uri}: another process is writing there, so {what} did not begin. Try again."
                ) from None
        with contextlib.ExitStack() as whole:
            held = whole.enter_context(scratch()) if isinstance(self.place, Elsewhere) else None
            lost, self._begun, self._refused, self._held = False, False, False, held
            try:
                with contextlib.ExitStack() as stack:
                    if isinstance(self.place, Elsewhere):
                        with told(self.uri):
                            swaps = self.place.swaps or stack.enter_context(row_of(self.uri))
                            if swaps is not None:
                                self._hold = stack.enter_context(Lease(swaps, self.uri, self.term).held(what, patience))
                    try:
                        yield
                    finally:
                        lost = self._hold is not None and self._hold.lost
            finally:
                self._hold = None
                lock.release()
                deleted = lost and held is not None and any(held.iterdir())
                if (lost and self._begun) or self._refused or deleted:
                    # What it wrote, or deleted, when it woke up came after others had looked.
                    with contextlib.suppress(RegistryError), self.writing("clearing up", patience):
                        self._restore(held)
                        self.clear()

    @contextlib.contextmanager
    def changing(
        self, bundle: str, objects: Collection[str], instead_of: dict[str, Any] | None = None
    ) -> Iterator[None]:
        """Around all that writes objects of a bundle, and its manifest: should this process die or be held up for too
        long meanwhile, what it wrote is known, and goes with the next collection (`unfinished`).

        What would forbid the change, as a tombstone, is looked at within the block: who comes later sees the record.

        Args:
            bundle: that is changed; any other name where no manifest will be written.
            objects: digests of those that are written. They are deleted where no bundle names them in the end.
            instead_of: the manifest as it was; what it names and is named no more is deleted, too.

        Raises:
            RegistryError: see `write_manifest`.
        """
        if not isinstance(self.place, Elsewhere):
            yield
            return
        unfinished, before = self._unfinished(), named_by(instead_of) if instead_of else set[str]()
        self._check()
        with told(self.uri):
            record = unfinished.begin(bundle, {*objects, *before}, seal_of(instead_of) if instead_of else None)
        self._begun = True
        left = objects  # of a change that is not made, these
        try:
            yield
            left = before - set(objects)
        except ChangedError:
            self._refused = True
            raise
        finally:
            if self._refused or left is not objects:
                with contextlib.suppress(RegistryError), told(self.uri):  # the next collection does it, if this fails
                    self._check()
                    self._refused |= not unfinished.end(record, left)

    def clear(self, orphans: Collection[str] = ()) -> int:
        """Delete what changes left behind, of writers that died among it, and `orphans` that no bundle names.

        Returns how many objects there were.

        Raises:
            RegistryError: see `write_manifest`; or a manifest is damaged, so that nobody knows what it names.
        """
        self._check()
        with told(self.uri):
            noted, over = self._unfinished().withdraw()
        gone = {*noted, *orphans} - self.named()
        count = sum(self.delete_object(digest, digest in noted) for digest in sorted(gone))
        self._check()
        with told(self.uri):
            for name in over:
                self.place.delete(name)
            self._unfinished().forget(GRACE_S)
        return count

    def _unfinished(self) -> Unfinished:
        return Unfinished(self.place, not isinstance(self.place, Elsewhere) or self.place.swaps is not None)

    def _restore(self, held: Path | None) -> None:
        """Write objects again that were deleted late, while another process made a bundle that names them."""
        for file in held.iterdir() if held is not None else ():
            if file.name in self.named():
                self.put(file)

    def _check(self) -> None:
        """Raises RegistryError: the lease that this process had was lost."""
        if self._hold is not None:
            self._hold.check()

    def put(self, file: Path) -> str:
        """Keep a file's bytes; returns their SHA-256. What is there under that name and damaged is written again.

        Raises:
            RegistryError: the store cannot be written.
        """
        digest = sha256_of(file)
        with told(self.uri):
            if not self.has(digest):
                self._check()
                self.place.write(object_name(digest), file)
        return digest

    def has(self, digest: str) -> bool:
        """Whether an object is there and its bytes are what its name says; they are read, fetched again if need be."""
        try:
            self.checked(digest, again=True)
        except RegistryError:
            return False
        return True

    def get(self, digest: str, again: bool = False) -> Path:
        """A local file with these bytes. It is not read: see `checked`.

        Args:
            digest: SHA-256 of the bytes.
            again: fetch it even if it was before.

        Raises:
            RegistryError: the store does not have it, or cannot be read.
        """
        with told(self.uri):
            try:
                return self.place.local(object_name(digest), again)
            except FileNotFoundError:
                raise RegistryError(
                    f"store {self.uri}: {object_name(digest)} is missing. Publish the version again, or roll back to "
                    "another."
                ) from None

    def checked(self, digest: str, again: bool = False) -> Path:
        """The same, its bytes compared with their name. What was fetched and is damaged is fetched again.

        Raises:
            RegistryError: see `get`; or they were altered.
        """
        file = self.get(digest, again)
        if sha256_of(file) != digest:
            if isinstance(self.place, Elsewhere) and not again:
                return self.checked(digest, again=True)
            raise RegistryError(
                f"{file}: altered since it was published (checksum differs). Publish the version again, or roll back "
                "to another."
            )
        return file

    def write_manifest(self, bundle: str, manifest: dict[str, Any], instead_of: dict[str, Any] | None = None) -> None:
        """Write, or replace, what a bundle is. All its files have to be there.

        Args:
            bundle: its id.
            manifest: what it is from now on.
            instead_of: what it was, as it was read; None for a new bundle.

        Raises:
            ChangedError: it is not as it was read any more; nothing was written.
            RegistryError: the store cannot be written, or this process held it for too long.
        """
        self._check()
        with told(self.uri):
            found = self.place.read(_manifest(bundle))
            before = None if instead_of is None else seal_of(instead_of)
            if (found and seal_in(found[0])) != before or not self.place.swap(
                _manifest(bundle), sealed(manifest), found and found[1]
            ):
                raise ChangedError(
                    f"store {self.uri}: bundle {bundle} was changed by another process meanwhile. Try again."
                )

    def manifest(self, bundle: str) -> dict[str, Any]:
        """What a bundle is, as it was written.

        Raises:
            RegistryError: it is not there, or was altered.
        """
        with told(self.uri):
            try:
                text = self.place.local(_manifest(bundle)).read_bytes()
            except FileNotFoundError:
                raise RegistryError(
                    f"store {self.uri}: there is no bundle {bundle}. Set BEHOLDER_STORE to the store it is in, or "
                    "publish it again."
                ) from None
        try:
            return opened(text)
        except ValueError as error:
            remedy = "Publish the version again, or roll back to another."
            raise RegistryError(f"{self.uri}/{_manifest(bundle)}: {error}. {remedy}") from error

    def seal(self, bundle: str) -> str:
        """SHA-256 of a manifest: another one once somebody is erased from the bundle. See `manifest` for the errors."""
        return seal_of(self.manifest(bundle))

    def bundles(self) -> list[str]:
        """The ids of all bundles."""
        with told(self.uri):
            found = self.place.written(MANIFESTS)
        folder = isinstance(self.place, Folder)  # elsewhere an empty file stands in place of one that was never written
        names = [Path(name).name for name, (_, size) in found.items() if size or folder]
        return [name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith(".")]

    def named(self) -> set[str]:
        """The digests that any bundle names. Raises RegistryError: see `manifest`."""
        return set().union(*(named_by(self.manifest(bundle)) for bundle in self.bundles()))

    def cached(self) -> list[str]:
        """The digests of what this machine fetched of a store elsewhere."""
        if not isinstance(self.place, Elsewhere):
            return []
        with told(self.uri):
            names = [Path(name).name for name in self.place.cache.names(OBJECTS)]
        return [name for name in names if len(name) == 64]

    def objects(self, older_than: float = 0.0) -> list[str]:
        """The digests of all objects, those that no bundle names among them.

        older_than: of those only that came there so many seconds ago, or earlier.
        """
        with told(self.uri):
            written = self.place.written(OBJECTS)
        last = time.time() - older_than if older_than else float("inf")
        return [Path(name).name for name, (when, _) in written.items() if len(Path(name).name) == 64 and when <= last]

    def delete_object(self, digest: str, young: bool = False) -> bool:
        """Remove bytes that no manifest names; whether they were there.

        young: another may be about to name them, should this process stand still before it deletes them. They are
        written again then (`writing`).

        Raises:
            RegistryError: see `write_manifest`.
        """
        name = object_name(digest)
        with told(self.uri):
            if self._held is not None and young:
                try:
                    link(self.place.local(name), self._held / digest)
                except FileNotFoundError:
                    return False
            self._check()
            return self.place.delete(name)

    def bury(self, user: str) -> None:
        """Put up the tombstone of somebody who is being erased. For those who hold the lock (`writing`).

        Raises:
            RegistryError: the store cannot be written, or the key of its tombstones is missing.
        """
        self._check()
        with told(self.uri):
            Tombstones(self.place, self.uri).add(user)

    def unbury(self, user: str) -> bool:
        """Take the tombstone of somebody away who is admitted again; whether there was one. See `bury`."""
        self._check()
        with told(self.uri):
            return Tombstones(self.place, self.uri).remove(user)

    def erased(self, users: Collection[str]) -> set[str]:
        """Those of these people who were erased from this store. Raises RegistryError: see `bury`."""
        with told(self.uri):
            return Tombstones(self.place, self.uri).among(users)

    def sweep(self) -> None:
        """Remove what processes that were killed left half-written. For those who hold the lock (`writing`)."""
        with told(self.uri):
            for name in [*self.place.names(OBJECTS), *self.place.names(MANIFESTS)]:
                if Path(name).name.startswith("."):
                    self.place.delete(name)
            if isinstance(self.place, Elsewhere):
                self._check()
                self.place.drop_half_written(OBJECTS)

    def half_written(self) -> int:
        """How many objects were begun by processes that died, or are being written."""
        if not isinstance(self.place, Elsewhere):
            return sum(Path(name).name.startswith(".") for name in self.place.names(OBJECTS))
        with told(self.uri):
            return self.place.half_written(OBJECTS)

    def delete_manifest(self, bundle: str) -> None:
        """Remove a bundle; its files stay until they are collected (`upkeep.gc`)."""
        with told(self.uri):
            self.place.delete(_manifest(bundle))


def named_by(manifest: dict[str, Any]) -> set[str]:
    """The digests of the objects that a bundle consists of."""
    return {entry["sha256"] for entry in manifest["files"].values()}


def object_name(digest: str) -> str:
    return f"{OBJECTS}/{digest[:2]}/{digest}"


def _manifest(bundle: str) -> str:
    return f"{MANIFESTS}/{bundle}.json"

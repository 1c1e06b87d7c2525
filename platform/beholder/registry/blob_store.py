"""Where bundles are kept: every file once, under the SHA-256 of its bytes, and manifests that say what a bundle is.

```
objects/ab/ab12...        the bytes of one file of one or more bundles
bundles/ID.json           a bundle's manifest (see `bundle`); with it the bundle is there, whole
tombstones/HASH           of somebody who was erased (see `erased`)
unfinished/ID.json        of a change that was begun (see `unfinished`)
```

Two versions that share a file share its bytes: a refresh that trains ten users again writes their shards, not the bank.
A store is a folder of this machine, or any place that pyarrow's file systems reach (`s3://bucket/prefix`). Objects of a
folder are used where they lie; those of other places are fetched once, on first use.

One process writes at a time: in a folder by a lock on a file, elsewhere by a lease (`lease`) that lies in the bucket
or, where that has no conditional writes, in the database of judgements, so that machines wait for each other. A
manifest is replaced only if it has not changed since it was read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from beholder.registry.erased import Tombstones
from beholder.registry.lease import FILE as LEASE
from beholder.registry.lease import HeldError, Lease
from beholder.registry.manifest import Manifest
from beholder.registry.objects import OBJECTS, Objects, manifest_name, object_name
from beholder.registry.places import MANIFESTS, Elsewhere, told
from beholder.registry.rows import row_of
from beholder.registry.seal import seal_in, seal_of, sealed
from beholder.registry.unfinished import Unfinished
from beholder.util.atomic import sha256_of
from beholder.util.errors import RegistryError

FEW = 10
"""Up to this number of objects are looked up one by one; of more, a listing is read."""
GRACE_S = 24 * 3600.0
"""What is younger is not collected where a writer that was stopped may wake up: longer than any publishing takes."""


class ChangedError(RegistryError):
    """Another process changed what this one had read."""


class Store(Objects):
    """Bundles by id, and all that changes them.

    Args:
        uri: a folder, or `scheme://...`; by default `BEHOLDER_STORE`, else `store/` in the home folder.
    """

    def __init__(self, uri: str | None = None) -> None:
        super().__init__(uri)
        self._begun = self._refused = self._lost = False
        self._deleted: list[str] = []

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
        self._begun = self._refused = False
        try:
            with self._turn(what, patience):
                yield
        except BaseException:
            with contextlib.suppress(RegistryError):  # the first error is raised
                self._clear_up(patience)
            raise
        self._clear_up(patience)

    @contextlib.contextmanager
    def _turn(self, what: str, patience: float) -> Iterator[None]:
        """Hold the lock for the time of a block; `_lost` is set where another process held it meanwhile, too."""
        with told(self.uri):
            self._lock_file.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._lock_file, timeout=patience)
            try:
                lock.acquire()
            except Timeout:
                raise HeldError(
                    f"store {self.uri}: another process is writing there, so {what} did not begin. Try again."
                ) from None
        hold = None
        try:
            with contextlib.ExitStack() as stack:
                if isinstance(self.place, Elsewhere):
                    with told(self.uri):
                        swaps = self.place.swaps or stack.enter_context(row_of(self.uri))
                        if swaps is not None:
                            hold = stack.enter_context(Lease(swaps, self.uri, self.term).held(what, patience))
                self._hold = hold
                yield
        finally:
            self._hold, self._lost = None, hold is not None and hold.lost
            lock.release()

    def _clear_up(self, patience: float) -> None:
        """What a process wrote, or deleted, when it woke up came after others had looked; of a refused change, too.

        Raises:
            RegistryError: objects that another's bundle needs may be gone: `verify` lists them.
        """
        deleted, self._deleted = self._deleted, []
        lost = self._lost and bool(deleted or self._begun)
        if lost or self._refused:
            self._begun = self._refused = False
            with self._turn("clearing up", patience if lost else self.term):
                if lost:
                    self._restore(deleted)
                self.clear()
        if isinstance(self.place, Elsewhere):
            for digest in {*deleted, *self._deleted}:
                self.place.cache.delete(object_name(digest))
            self._deleted = []

    @contextlib.contextmanager
    def changing(self, bundle: str, objects: Collection[str], instead_of: Manifest | None = None) -> Iterator[None]:
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
        unfinished, before = self._unfinished(), instead_of.digests if instead_of else set[str]()
        self.check()
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
                    self.check()
                    self._refused |= not unfinished.end(record, left)

    def clear(self, orphans: Collection[str] = ()) -> int:
        """Delete what changes left behind, of writers that died among it, and `orphans` that no bundle names.

        Returns how many objects there were.

        Raises:
            RegistryError: see `write_manifest`; or a manifest is damaged, so that nobody knows what it names.
        """
        self.check()
        with told(self.uri):
            noted, over = self._unfinished().withdraw()
        named = self.named()
        noted -= named
        if len(noted) > FEW:
            noted &= set(self.objects())
        count = sum(self.delete_object(digest, digest in noted) for digest in sorted({*noted, *orphans} - named))
        self.check()
        with told(self.uri):
            for name in over:
                self.place.delete(name)
            if isinstance(self.place, Elsewhere):
                self._unfinished().forget((self.place.written_at(LEASE) or time.time()) - GRACE_S)
        return count

    def _unfinished(self) -> Unfinished:
        return Unfinished(self.place, not isinstance(self.place, Elsewhere) or self.place.swaps is not None)

    def _restore(self, deleted: Collection[str]) -> None:
        """Write objects again that were deleted late, while another process made a bundle that names them."""
        assert isinstance(self.place, Elsewhere)
        kept = {digest: self.place.cache.root / object_name(digest) for digest in deleted}
        kept = {digest: file for digest, file in kept.items() if file.is_file() and sha256_of(file) == digest}
        with contextlib.suppress(RegistryError):  # where nobody knows what is named, all of it; the rest goes again
            kept = {digest: kept[digest] for digest in self.named() & kept.keys()}
        if kept:
            with told(self.uri):
                record = self._unfinished().begin("restored", kept, None)
            for file in kept.values():
                self.put(file)
            with told(self.uri):
                self._unfinished().end(record, kept)

    def write_manifest(self, bundle: str, manifest: Manifest, instead_of: Manifest | None = None) -> None:
        """Write, or replace, what a bundle is. All its files have to be there.

        Args:
            bundle: its id.
            manifest: what it is from now on.
            instead_of: what it was, as it was read; None for a new bundle.

        Raises:
            ChangedError: it is not as it was read any more; nothing was written.
            RegistryError: the store cannot be written, or this process held it for too long.
        """
        self.check()
        with told(self.uri):
            found = self.place.read(manifest_name(bundle))
            before = None if instead_of is None else seal_of(instead_of)
            if (found and seal_in(found[0])) != before or not self.place.swap(
                manifest_name(bundle), sealed(manifest), found and found[1]
            ):
                raise ChangedError(
                    f"store {self.uri}: bundle {bundle} was changed by another process meanwhile. Try again."
                )

    def delete_object(self, digest: str, young: bool = False) -> bool:
        """Remove bytes that no manifest names; whether they were there.

        young: another may be about to name them, should this process stand still before it deletes them. What was
        fetched of them is kept until it is sure that nobody is, and written again otherwise.

        Raises:
            RegistryError: see `write_manifest`.
        """
        name = object_name(digest)
        with told(self.uri):
            if not isinstance(self.place, Elsewhere) or self._hold is None:
                return self.place.delete(name)
            if young:
                with contextlib.suppress(OSError):  # a full disk keeps nobody from being erased
                    self.place.local(name)
            self.check()
            self._deleted.append(digest)
            return self.place.delete_there(name)

    def bury(self, user: str) -> None:
        """Put up the tombstone of somebody who is being erased. For those who hold the lock (`writing`).

        Raises:
            RegistryError: the store cannot be written, or the key of its tombstones is missing.
        """
        self.check()
        with told(self.uri):
            Tombstones(self.place, self.uri).add(user)

    def unbury(self, user: str) -> bool:
        """Take the tombstone of somebody away who is admitted again; whether there was one. See `bury`."""
        self.check()
        with told(self.uri):
            return Tombstones(self.place, self.uri).remove(user)

    def sweep(self) -> None:
        """Remove what processes that were killed left half-written. For those who hold the lock (`writing`)."""
        with told(self.uri):
            for name in [*self.place.names(OBJECTS), *self.place.names(MANIFESTS)]:
                if Path(name).name.startswith("."):
                    self.place.delete(name)
            if isinstance(self.place, Elsewhere):
                self.check()
                self.place.drop_half_written(OBJECTS)

    def delete_manifest(self, bundle: str) -> None:
        """Remove a bundle; its files stay until they are collected (`maintenance.gc`)."""
        with told(self.uri):
            self.place.delete(manifest_name(bundle))

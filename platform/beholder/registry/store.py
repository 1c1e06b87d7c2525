"""Where bundles are kept: every file once, under the SHA-256 of its bytes, and manifests that say what a bundle is.

```
objects/ab/ab12...        the bytes of one file of one or more bundles
bundles/ID.json           a bundle's manifest (see `bundle`); with it the bundle is there, whole
tombstones/HASH           of somebody who was erased (see `erased`)
```

Two versions that share a file share its bytes: a refresh that trains ten users anew writes their shards, not the bank.
A store is a folder of this machine, or any place that pyarrow's file systems reach (`s3://bucket/prefix`). Objects of a
folder are used where they lie; those of other places are fetched once, when first asked for.

One process writes at a time: in a folder by a lock on a file, in a bucket of S3 by a lease that lies in it (`lease`),
so that machines wait for each other. A manifest is replaced only if it has not changed since it was read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from filelock import FileLock, Timeout

from beholder.errors import RegistryError, first_line
from beholder.files import sha256_of
from beholder.home import home
from beholder.registry.erased import Tombstones
from beholder.registry.lease import TERM_S, Hold, Lease
from beholder.registry.places import MANIFESTS, Elsewhere, Folder

OBJECTS, RETIRED = "objects", "retired"
FETCHED_GB, IN_USE_S = 50.0, 86_400.0
"""How much is kept of each store elsewhere, and for how long after its last use nothing is evicted to make space."""
SEAL = "sha256"
"""Key of a manifest that holds the SHA-256 of all the rest of it."""


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
            with _told(self.uri):
                self.place = Elsewhere(self.uri, kept)
        self.term = TERM_S
        self._hold: Hold | None = None

    @contextlib.contextmanager
    def writing(self, what: str, patience: float = 600.0) -> Iterator[None]:
        """For all that writes manifests or deletes objects: one at a time.

        In a bucket of S3, of all machines (`lease`); in another store elsewhere, of this machine only.

        Args:
            what: for the message.
            patience: seconds to wait for another process.

        Raises:
            RegistryError: another process is at it.
        """
        with _told(self.uri):
            self._lock_file.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._lock_file, timeout=patience)
            try:
                lock.acquire()
            except Timeout:
                raise RegistryError(
                    f"store {self.uri}: another process is writing there, so {what} did not begin. Try again."
                ) from None
        try:
            with contextlib.ExitStack() as stack:
                if isinstance(self.place, Elsewhere) and self.place.swaps is not None:
                    with _told(self.uri):
                        lease = Lease(self.place.swaps, self.uri, self.term).held(what, patience)
                        self._hold = stack.enter_context(lease)
                yield
        finally:
            self._hold = None
            lock.release()

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
        with _told(self.uri):
            if not self.has(digest):
                self.place.write(_object(digest), file)
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
        with _told(self.uri):
            try:
                return self.place.local(_object(digest), again)
            except FileNotFoundError:
                raise RegistryError(
                    f"store {self.uri}: {_object(digest)} is missing. Publish the version again, or roll back to "
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
        sealed = {**manifest, SEAL: _seal(manifest)}
        self._check()
        with _told(self.uri):
            found = self.place.read(_manifest(bundle))
            before = None if instead_of is None else _seal(instead_of)
            data = json.dumps(sealed, indent=2) + "\n"
            if (found and _seal_in(found[0])) != before or not self.place.swap(
                _manifest(bundle), data.encode(), found and found[1]
            ):
                raise ChangedError(
                    f"store {self.uri}: bundle {bundle} was changed by another process meanwhile. Try again."
                )

    def manifest(self, bundle: str) -> dict[str, Any]:
        """What a bundle is, as it was written.

        Raises:
            RegistryError: it is not there, or was altered.
        """
        with _told(self.uri):
            try:
                text = self.place.local(_manifest(bundle)).read_bytes()
            except FileNotFoundError:
                raise RegistryError(
                    f"store {self.uri}: there is no bundle {bundle}. Set BEHOLDER_STORE to the store it is in, or "
                    "publish it again."
                ) from None
        remedy = "Publish the version again, or roll back to another."
        try:
            manifest = json.loads(text)
            seal = manifest.pop(SEAL)
        except (ValueError, KeyError, AttributeError) as error:
            raise RegistryError(f"{self.uri}/{_manifest(bundle)}: not a manifest. {remedy}") from error
        if seal != _seal(manifest):
            raise RegistryError(f"{self.uri}/{_manifest(bundle)}: altered since it was written. {remedy}")
        return manifest

    def seal(self, bundle: str) -> str:
        """SHA-256 of a manifest: another one once somebody is erased from the bundle. See `manifest` for the errors."""
        return _seal(self.manifest(bundle))

    def bundles(self) -> list[str]:
        """The ids of all bundles."""
        with _told(self.uri):
            names = [Path(name).name for name in self.place.names(MANIFESTS)]
        return [name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith(".")]

    def named(self) -> set[str]:
        """The digests that any bundle names. Raises RegistryError: see `manifest`."""
        return set().union(*(named_by(self.manifest(bundle)) for bundle in self.bundles()))

    def evict(self) -> int:
        """Delete what this machine fetched of the store and does not need; returns how many files.

        Objects that no bundle names go: what another machine erased is among them. Of the others, those go that were
        not used for longest, down to `BEHOLDER_FETCHED_GB` (50), but none that was used within a day: somebody may have
        a bundle of it open. They are fetched again when they are asked for. What was half-written when a process died
        goes after a day, too. In a folder of this machine nothing was fetched.

        Raises:
            RegistryError: a manifest is damaged, so that nobody knows what it names: nothing was deleted. Or the limit
                is not a number: what no bundle names was deleted.
        """
        if not isinstance(self.place, Elsewhere):
            return 0
        named, last = self.named(), time.time() - IN_USE_S
        with _told(self.uri):
            used = self.place.used(OBJECTS)
            left = {name: about for name, about in used.items() if Path(name).name in named}
            whole = {name for name in used if len(Path(name).name) == 64}
            gone = [name for name in used if name not in left and (name in whole or used[name][0] < last)]
            for name in gone:  # of the others, what a process writes at this moment stays
                self.place.cache.delete(name)
            over = sum(size for _, size in left.values()) - _fetched_bytes()
            for name, (when, size) in sorted(left.items(), key=lambda each: each[1]):
                if over <= 0 or when > last:
                    break
                self.place.cache.delete(name)
                gone.append(name)
                over -= size
        return len(gone)

    def cached(self) -> list[str]:
        """The digests of what this machine fetched of a store elsewhere."""
        if not isinstance(self.place, Elsewhere):
            return []
        with _told(self.uri):
            names = [Path(name).name for name in self.place.cache.names(OBJECTS)]
        return [name for name in names if len(name) == 64]

    def objects(self, older_than: float = 0.0) -> list[str]:
        """The digests of all objects, those that no bundle names among them.

        older_than: of those only that came there so many seconds ago, or earlier.
        """
        with _told(self.uri):
            written = self.place.written(OBJECTS)
        last = time.time() - older_than if older_than else float("inf")
        return [Path(name).name for name, when in written.items() if len(Path(name).name) == 64 and when <= last]

    def delete_object(self, digest: str) -> None:
        """Remove bytes that no manifest names. Raises RegistryError: see `write_manifest`."""
        self._check()
        with _told(self.uri):
            self.place.delete(_object(digest))

    def retire(self, digests: Collection[str]) -> None:
        """Note objects that hold somebody who is being erased: they go, even if this process dies before it can.

        Raises:
            RegistryError: see `write_manifest`.
        """
        if not digests:
            return
        data = json.dumps(sorted(digests)).encode()
        self._check()
        with _told(self.uri):
            self.place.swap(f"{RETIRED}/{hashlib.sha256(data).hexdigest()}.json", data, None)

    def retired(self) -> set[str]:
        """All objects that were noted so and not deleted yet."""
        found: set[str] = set()
        with _told(self.uri):
            for name in self._retirements():
                noted = self.place.read(name)
                found |= set(json.loads(noted[0])) if noted else set()
        return found

    def forget_retired(self) -> None:
        """Once they are deleted."""
        with _told(self.uri):
            for name in self._retirements():
                self._check()
                self.place.delete(name)

    def _retirements(self) -> list[str]:
        return [name for name in self.place.names(RETIRED) if name.endswith(".json")]

    def bury(self, user: str) -> None:
        """Put up the tombstone of somebody who is being erased. For those who hold the lock (`writing`).

        Raises:
            RegistryError: the store cannot be written, or the key of its tombstones is missing.
        """
        self._check()
        with _told(self.uri):
            Tombstones(self.place, self.uri).add(user)

    def unbury(self, user: str) -> bool:
        """Take the tombstone of somebody away who is admitted again; whether there was one. See `bury`."""
        self._check()
        with _told(self.uri):
            return Tombstones(self.place, self.uri).remove(user)

    def erased(self, users: Collection[str]) -> set[str]:
        """Those of these people who were erased from this store. Raises RegistryError: see `bury`."""
        with _told(self.uri):
            return Tombstones(self.place, self.uri).among(users)

    def sweep(self) -> None:
        """Remove what processes that were killed left half-written. For those who hold the lock (`writing`)."""
        with _told(self.uri):
            for name in [*self.place.names(OBJECTS), *self.place.names(MANIFESTS)]:
                if Path(name).name.startswith("."):
                    self.place.delete(name)

    def delete_manifest(self, bundle: str) -> None:
        """Remove a bundle; its files stay until they are collected (`upkeep.gc`)."""
        with _told(self.uri):
            self.place.delete(_manifest(bundle))


def _fetched_bytes() -> float:
    written = os.environ.get("BEHOLDER_FETCHED_GB") or str(FETCHED_GB)
    try:
        found = float(written)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise RegistryError(f"BEHOLDER_FETCHED_GB={written}: not a number of gigabytes. Set it to 0 or more.")
    return found * 1e9


def named_by(manifest: dict[str, Any]) -> set[str]:
    """The digests of the objects that a bundle consists of."""
    return {entry["sha256"] for entry in manifest["files"].values()}


def _object(digest: str) -> str:
    return f"{OBJECTS}/{digest[:2]}/{digest}"


def _manifest(bundle: str) -> str:
    return f"{MANIFESTS}/{bundle}.json"


def _seal_in(data: bytes) -> str:
    """The seal that a manifest has; nothing where it is none."""
    try:
        return str(json.loads(data)[SEAL])
    except (ValueError, KeyError, TypeError):
        return ""


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _told(uri: str) -> Iterator[None]:
    """What the disk or the network says, as one line."""
    try:
        yield
    except RegistryError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RegistryError(f"store {uri}: {reason}. Check BEHOLDER_STORE, its rights and its space.") from error

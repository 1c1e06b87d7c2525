"""The files of a store: objects under the SHA-256 of their bytes, and manifests that name them. See `store`."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlparse

from beholder.registry.erased import Tombstones
from beholder.registry.lease import TERM_S, Hold
from beholder.registry.manifest import Manifest
from beholder.registry.places import MANIFESTS, Elsewhere, Folder, told
from beholder.registry.seal import opened, seal_of
from beholder.util.atomic import sha256_of
from beholder.util.errors import RegistryError
from beholder.util.paths import home

OBJECTS = "objects"


class Objects:
    """What is in a store.

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

    def check(self) -> None:
        """Before each write. Raises RegistryError: the lease that this process had was lost."""
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
                self.check()
                self.place.write(object_name(digest), file)
        return digest

    def has(self, digest: str) -> bool:
        """Whether an object is there and its bytes match its name; they are read, fetched again if need be."""
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

    def manifest(self, bundle: str) -> Manifest:
        """What a bundle is, as it was written.

        Raises:
            RegistryError: it is not there, or was altered.
        """
        with told(self.uri):
            try:
                text = self.place.local(manifest_name(bundle)).read_bytes()
            except FileNotFoundError:
                raise RegistryError(
                    f"store {self.uri}: there is no bundle {bundle}. Set BEHOLDER_STORE to the store it is in, or "
                    "publish it again."
                ) from None
        try:
            return Manifest(opened(text))
        except ValueError as error:
            remedy = "Publish the version again, or roll back to another."
            raise RegistryError(f"{self.uri}/{manifest_name(bundle)}: {error}. {remedy}") from error

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
        return set().union(*(self.manifest(bundle).digests for bundle in self.bundles()))

    def cached(self) -> list[str]:
        """The digests of what this machine fetched of a store elsewhere."""
        if not isinstance(self.place, Elsewhere):
            return []
        with told(self.uri):
            names = [Path(name).name for name in self.place.cache.names(OBJECTS)]
        return [name for name in names if len(name) == 64]

    def objects(self, older_than: float = 0.0) -> list[str]:
        """The digests of all objects, those that no bundle names among them.

        older_than: seconds; younger objects are left out.
        """
        with told(self.uri):
            written = self.place.written(OBJECTS)
        last = time.time() - older_than if older_than else float("inf")
        return [Path(name).name for name, (when, _) in written.items() if len(Path(name).name) == 64 and when <= last]

    def half_written(self) -> int:
        """How many objects were begun by processes that died, or are being written."""
        with told(self.uri):
            if isinstance(self.place, Elsewhere):
                return self.place.half_written(OBJECTS)
            return sum(Path(name).name.startswith(".") for name in self.place.names(OBJECTS))

    def erased(self, users: Collection[str]) -> set[str]:
        """Those of these people who were erased from this store. Raises RegistryError: see `bury`."""
        with told(self.uri):
            return Tombstones(self.place, self.uri).among(users)


def object_name(digest: str) -> str:
    return f"{OBJECTS}/{digest[:2]}/{digest}"


def manifest_name(bundle: str) -> str:
    return f"{MANIFESTS}/{bundle}.json"

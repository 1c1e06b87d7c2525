"""Where bundles are kept: every file once, under the SHA-256 of its bytes, and manifests that say what a bundle is.

```
objects/ab/ab12...        the bytes of one file of one or more bundles
bundles/ID.json           a bundle's manifest (see `bundle`); with it the bundle is there, whole
```

Two versions that share a file share its bytes: a refresh that trains ten users anew writes their shards, not the bank.
A store is a folder of this machine, or any place that pyarrow's file systems reach (`s3://bucket/prefix`). Objects of a
folder are used where they lie; those of other places are fetched once, when first asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from filelock import FileLock, Timeout

from beholder.errors import RegistryError, first_line
from beholder.files import link, sha256_of, whole
from beholder.home import home

MANIFESTS, OBJECTS = "bundles", "objects"
SEAL = "sha256"
"""Key of a manifest that holds the SHA-256 of all the rest of it."""


class Place(Protocol):
    """Named files somewhere. Names are relative, with `/`."""

    def write(self, name: str, source: Path) -> None:
        """Copy a local file there; it appears whole or not at all."""
        ...

    def local(self, name: str, again: bool = False) -> Path:
        """The file on this machine, fetched even if it was before. Raises FileNotFoundError where there is none."""
        ...

    def exists(self, name: str) -> bool:
        """Whether it is there."""
        ...

    def names(self, folder: str) -> list[str]:
        """Names of all files below a folder."""
        ...

    def delete(self, name: str) -> None:
        """Remove it, here and there; nothing happens where there is none."""
        ...


class Folder:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, source: Path) -> None:
        """See `Place`. A hard link where that can be: objects are never written to."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as temporary:
            temporary.unlink(missing_ok=True)
            link(source, temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())

    def local(self, name: str, again: bool = False) -> Path:
        """See `Place`."""
        file = self.root / name
        if not file.is_file():
            raise FileNotFoundError(2, "no such file", str(file))
        return file

    def exists(self, name: str) -> bool:
        """See `Place`."""
        return (self.root / name).is_file()

    def names(self, folder: str) -> list[str]:
        """See `Place`."""
        files = (file for file in (self.root / folder).rglob("*") if file.is_file())
        return sorted(file.relative_to(self.root).as_posix() for file in files)

    def delete(self, name: str) -> None:
        """See `Place`."""
        (self.root / name).unlink(missing_ok=True)


class Elsewhere:
    """A place that pyarrow's file systems reach, and a folder here that holds what was fetched of it."""

    def __init__(self, uri: str, cache: Path) -> None:
        from pyarrow import fs

        self.system, self.prefix = fs.FileSystem.from_uri(uri)
        self.cache = Folder(cache)

    def write(self, name: str, source: Path) -> None:
        """See `Place`. Object stores show a file when its last part has come."""
        with source.open("rb") as read, self.system.open_output_stream(self._at(name)) as written:
            shutil.copyfileobj(read, written, 1 << 20)

    def local(self, name: str, again: bool = False) -> Path:
        """See `Place`."""
        changes = name.startswith(MANIFESTS)  # an erasure writes them anew
        if again or changes or not self.cache.exists(name):
            file = self.cache.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with (
                self.system.open_input_stream(self._at(name)) as read,
                whole(file) as temporary,
                temporary.open("wb") as written,
            ):
                shutil.copyfileobj(read, written, 1 << 20)
        return self.cache.local(name)

    def exists(self, name: str) -> bool:
        """See `Place`."""
        return bool(self.system.get_file_info(self._at(name)).is_file)

    def names(self, folder: str) -> list[str]:
        """See `Place`."""
        from pyarrow import fs

        found = self.system.get_file_info(fs.FileSelector(self._at(folder), allow_not_found=True, recursive=True))
        return sorted(info.path.removeprefix(f"{self.prefix}/") for info in found if info.is_file)

    def delete(self, name: str) -> None:
        """See `Place`."""
        self.cache.delete(name)
        if self.exists(name):
            self.system.delete_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self.prefix}/{name}"


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

    @contextlib.contextmanager
    def writing(self, what: str, patience: float = 600.0) -> Iterator[None]:
        """For all that writes manifests or deletes objects: one at a time. Of a store elsewhere, one on this machine.

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
            yield
        finally:
            lock.release()

    def put(self, file: Path) -> str:
        """Keep a file's bytes; returns their SHA-256.

        Raises:
            RegistryError: the store cannot be written.
        """
        digest = sha256_of(file)
        with _told(self.uri):
            if not self.place.exists(_object(digest)):
                self.place.write(_object(digest), file)
        return digest

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
        """The same, its bytes compared with their name.

        Raises:
            RegistryError: see `get`; or they were altered.
        """
        file = self.get(digest, again)
        if sha256_of(file) != digest:
            raise RegistryError(
                f"{file}: altered since it was published (checksum differs). Publish the version again, or roll back "
                "to another."
            )
        return file

    def write_manifest(self, bundle: str, manifest: dict[str, Any]) -> None:
        """Write, or replace, what a bundle is. All its files have to be there.

        Raises:
            RegistryError: the store cannot be written.
        """
        sealed = {**manifest, SEAL: _seal(manifest)}
        scratch = home() / "scratch"
        with _told(self.uri):
            scratch.mkdir(parents=True, exist_ok=True)
            temporary = scratch / f"{bundle}.{os.getpid()}.json"
            try:
                temporary.write_text(json.dumps(sealed, indent=2) + "\n")
                self.place.write(_manifest(bundle), temporary)
            finally:
                temporary.unlink(missing_ok=True)

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

    def objects(self) -> list[str]:
        """The digests of all objects, those that no bundle names among them."""
        with _told(self.uri):
            names = [Path(name).name for name in self.place.names(OBJECTS)]
        return [name for name in names if len(name) == 64]

    def delete_object(self, digest: str) -> None:
        """Remove bytes that no manifest names."""
        with _told(self.uri):
            self.place.delete(_object(digest))

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


def _object(digest: str) -> str:
    return f"{OBJECTS}/{digest[:2]}/{digest}"


def _manifest(bundle: str) -> str:
    return f"{MANIFESTS}/{bundle}.json"


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

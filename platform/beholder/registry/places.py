"""Where files of a store lie: a folder of this machine, or any place that pyarrow's file systems reach."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol
from urllib.parse import urlparse

from beholder.registry.lease import Swaps
from beholder.registry.s3 import Bucket
from beholder.util.atomic import atomic_write, link
from beholder.util.errors import RegistryError, first_line

MANIFESTS = "bundles"


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

    def delete(self, name: str) -> bool:
        """Remove it, here and there; whether there was one."""
        ...

    def written(self, folder: str) -> dict[str, tuple[float, int]]:
        """Name of each file below a folder -> when it came there, in seconds since 1970 by the place's clock, bytes."""
        ...

    def read(self, name: str) -> tuple[bytes, str] | None:
        """See `lease.Swaps`."""
        ...

    def swap(self, name: str, data: bytes, tag: str | None) -> str | None:
        """See `lease.Swaps`."""
        ...


class Folder:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, source: Path) -> None:
        """See `Place`. A hard link where that can be: objects are never written to."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
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

    def delete(self, name: str) -> bool:
        """See `Place`."""
        try:
            (self.root / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def written(self, folder: str) -> dict[str, tuple[float, int]]:
        """See `Place`. A link is as old as itself, not as what it is a link to."""
        found = {}
        for name in self.names(folder):
            with contextlib.suppress(FileNotFoundError):
                about = (self.root / name).stat()
                found[name] = (about.st_ctime, about.st_size)
        return found

    def read(self, name: str) -> tuple[bytes, str] | None:
        """See `Place`."""
        try:
            data = (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        return data, hashlib.sha256(data).hexdigest()

    def swap(self, name: str, data: bytes, tag: str | None) -> str | None:
        """See `Place`. For those who hold the store's lock."""
        found = self.read(name)
        if (found and found[1]) != tag:
            return None
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary, temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        return hashlib.sha256(data).hexdigest()


class Elsewhere:
    """A place that pyarrow's file systems reach, and a folder here that holds what was fetched of it."""

    def __init__(self, uri: str, cache: Path) -> None:
        from pyarrow import fs

        self.uri = uri
        self.system, self.prefix = fs.FileSystem.from_uri(uri)
        self.cache = Folder(cache)

    @cached_property
    def swaps(self) -> Swaps | None:
        """What replaces files by compare-and-swap; None where only S3 would."""
        if urlparse(self.uri).scheme != "s3":
            return None
        return Bucket(self.uri)

    def write(self, name: str, source: Path) -> None:
        """See `Place`. Object stores show a file when its last part has come."""
        if source != self.cache.root / name:
            self.cache.delete(name)  # what was fetched may be what was damaged
        with source.open("rb") as read, self.system.open_output_stream(self._at(name)) as written:
            shutil.copyfileobj(read, written, 1 << 20)

    def local(self, name: str, again: bool = False) -> Path:
        """See `Place`."""
        changes = name.startswith(MANIFESTS)  # an erasure replaces them
        if again or changes or not self.cache.exists(name):
            file = self.cache.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with (
                self.system.open_input_stream(self._at(name)) as read,
                atomic_write(file) as temporary,
                temporary.open("wb") as written,
            ):
                shutil.copyfileobj(read, written, 1 << 20)
        file = self.cache.local(name)
        with contextlib.suppress(OSError):  # of another user of this machine, or just evicted
            os.utime(file)
        return file

    def half_written(self, folder: str) -> int:
        """How many files below a folder were begun and are not whole: no listing shows them."""
        return self.swaps.uploads(folder) if isinstance(self.swaps, Bucket) else 0

    def drop_half_written(self, folder: str) -> None:
        """Remove them. For those who hold the store's lock: nobody else is writing there."""
        if isinstance(self.swaps, Bucket):
            self.swaps.abort_uploads(folder)

    def used(self, folder: str) -> dict[str, tuple[float, int]]:
        """Name of each fetched file below a folder -> when it was last used, in seconds since 1970, and bytes."""
        found = {}
        for name in self.cache.names(folder):
            with contextlib.suppress(FileNotFoundError):
                about = (self.cache.root / name).stat()
                found[name] = (about.st_mtime, about.st_size)
        return found

    def exists(self, name: str) -> bool:
        """See `Place`."""
        return bool(self.system.get_file_info(self._at(name)).is_file)

    def names(self, folder: str) -> list[str]:
        """See `Place`."""
        from pyarrow import fs

        found = self.system.get_file_info(fs.FileSelector(self._at(folder), allow_not_found=True, recursive=True))
        return sorted(info.path.removeprefix(f"{self.prefix}/") for info in found if info.is_file)

    def delete(self, name: str) -> bool:
        """See `Place`."""
        self.cache.delete(name)
        return self.delete_there(name)

    def delete_there(self, name: str) -> bool:
        """The same, but for what was fetched of it."""
        if not self.exists(name):
            return False
        self.system.delete_file(self._at(name))
        return True

    def written_at(self, name: str) -> float | None:
        """When a file came there, in seconds since 1970 by the place's clock; None where there is none."""
        found = self.system.get_file_info(self._at(name))
        return found.mtime.timestamp() if found.is_file else None

    def written(self, folder: str) -> dict[str, tuple[float, int]]:
        """See `Place`."""
        from pyarrow import fs

        found = self.system.get_file_info(fs.FileSelector(self._at(folder), allow_not_found=True, recursive=True))
        files = [info for info in found if info.is_file]
        return {info.path.removeprefix(f"{self.prefix}/"): (info.mtime.timestamp(), info.size) for info in files}

    def read(self, name: str) -> tuple[bytes, str] | None:
        """See `Place`."""
        if self.swaps is not None:
            return self.swaps.read(name)
        if not self.exists(name):
            return None
        with self.system.open_input_stream(self._at(name)) as stream:
            data = stream.read()
        return data, hashlib.sha256(data).hexdigest()

    def swap(self, name: str, data: bytes, tag: str | None) -> str | None:
        """See `Place`. Not of S3, two machines that do so at the same moment may both succeed."""
        if self.swaps is not None:
            return self.swaps.swap(name, data, tag)
        found = self.read(name)
        if (found and found[1]) != tag:
            return None
        with self.system.open_output_stream(self._at(name)) as written:
            written.write(data)
        return hashlib.sha256(data).hexdigest()

    def _at(self, name: str) -> str:
        return f"{self.prefix}/{name}"


@contextlib.contextmanager
def told(uri: str) -> Iterator[None]:
    """Errors of the disk or the network as one line."""
    try:
        yield
    except RegistryError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RegistryError(f"store {uri}: {reason}. Check BEHOLDER_STORE, its rights and its space.") from error

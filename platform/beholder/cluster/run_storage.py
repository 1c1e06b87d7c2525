"""What the nodes of a cluster share of a run: a folder that all of them reach, or copies in an object store."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse, urlunparse

from beholder.cluster.runtime import on_cluster, start_ray
from beholder.util.atomic import atomic_write, scratch
from beholder.util.errors import ClusterError, first_line
from beholder.util.paths import home

STORAGE = "BEHOLDER_STORAGE"
"""A URI of pyarrow's file systems, where runs are kept that several nodes work on."""
SAYS_WHOLE = re.compile(r"(done\.json|trunk\.json|prior\.json|block-\d+\.parquet)$")
"""Files that say that those beside them are whole: they are copied last, and taken away first."""

Stamp = tuple[int, int]
"""Size and time of a file: while both stay, its bytes do."""


def storage_uri() -> str | None:
    """`BEHOLDER_STORAGE`, where runs are copied to; None where the home folder is all there is, or all reach it."""
    return os.environ.get(STORAGE) or None


def folder_of(storage: str) -> Path | None:
    """The folder that a storage is, which needs no copies; None for an object store."""
    parsed = urlparse(storage)
    if parsed.scheme not in ("", "file"):
        return None
    return Path(unquote(parsed.path) if parsed.scheme else storage).expanduser().absolute()


def missing(nodes: int, tracking: str, shared: bool) -> str | None:
    """What a cluster of several nodes lacks, and how to give it; None where it lacks nothing.

    Args:
        nodes: of the cluster.
        tracking: where MLflow keeps runs.
        shared: whether the settings state that all nodes reach the home folder, or give a storage.
    """
    if nodes < 2:
        return None
    lacks = []
    if not shared:
        lacks.append("storage that all of them reach (--storage s3://bucket/prefix, or a folder mounted on all)")
    if tracking.startswith("sqlite:"):
        lacks.append("an MLflow server (--mlflow http://HOST:5000; SQLite is for one machine)")
    return f"the cluster has {nodes} nodes, and needs {' and '.join(lacks)}." if lacks else None


def require_shared(tracking: str) -> None:
    """Refuse to begin on a cluster of several nodes what they could not finish together. Joins the cluster for good.

    Args:
        tracking: where MLflow keeps runs.

    Raises:
        ClusterError: something is missing; names it, and how to give it.
    """
    if not on_cluster():
        return
    import ray

    start_ray()
    nodes = sum(node["Alive"] for node in ray.nodes())
    lacks = missing(nodes, tracking, storage_uri() is not None or bool(os.environ.get("BEHOLDER_HOME")))
    if lacks:
        raise ClusterError(lacks)


class SharedRun:
    """A folder of this machine, and the same folder in an object store.

    Without a store all methods do nothing: then the folder itself is what is shared.

    Attributes:
        folder: here.
        uri: of the folder there.
    """

    def __init__(self, folder: Path, uri: str | None) -> None:
        self.folder, self.uri = folder, uri
        self._fetched: dict[str, Stamp] = {}
        self._kept: dict[str, Stamp] = {}
        if uri:
            from pyarrow import fs

            with _told(uri):
                self._system, self._prefix = fs.FileSystem.from_uri(uri)

    def fetch(self, *names: str) -> None:
        """Copy files, and folders with all below them, from there; what was copied and is the same stays.

        Raises:
            ClusterError: the store does not answer, or the disk is full. What is not there is passed over.
        """
        if not self.uri:
            return
        with _told(self.uri):
            for place, stamp in sorted(self._there(names), key=lambda each: _order(each[0])):
                file = self.folder / place
                if self._fetched.get(place) == stamp and file.is_file():
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                with (
                    self._system.open_input_stream(f"{self._prefix}/{place}") as read,
                    atomic_write(file) as temporary,
                    temporary.open("wb") as written,
                ):
                    shutil.copyfileobj(read, written, 1 << 20)
                self._fetched[place], self._kept[place] = stamp, _stamp(file)

    def keep(self, *names: str) -> None:
        """Copy files, and folders with all below them, to there; what was copied and is the same stays.

        Raises:
            ClusterError: the store does not answer, or refuses.
        """
        if not self.uri:
            return
        with _told(self.uri):
            changed = [(place, stamp) for place, stamp in sorted(self._here(names)) if self._kept.get(place) != stamp]
            for place, _ in changed:
                if SAYS_WHOLE.search(place) and self._is_there(place):
                    self._system.delete_file(f"{self._prefix}/{place}")
            for place, stamp in sorted(changed, key=lambda each: _order(each[0])):
                at = f"{self._prefix}/{place}"
                if self._system.type_name == "local":  # object stores have no folders
                    self._system.create_dir(at.rpartition("/")[0], recursive=True)
                with (self.folder / place).open("rb") as read, self._system.open_output_stream(at) as written:
                    shutil.copyfileobj(read, written, 1 << 20)
                self._kept[place] = stamp

    def mirror(self, last: str) -> None:
        """Make the folder there what it is here: what is gone here goes, too, and one file is brought up to date last.

        Raises:
            ClusterError: see `keep`.
        """
        if not self.uri:
            return
        with _told(self.uri):
            here = {place for place, _ in self._here((".",))}
            for place, _ in list(self._there((".",))):
                if place not in here:
                    self._system.delete_file(f"{self._prefix}/{place}")
        self.keep(*sorted(here - {last}))
        self.keep(last)

    def drop(self, name: str) -> None:
        """Remove a folder there; with `.` all of it."""
        if not self.uri:
            return
        with _told(self.uri):
            if any(True for _ in self._there((name,))):
                self._system.delete_dir(self._prefix if name == "." else f"{self._prefix}/{name}")

    def _there(self, names: tuple[str, ...]) -> Iterator[tuple[str, Stamp]]:
        from pyarrow import fs

        for name in names:
            info = self._system.get_file_info(self._prefix if name == "." else f"{self._prefix}/{name}")
            found = [info]
            if info.type == fs.FileType.Directory:
                found = self._system.get_file_info(fs.FileSelector(info.path, recursive=True))
            for file in found:
                if file.type == fs.FileType.File:
                    place = file.path.removeprefix(f"{self._prefix}/")
                    yield place, (int(file.size or 0), int(file.mtime_ns or 0))

    def _here(self, names: tuple[str, ...]) -> Iterator[tuple[str, Stamp]]:
        for name in names:
            path = self.folder / name
            for file in [path] if path.is_file() else path.rglob("*"):
                if file.is_file() and not file.name.startswith("."):
                    yield file.relative_to(self.folder).as_posix(), _stamp(file)

    def _is_there(self, place: str) -> bool:
        from pyarrow import fs

        return self._system.get_file_info(f"{self._prefix}/{place}").type == fs.FileType.File


@contextlib.contextmanager
def _told(uri: str) -> Iterator[None]:
    """Errors of the disk or the network as one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ClusterError(
            f"storage {uri.partition('?')[0]}: {reason}. Check {STORAGE}, its rights and its space; what is "
            "finished is kept, run again to resume."
        ) from error


def _order(place: str) -> tuple[bool, str]:
    return bool(SAYS_WHOLE.search(place)), place


def _stamp(file: Path) -> Stamp:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def below(uri: str, name: str) -> str:
    """The URI of something below a URI; what stands after `?` stays."""
    parsed = urlparse(uri)
    return urlunparse(parsed._replace(path=f"{parsed.path.rstrip('/')}/{name}"))


def copies() -> list[str]:
    """Names of all runs that the storage holds."""
    storage = storage_uri()
    if not storage:
        return []
    from pyarrow import fs

    with _told(storage):
        system, prefix = fs.FileSystem.from_uri(below(storage, "runs"))
        found = system.get_file_info(fs.FileSelector(prefix, allow_not_found=True))
        return sorted(each.base_name for each in found if each.type == fs.FileType.Directory)


@contextlib.contextmanager
def run_here(name: str) -> Iterator[SharedRun]:
    """A run by the name of its folder: in this home folder, or, where only the storage has it, a folder to copy it into
    for the time of a block. A copy that stayed would be out of reach of an erasure on another machine.
    """
    folder, storage = home() / "runs" / name, storage_uri()
    if folder.is_dir() or not storage:
        yield run_of(folder)
        return
    with scratch() as own:
        (own / "runs" / name).mkdir(parents=True)
        yield SharedRun(own / "runs" / name, below(storage, f"runs/{name}"))


def run_of(folder: Path) -> SharedRun:
    """A run of this process's home folder, and its copy in `BEHOLDER_STORAGE`."""
    storage = storage_uri()
    return SharedRun(folder, below(storage, folder.relative_to(home()).as_posix()) if storage else None)

"""What every room needs of files: a checksum, and a way to make one appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of plain values as JSON with sorted keys, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the disk cannot: for files that are never written to."""
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError:
        shutil.copyfile(source, target)


@contextlib.contextmanager
def made_once(folder: Path, says_whole: str) -> Iterator[Path | None]:
    """For what several processes of a machine would make at once: one gets a folder to fill, the others wait for it.

    Args:
        folder: what is to be made; it appears whole or not at all.
        says_whole: a file of it.

    Yields:
        A folder to fill, which takes the place when the block ends well; None where it is there already.
    """
    if (folder / says_whole).is_file():
        yield None
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if (folder / says_whole).is_file():
            yield None
            return
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            yield Path(temporary) / "made"
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(Path(temporary) / "made", folder)


SCRATCH, LOCKED = "beholder-", ".scratch.lock"
"""What folders for the time of a block are called, in the system's temporary folder, and the file by which they are
known: nothing else has one, so that no store or home that lies there is taken for one."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder for the time of a block. It may hold personal data: what killed processes left of theirs is
    removed whenever one begins.

    A process holds a lock on its folder, which ends with it however it ends.
    """
    sweep_scratch()
    folder = Path(tempfile.mkdtemp(prefix=f".{SCRATCH}"))  # hidden until it is locked
    lock = FileLock(folder / LOCKED)
    try:
        with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks: it is never swept
            lock.acquire()
            folder = folder.rename(folder.with_name(folder.name.removeprefix(".")))
        (folder / "files").mkdir()
        yield folder / "files"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            lock.release()


def sweep_scratch() -> None:
    """Remove the folders of `scratch` whose process is no more."""
    for file in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*/{LOCKED}"):
        with contextlib.suppress(Timeout, OSError):
            if file.parent.lstat().st_uid == os.getuid() and not file.parent.is_symlink():
                with FileLock(file, timeout=0):
                    shutil.rmtree(file.parent, ignore_errors=True)


def beside(path: Path) -> Path:
    """A hidden name beside a path, that no other thread or process has: to write there first, and then to rename.

    The number in it is this process's, so that files left by a killed process differ from those being written.
    """
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """A temporary path beside `file`, which takes its name when the block ends well, and is removed otherwise."""
    temporary = beside(file)
    try:
        yield temporary
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(file: Path, value: Any) -> None:
    """Write plain values as indented JSON; the file appears whole or not at all."""
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=str) + "\n")

"""What every room needs of files: a checksum, and a way to make one appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A temporary path beside `file`, which takes its name when the block ends well, and is removed otherwise."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)

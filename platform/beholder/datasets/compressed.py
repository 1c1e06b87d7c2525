"""Compressed tables: gzip of any format, and zip archives, unpacked for the time of a block."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from beholder.datasets.delimited import check_file
from beholder.util.atomic import scratch
from beholder.util.errors import DataError, first_line

DAMAGED = (EOFError, OSError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)
ARCHIVES = (".gz", ".zip")


@contextlib.contextmanager
def unpacked(file: Path, known: tuple[str, ...]) -> Iterator[list[tuple[Path, Path]]]:
    """The files inside a compressed file, for the time of a block; unpacked copies may hold personal data.

    Args:
        file: a .gz or .zip file.
        known: extensions of tables; other members of an archive are passed over.

    Yields:
        For each table its place for messages (`ratings.zip/a.csv`) and the unpacked file.

    Raises:
        DataError: missing, damaged, protected by a password, or without a table.
    """
    check_file(file)
    with scratch() as folder:
        try:
            found = _ungzip(file, folder) if file.suffix.lower() == ".gz" else _unzip(file, folder, known)
        except DAMAGED as error:
            raise DataError(
                f"{file}: truncated, or not a {file.suffix[1:]} file ({first_line(error).rstrip('.')[:200]}). "
                "Copy it again from where it came from."
            ) from error
        yield found


def _ungzip(file: Path, folder: Path) -> list[tuple[Path, Path]]:
    target = folder / file.stem
    with gzip.open(file) as packed, target.open("wb") as stream:
        shutil.copyfileobj(packed, stream)
    return [(file, target)]


def _unzip(file: Path, folder: Path, known: tuple[str, ...]) -> list[tuple[Path, Path]]:
    found = []
    with zipfile.ZipFile(file) as archive:
        for number, member in enumerate(sorted(archive.infolist(), key=lambda each: each.filename)):
            inside = PurePosixPath(member.filename)
            hidden = any(part.startswith((".", "__MACOSX")) for part in inside.parts)
            if member.is_dir() or hidden or inside.suffix.lower() not in known:
                continue
            if member.flag_bits & 1:
                raise DataError(f"{file}: protected by a password. Unpack it, and name the table inside.")
            target = folder / str(number) / inside.name
            target.parent.mkdir()
            with archive.open(member) as packed, target.open("wb") as stream:
                shutil.copyfileobj(packed, stream)
            found.append((file / str(inside).lstrip("/"), target))
    if not found:
        raise DataError(f"{file}: holds no table. Expected one {', '.join(known)} file in it.")
    return found

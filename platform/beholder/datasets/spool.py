"""A table that comes through a pipe, kept in a file named after its format."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import BinaryIO

from beholder.util.atomic import atomic_write
from beholder.util.errors import DataError


def spooled(stream: BinaryIO, folder: Path) -> Path:
    """Write what a stream holds to a file, `stdin-DIGEST.csv` or another extension, by its first bytes.

    The name follows from the contents, so that the same input is the same file.

    Raises:
        DataError: nothing came.
    """
    contents = stream.read()
    if not contents.strip():
        raise DataError("standard input is empty. Pipe a table into it, as in: beholder init - < ratings.csv.")
    target = folder / f"stdin-{hashlib.sha256(contents).hexdigest()[:8]}"
    with atomic_write(target) as temporary:
        temporary.write_bytes(contents)
    return target.rename(target.with_suffix(_suffix(contents, target)))


def _suffix(contents: bytes, file: Path) -> str:
    start = contents[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    if contents.startswith(b"PAR1"):
        return ".parquet"
    if contents.startswith(b"PK\x03\x04"):
        return _of_archive(file)
    if contents.startswith(b"\x1f\x8b"):
        raise DataError(
            "standard input is compressed with gzip. Unpack it first, as in: gunzip -c FILE | beholder init -."
        )
    if start.startswith(b"["):
        return ".json"
    if start.startswith(b"{"):
        return ".json" if b"\n{" not in contents.strip().replace(b"\r", b"") else ".jsonl"
    first = start.split(b"\n")[0]
    return ".tsv" if first.count(b"\t") > max(first.count(b","), first.count(b";")) else ".csv"


def _of_archive(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
    except zipfile.BadZipFile:
        return ".zip"
    if "xl/workbook.xml" in names:
        return ".xlsx"
    return ".ods" if {"mimetype", "content.xml"} <= names else ".zip"

"""Fetching public data sets into the cache: resumable, checked, and never changed unnoticed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from beholder.datasets import goemotions, unhealthy
from beholder.datasets.io import read_csv, require_columns
from beholder.datasets.locate import cache_folder
from beholder.util.atomic import atomic_write, sha256_of
from beholder.util.errors import DataError, unknown

OnFile = Callable[[str], None]

CHECKSUMS = "checksums.json"
ATTEMPTS = 5
TIMEOUT = httpx.Timeout(30.0)  # seconds, for the connection and for each piece of the body
REPORT_BYTES = 8 << 20  # a line of progress every so often


@dataclass(frozen=True)
class RemoteFile:
    """One file: `base`/`path` is its address, `path` its place in the cache. No `header`: TSV without one."""

    base: str
    path: str
    columns: tuple[str, ...]
    rows: int | None = None
    header: bool = True


@dataclass(frozen=True)
class RemoteDataset:
    """The files of a data set. `total_rows`: of those files, together, whose own number of rows is not known."""

    files: tuple[RemoteFile, ...]
    licence: str
    total_rows: int | None = None


_GOEMOTIONS = "https://storage.googleapis.com/gresearch/goemotions/data/full_dataset"
_GOEMOTIONS_SPLIT = "https://raw.githubusercontent.com/google-research/google-research/master/goemotions/data"
_UNHEALTHY = "https://raw.githubusercontent.com/conversationai/unhealthy-conversations/main"

DATASETS: dict[str, RemoteDataset] = {
    "goemotions": RemoteDataset(
        files=(
            *(RemoteFile(_GOEMOTIONS, f"goemotions_{part}.csv", goemotions.COLUMNS) for part in (1, 2, 3)),
            *(
                RemoteFile(_GOEMOTIONS_SPLIT, path, goemotions.SPLIT_COLUMNS, rows, header=False)
                for path, rows in (("train.tsv", 43_410), ("dev.tsv", 5_426), ("test.tsv", 5_427))
            ),
        ),
        licence="CC BY 4.0",
        total_rows=211_225,
    ),
    "unhealthy": RemoteDataset(
        files=(
            RemoteFile(_UNHEALTHY, "unhealthy_full.csv", unhealthy.COLUMNS, 227_975),
            *(
                RemoteFile(_UNHEALTHY, f"corpus/{path}", ("_unit_id",), rows)
                for path, rows in (("train.csv", 35_503), ("val.csv", 4_427), ("test.csv", 4_425))
            ),
        ),
        licence="CC BY-NC-SA 4.0",
    ),
}


def prepare(
    name: Literal["goemotions", "unhealthy"],
    download: bool,
    origin: str | None = None,
    progress: OnFile | None = None,
    *,
    dataset: RemoteDataset | None = None,
    pause: float = 1.0,
) -> Path:
    """Have a public data set in the cache, complete and checked.

    A file that is there is compared with the checksum recorded when it was first fetched. A download that broke off
    resumes. A file gets its own name only when its columns and rows are as expected.

    Args:
        name: which data set.
        download: allow fetching what is missing.
        origin: another base URL for all files, such as a mirror.
        progress: called with one line now and then.
        dataset: other files or numbers of rows than the published ones.
        pause: seconds before the second attempt at a file; doubled for each further one.

    Returns:
        The folder, `$BEHOLDER_HOME/data/NAME`, in which `load` finds the files.

    Raises:
        DataError: unknown name, not allowed to download, download failed, not what was expected, or changed since.
    """
    if name not in DATASETS:
        raise DataError(f"{unknown('data set', name, DATASETS)} Other sources need no download.")
    dataset = dataset or DATASETS[name]
    say = progress or (lambda line: None)
    folder = cache_folder(name)
    missing = [file for file in dataset.files if not (folder / file.path).is_file()]
    if missing and not download:
        raise DataError(
            f"{name}: {', '.join(file.path for file in missing)} not in {folder}. "
            f"Put them there, or allow the download: beholder data prepare {name} --download"
        )
    recorded = _read_checksums(folder)
    for file in dataset.files:
        target = folder / file.path
        if target.is_file() and recorded.get(file.path) not in (None, sha256_of(target)):
            raise DataError(
                f"{target}: changed since it was fetched (its checksum is no longer the recorded one). "
                f"Delete it and run again: beholder data prepare {name} --download"
            )
    say(f"{name}: {dataset.licence}, {len(dataset.files) - len(missing)} of {len(dataset.files)} files there")
    rows: dict[str, int] = {}
    for file in dataset.files:
        target = folder / file.path
        if file in missing:
            part = target.with_name(f"{target.name}.part")
            _download(f"{(origin or file.base).rstrip('/')}/{file.path}", part, say, pause)
            _check_unchanged(file, part, recorded)
            rows[file.path] = _checked(file, part)
            os.replace(part, target)
        else:
            rows[file.path] = _checked(file, target)
        if file.path not in recorded:
            recorded[file.path] = sha256_of(target)
            _write_checksums(folder, recorded)
        say(f"{file.path}: {rows[file.path]:,} rows")
    together = sum(rows[file.path] for file in dataset.files if file.rows is None)
    if dataset.total_rows is not None and together != dataset.total_rows:
        files = ", ".join(file.path for file in dataset.files if file.rows is None)
        raise DataError(
            f"{folder}: {files} hold {together:,} rows, expected {dataset.total_rows:,}. "
            "Delete them and fetch them from another origin."
        )
    return folder


def _download(url: str, part: Path, say: OnFile, pause: float) -> None:
    """Fetch `url` into `part`, resuming from the bytes it has; several attempts."""
    part.parent.mkdir(parents=True, exist_ok=True)
    reason = ""
    # Byte ranges count the bytes as they are stored, so none of them may come compressed.
    with httpx.Client(timeout=TIMEOUT, follow_redirects=True, headers={"Accept-Encoding": "identity"}) as client:
        for attempt in range(ATTEMPTS):
            if attempt:
                say(f"{url}: {reason}; attempt {attempt + 1} of {ATTEMPTS}")
                time.sleep(pause * 2 ** (attempt - 1))
            try:
                if _fetch_rest(client, url, part, say):
                    return
                reason = "the server answered 'try again later'"
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}".rstrip(": ")
            except httpx.InvalidURL as error:
                raise DataError(f"{url}: not an address ({error}). Fix --origin.") from error
            except OSError as error:
                raise DataError(
                    f"{part}: cannot be written ({error.strerror}). Free the place and run again."
                ) from error
    raise DataError(
        f"{url}: download failed after {ATTEMPTS} attempts ({reason}). Run again to resume, or pass --origin URL."
    )


def _fetch_rest(client: httpx.Client, url: str, part: Path, say: OnFile) -> bool:
    """One attempt; False where the server is busy. Raises `httpx.TransportError` where the connection breaks."""
    have = part.stat().st_size if part.is_file() else 0
    with client.stream("GET", url, headers={"Range": f"bytes={have}-"} if have else {}) as response:
        status = response.status_code
        start, length = _content_range(response)
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if have == length:
                return True  # the break came after the last byte
            part.unlink()  # longer than the file: not a beginning of it
            return False
        if status in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.REQUEST_TIMEOUT) or status >= 500:
            return False
        if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise DataError(
                f"{url}: the server answers {status} {response.reason_phrase}. Check the address, or --origin."
            )
        goes_on = status == httpx.codes.PARTIAL_CONTENT and start == have
        if status == httpx.codes.PARTIAL_CONTENT and not goes_on:
            part.unlink(missing_ok=True)
            return False
        with part.open("ab" if goes_on else "wb") as stream:
            told = stream.tell()
            # Without a chunk size: gathered chunks would be lost when the connection breaks.
            for chunk in response.iter_raw():
                stream.write(chunk)
                if stream.tell() - told >= REPORT_BYTES:
                    told = stream.tell()
                    say(f"{url}: {told / 1e6:.0f} MB")
    return True


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """The first byte and the whole length that `Content-Range: bytes 5-9/10` (or `bytes */10`) states."""
    span, _, length = response.headers.get("Content-Range", "").removeprefix("bytes").strip().partition("/")
    first = span.partition("-")[0]
    return int(first) if first.isdigit() else None, int(length) if length.isdigit() else None


def _check_unchanged(file: RemoteFile, part: Path, recorded: dict[str, str]) -> None:
    if recorded.get(file.path) not in (None, sha256_of(part)):
        part.unlink()
        raise DataError(
            f"{file.path}: what the origin gives is no longer what was fetched first (the checksum differs). "
            f"If that is meant, remove its line from {part.parent / CHECKSUMS}."
        )


def _checked(file: RemoteFile, path: Path) -> int:
    """The number of rows, if columns and rows are as expected; a wrong `.part` file is removed."""
    try:
        if file.header:
            table = read_csv(path)
            require_columns(table, file.columns, path, "The origin gives another file; pass --origin URL.")
        else:
            table = read_csv(path, delimiter="\t", quoted=False, names=file.columns)
        if file.rows is not None and table.num_rows != file.rows:
            raise DataError(
                f"{path}: {table.num_rows:,} rows, expected {file.rows:,}. Delete it and fetch it from another origin."
            )
    except DataError:
        if path.suffix == ".part":
            path.unlink()
        raise
    return table.num_rows


def _read_checksums(folder: Path) -> dict[str, str]:
    file = folder / CHECKSUMS
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise DataError(f"{file}: damaged. Delete it; the next run records the checksums again.") from error


def _write_checksums(folder: Path, recorded: dict[str, str]) -> None:
    with atomic_write(folder / CHECKSUMS) as temporary:
        temporary.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n", encoding="utf-8")

"""Searching every place that an erasure reaches for somebody, without changing anything."""

from __future__ import annotations

import contextlib
import csv
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError

from beholder.cluster.run_storage import SharedRun, below, copies, storage_uri
from beholder.methods import erase_saved
from beholder.registry import maintenance as upkeep
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store
from beholder.registry.feedback import Feedback
from beholder.util.atomic import scratch
from beholder.util.errors import BeholderError, DataError, first_line
from beholder.util.paths import home


@dataclass(frozen=True)
class Traces:
    """Where a search for somebody looked, and what it found.

    Attributes:
        found: a line for each place that has something of theirs, or that would take it in again.
        not_seen: a line for each place that could not be read.
        bundles, runs: how many were searched.
    """

    found: tuple[str, ...]
    not_seen: tuple[str, ...]
    bundles: int
    runs: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def find_traces(user: str) -> Traces:
    """Search all that an erasure reaches for somebody, and change nothing.

    Every file of every bundle in every store, the database of users' judgements, and the runs, searches and
    refused rows of this machine and of the storage of a cluster. A store or database without a tombstone of theirs is a
    finding: what comes later is not refused there. Memory of servers, files of yours and backups are not searched.
    """
    found: list[str] = []
    not_seen: list[str] = []
    stores: set[str] = {Store().uri}
    bundles = 0
    with noted(not_seen):
        for version in all_versions():
            with noted(not_seen):
                stores.add(registry.store_of(version).uri)
    for uri in sorted(stores):
        with noted(not_seen):
            looked = upkeep.traces(user, Store(uri))
            bundles += looked.bundles
            found += looked.found
            not_seen += looked.not_seen
    with noted(not_seen):
        feedback = Feedback()
        judgements, enrolments = feedback.kept_of(user)
        if judgements or enrolments:
            found.append(f"{feedback.place}: {judgements:,} judgements and {enrolments:,} enrolments")
        if not feedback.erased([user]):
            found.append(f"{feedback.place}: no tombstone, so that judgements of theirs would be kept")
    runs = 0
    for folder in sorted(each for kind in ("runs", "searches") for each in (home() / kind).glob("*/")):
        runs += 1
        _search_run(folder, str(folder), user, found, not_seen)
    with noted(not_seen):
        for name in copies():
            runs += 1
            with scratch() as own:
                uri = below(storage_uri() or "", f"runs/{name}")
                SharedRun(own, uri).fetch(".")
                _search_run(own, uri.partition("?")[0], user, found, not_seen)
    for file in sorted((home() / "refused").glob("*.csv")):
        with noted(not_seen):
            if any(user in row for row in rows_of(file)):
                found.append(str(file))
    return Traces(tuple(found), tuple(not_seen), bundles, runs)


def _search_run(folder: Path, where: str, user: str, found: list[str], not_seen: list[str]) -> None:
    """Add what a run's files and fitted methods have of somebody, and what of it cannot be read."""
    half = sum(HALF_WRITTEN.fullmatch(file.name) is not None for file in folder.rglob(".*.*"))
    if half:
        not_seen.append(f"{where}: {half} files are half-written. Let the run end, or erase again")
    for file in sorted(folder.rglob("*.parquet")):
        try:
            if "user_id" in pq.read_schema(file).names and names_in(file, user):
                found.append(f"{where}: {file.relative_to(folder)}")
        except (OSError, pa.ArrowException) as error:
            not_seen.append(f"{where}: {file.relative_to(folder)} cannot be read ({type(error).__name__})")
    for method in sorted({file.parent for file in folder.rglob("method.json")}):
        try:
            with scratch() as own:
                copy = own / "method"
                shutil.copytree(method, copy, copy_function=_linked)
                if erase_saved(copy, user):  # found by doing it: see `maintenance.traces`
                    found.append(f"{where}: {method.relative_to(folder)}")
        except (BeholderError, OSError, ValueError, KeyError, pa.ArrowException, SafetensorError) as error:
            not_seen.append(f"{where}: {method.relative_to(folder)} cannot be read ({type(error).__name__})")


def _linked(source: str, target: str) -> None:
    Path(target).symlink_to(Path(source).resolve())


HALF_WRITTEN = re.compile(r"\..+\.(\d+)(\.[0-9a-f]+)?")
"""Names of what is being written, or was by a process that was killed: its number is in them."""


def rows_of(file: Path) -> list[list[str]]:
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            return list(csv.reader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read ({first_line(error)}). Fix or delete it.") from error


def names_in(file: Path, user: str) -> bool:
    return pq.read_table(file, columns=["user_id"]).filter(pc.field("user_id") == user).num_rows > 0


@contextlib.contextmanager
def noted(problems: list[str]) -> Iterator[None]:
    """Collect an error instead of raising it, so that the erasure continues with the rest."""
    try:
        yield
    except BeholderError as error:
        problems.append(str(error))


def all_versions() -> list[registry.Version]:
    """Of all registered models."""
    return [version for model in registry.models() for version in registry.versions(model)]

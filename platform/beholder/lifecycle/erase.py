"""Erasing a person: from every bundle of every store, from the judgements given to served models, and from the runs
and searches kept on this machine and in the storage of a cluster (`BEHOLDER_STORAGE`).

MLflow holds nothing of anybody: versions say where their bundle is, runs hold numbers over all users.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from beholder.cluster.run_storage import SharedRun, copies, run_here, storage_uri
from beholder.evaluation.scores_io import without_user
from beholder.lifecycle.retrain import retrain, train_again
from beholder.lifecycle.traces import HALF_WRITTEN, all_versions, names_in, noted, rows_of
from beholder.registry import maintenance as upkeep
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store
from beholder.registry.feedback import Feedback
from beholder.registry.lease import HeldError
from beholder.registry.manifest import Manifest
from beholder.registry.remainder import STILL_HOLDS, Share
from beholder.report.page import NAMED
from beholder.util.atomic import atomic_write, sweep_scratch
from beholder.util.errors import BeholderError, DataError, RegistryError, first_line
from beholder.util.paths import home
from beholder.util.run_folder import ANNOTATIONS, EVALUATION, EXPERIMENT, FORGETTING, RESULTS, SCORES, RunFolder
from beholder.workflows.run import Reporter
from beholder.workflows.run_report import redraw_report

REBUILT = ("methods", "bundle", "unfinished", "ray")
"""Of a run folder: what a run can make again, and would have to, once the person's rows are gone from its source."""
PATIENCE_S = 600.0
"""How long one erasure of runs waits for another."""


def erase_everywhere(user: str) -> dict[str, Any]:
    """Erase a person; done again, it finishes what died half-way.

    Returns:
        What `beholder registry erase --json` prints: `bundles` and `runs` rewritten, `objects` and `judgements`
        given to a served model deleted, and `record`, which identifies this erasure, but not the person.
        `priors`: for each version whose prior was learned
        from rows of theirs, how many (`rows`; None: not recorded) of all its rows and people (`of_rows`, `of_people`).
        It is appended to `erasures.jsonl` in the home folder, too.

    Raises:
        RegistryError: something of theirs may be left, as what it is in is damaged or cannot be written. Everything
            else was erased, and is on record.
    """
    problems: list[str] = []
    judgements, runs, found = 0, 0, []
    versions: list[registry.Version] = []
    stores: set[str] = set()
    with noted(problems):
        stores.add(Store().uri)
    with noted(problems):
        versions = all_versions()
    for version in versions:
        with noted(problems):
            stores.add(registry.store_of(version).uri)
    for uri in sorted(stores):  # tombstones first: from here on nothing that is under way brings them back
        with contextlib.suppress(BeholderError):  # reported below
            store = Store(uri)
            with store.writing("erasing"):
                store.bury(user)
    with noted(problems), contextlib.closing(Feedback()) as feedback:
        judgements = feedback.erase(user)
    sweep_scratch()  # what processes that were killed left
    with noted(problems), _alone():
        for file in sorted((home() / "searches").glob("*/annotations.parquet")):
            with noted(problems):
                runs += _erase_run(SharedRun(file.parent, None), user, _nothing)
        with noted(problems):
            _erase_refused(user)
        names = {file.parent.name for file in (home() / "runs").glob("*/annotations.parquet")}
        shared: set[str] = set()
        with noted(problems):
            shared = set(copies())
        names |= shared
        with _alone_in_storage(problems) as check:
            for name in sorted(names if check else names - shared):
                with noted(problems), run_here(name) as run:
                    runs += _erase_run(run, user, check or _nothing)
    for uri in sorted(stores):
        with noted(problems):
            found.append(upkeep.erase(user, Store(uri)))
            problems += found[-1].problems
    shares = {bundle: share for each in found for bundle, share in each.shares.items()}
    record = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "record": secrets.token_hex(8),
        "left": len(problems),
        "priors": [_share(version, shares) for version in versions if version.tags.get(registry.BUNDLE) in shares],
        "bundles": sum(each.bundles for each in found),
        "objects": sum(each.objects for each in found),
        "runs": runs,
        "judgements": judgements,
    }
    with (home() / "erasures.jsonl").open("a") as stream:
        stream.write(json.dumps(record) + "\n")
    if problems:
        more = f" And {len(problems) - 1} more." if len(problems) > 1 else ""
        raise RegistryError(f"not erased everywhere: {problems[0]}{more} Repair or delete that, then erase again.")
    return record


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One at a time erases from runs: of two that each write a table without one person, the last would bring the
    other's back.

    Raises:
        RegistryError: another does so for longer than `PATIENCE_S`.
    """
    lock = FileLock(home() / ".erasing.lock", timeout=PATIENCE_S)
    try:
        home().mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RegistryError(f"{home()}: another process is erasing there. Erase again.") from None
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise RegistryError(f"{lock.lock_file}: {reason}. Check the rights of the home folder.") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _alone_in_storage(problems: list[str]) -> Iterator[Callable[[], None] | None]:
    """The same of the storage of a cluster, between machines.

    Yields:
        What raises RegistryError once the lock is lost; None where another holds it, so that runs in the storage have
        to be left alone. Where no lock is available, the erasure continues without one, and reports it.
    """
    with contextlib.ExitStack() as stack:
        check: Callable[[], None] | None = _nothing
        if storage := storage_uri():
            store = Store(storage)
            try:
                stack.enter_context(store.writing("erasing", PATIENCE_S))
                check = store.check
            except RegistryError as error:
                problems.append(str(error).replace("BEHOLDER_STORE,", "BEHOLDER_STORAGE,"))
                check = None if isinstance(error, HeldError) else _nothing
        yield check


def _nothing() -> None:
    """There is no lock to be lost."""


def admit_again(user: str) -> bool:
    """Take away all tombstones of somebody who was erased, so that they can be learned from; whether there were any.

    Raises:
        BeholderError: a store or the database cannot be written. Done again, it finishes.
    """
    stores = {Store().uri, *(registry.store_of(version).uri for version in all_versions())}
    found = [Feedback().admit_again(user)]
    for uri in sorted(stores):
        store = Store(uri)
        with store.writing("admitting"):
            found.append(store.unbury(user))
    return any(found)


def retrain_priors(reporter: Reporter | None = None) -> list[dict[str, Any]]:
    """Learn the prior of every champion again that holds rows of people who were erased, now or earlier.

    Returns:
        What `retrain.retrain` returns of each; of a model for which that was refused, `model` and `error`.
    """
    models = [version.model for version, manifest in _champions() if STILL_HOLDS in manifest]
    return [_tried(retrain, model, reporter) for model in models]


def trained_on(user: str) -> list[str]:
    """Models whose champion was trained on a person's judgements, or on those of people who were erased earlier."""
    found = []
    for version, manifest in _champions():
        with run_here(manifest.run) as run:
            run.fetch(ANNOTATIONS)
            rows = RunFolder(run.folder).annotations
            theirs = names_in(rows, user) if rows.is_file() else registry.user_row(version, user)["known"]
        if theirs or STILL_HOLDS in manifest:
            found.append(version.model)
    return found


def train_all_again(models: Sequence[str], reporter: Reporter | None = None) -> list[dict[str, Any]]:
    """Train all that people share again, from the rows of those who are left: see `retrain.train_again`.

    Returns:
        What that returns of each; of a model for which it was refused, `model` and `error`.
    """
    return [_tried(train_again, model, reporter) for model in models]


def _tried(
    train: Callable[[str, Reporter | None], dict[str, Any]], model: str, reporter: Reporter | None
) -> dict[str, Any]:
    try:
        return train(model, reporter)
    except BeholderError as error:
        return {"model": model, "error": str(error)}


def _champions() -> Iterator[tuple[registry.Version, Manifest]]:
    """Every champion, and its manifest."""
    for version in all_versions():
        if registry.CHAMPION in version.aliases and registry.BUNDLE in version.tags:
            yield version, registry.store_of(version).manifest(registry.bundle_of(version))


def _share(version: registry.Version, shares: Mapping[str, Share]) -> dict[str, Any]:
    return {"model": version.model, "version": version.number, **asdict(shares[registry.bundle_of(version)])}


def _erase_run(shared: SharedRun, user: str, check: Callable[[], None]) -> bool:
    """Whether there was anything of theirs. The annotations go last: by them a run is known to be done.

    What is drawn again after that names nobody who is gone; where it cannot be drawn, nothing of theirs is left.
    """
    folder = shared.folder
    shared.fetch(ANNOTATIONS, FORGETTING)
    try:
        left_behind(folder)
        of_other_source = [file for file in RunFolder(folder).forgetting.glob("[!.]*.parquet") if names_in(file, user)]
        if not of_other_source and not names_in(RunFolder(folder).annotations, user):
            return False
        shared.fetch(SCORES, EVALUATION, RESULTS, EXPERIMENT)
        for name in REBUILT:
            if (folder / name).exists():
                shutil.rmtree(folder / name)
        for file in RunFolder(folder).all_scores:
            without_user(file, user)
        for file in of_other_source:
            _without(file, user)
        RunFolder(folder).users.unlink(missing_ok=True)
        (folder / NAMED).unlink(missing_ok=True)
        shutil.rmtree(RunFolder(folder).user_figures, ignore_errors=True)
        _without(RunFolder(folder).annotations, user)
        if RunFolder(folder).results.is_file():
            redraw_report(folder)
        check()
        shared.mirror(ANNOTATIONS)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{folder}: cannot be read or written ({reason}). Fix it, or delete the folder.") from error
    return True


def left_behind(folder: Path) -> None:
    """Remove what processes of this machine that were killed left half-written in a run: whose it is is unknown."""
    for file in folder.rglob(".*.*"):
        found = HALF_WRITTEN.fullmatch(file.name)
        if found and file.is_file() and not _runs(int(found[1])):
            file.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _erase_refused(user: str) -> None:
    """Take a person's rows out of the tables that hold what was refused of a source (`home()/refused`).

    Raises:
        DataError: one cannot be read or written.
    """
    for file in sorted((home() / "refused").glob("*.csv")):
        rows = rows_of(file)
        kept = [row for row in rows if user not in row]
        if len(kept) < len(rows):
            try:
                with atomic_write(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
                    csv.writer(stream).writerows(kept)
            except OSError as error:
                raise DataError(f"{file}: cannot be written ({first_line(error)}). Fix or delete it.") from error


def _without(file: Path, user: str) -> None:
    table = pq.read_table(file)
    with atomic_write(file) as temporary:
        pq.write_table(table.filter(pc.field("user_id") != user), temporary, compression="zstd")

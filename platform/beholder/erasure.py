"""Erasing a person: out of every bundle of every store, of what served models were told, and of the runs
and searches kept on this machine and in the storage of a cluster (`BEHOLDER_STORAGE`).

MLflow holds nothing of anybody: versions say where their bundle is, runs hold numbers over all users.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder.cluster.shared import SharedRun, copies, run_of
from beholder.errors import BeholderError, DataError
from beholder.evaluation.report import read_results
from beholder.evaluation.scores_file import without_user
from beholder.feedback import Feedback
from beholder.files import whole
from beholder.home import home
from beholder.pipeline import Reporter, draw_report
from beholder.registry import registry, upkeep
from beholder.registry.remainder import STILL_HOLDS, Share
from beholder.registry.store import Store
from beholder.report.page import NAMED
from beholder.retrain import retrain

REBUILT = ("methods", "bundle", "unfinished", "ray")
"""Of a run folder: what a run can make again, and would have to, once the person's rows are gone from its source."""


def erase_everywhere(user: str) -> dict[str, Any]:
    """Erase a person; done again, it finishes what died half-way.

    Returns:
        What `beholder registry erase --json` prints: `bundles` and `runs` written anew, `objects` and `judgements`
        given to a served model deleted, and a salted hash of the id. `priors`: for each version whose prior was learned
        from rows of theirs, how many (`rows`; None: not recorded) of all its rows and people (`of_rows`, `of_people`).
        It is appended to `erasures.jsonl` in the home folder, too.

    Raises:
        BeholderError: a file is damaged or cannot be written; what was erased before it stays erased.
    """
    versions = _versions()
    stores = {Store().uri} | {registry.store_of(version).uri for version in versions}
    found = [upkeep.erase(user, Store(uri)) for uri in sorted(stores)]
    judgements = Feedback().erase(user)
    folders = {file.parent for kind in ("runs", "searches") for file in (home() / kind).glob("*/annotations.parquet")}
    folders |= {home() / "runs" / name for name in copies()}
    runs = sum(_erase_run(folder, user) for folder in sorted(folders))
    shares = {bundle: share for each in found for bundle, share in each.shares.items()}
    record = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": found[0].fingerprint,
        "salt": found[0].salt,
        "priors": [_share(version, shares) for version in versions if version.tags.get(registry.BUNDLE) in shares],
        "bundles": sum(each.bundles for each in found),
        "objects": sum(each.objects for each in found),
        "runs": runs,
        "judgements": judgements,
    }
    with (home() / "erasures.jsonl").open("a") as stream:
        stream.write(json.dumps(record) + "\n")
    return record


def retrain_priors(reporter: Reporter | None = None) -> list[dict[str, Any]]:
    """Learn the prior of every champion again that holds rows of people who were erased, now or earlier.

    Returns:
        What `retrain.retrain` returns of each; of a model for which that was refused, `model` and `error`.
    """
    found: list[dict[str, Any]] = []
    for version in _versions():
        if registry.CHAMPION not in version.aliases or registry.BUNDLE not in version.tags:
            continue
        manifest = registry.store_of(version).manifest(registry.bundle_of(version))
        if STILL_HOLDS not in manifest:
            continue
        try:
            found.append(retrain(version.model, reporter))
        except BeholderError as error:
            found.append({"model": version.model, "error": str(error)})
    return found


def _versions() -> list[registry.Version]:
    return [version for model in registry.models() for version in registry.versions(model)]


def _share(version: registry.Version, shares: Mapping[str, Share]) -> dict[str, Any]:
    return {"model": version.model, "version": version.number, **asdict(shares[registry.bundle_of(version)])}


def _erase_run(folder: Path, user: str) -> bool:
    """Whether there was anything of theirs. The annotations go last: by them a run is known to be done.

    What is drawn again after that names nobody who is gone; where it cannot be drawn, nothing of theirs is left.
    """
    shared = run_of(folder) if folder.parent.name == "runs" else SharedRun(folder, None)
    shared.fetch("annotations.parquet")
    try:
        if not _names(folder / "annotations.parquet", user):
            return False
        shared.fetch("scores", "forgetting", "evaluation.json", "results.json", "experiment.json")
        for name in REBUILT:
            shutil.rmtree(folder / name, ignore_errors=True)
        for file in (folder / "scores").glob("[!.]*.parquet"):
            without_user(file, user)
        for file in (folder / "forgetting").glob("*.parquet"):
            _without(file, user)
        (folder / "users.parquet").unlink(missing_ok=True)
        (folder / NAMED).unlink(missing_ok=True)
        shutil.rmtree(folder / "figures-of-users", ignore_errors=True)
        _without(folder / "annotations.parquet", user)
        if (folder / "results.json").is_file():
            draw_report(folder, read_results(folder))
        shared.mirror("annotations.parquet")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}). Mend that, and erase again.") from error
    return True


def _names(file: Path, user: str) -> bool:
    return pq.read_table(file, columns=["user_id"]).filter(pc.field("user_id") == user).num_rows > 0


def _without(file: Path, user: str) -> None:
    table = pq.read_table(file)
    with whole(file) as temporary:
        pq.write_table(table.filter(pc.field("user_id") != user), temporary, compression="zstd")

"""Refreshing a registered model: users with new judgements get adapters trained again, all else stays as it is.

`retrain` does the same for all users, under a prior that is learned again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beholder.adapters.shards import update
from beholder.data.annotations import Annotations
from beholder.data.label_rules import LabelRule
from beholder.data.task import Task
from beholder.datasets import load
from beholder.datasets.table import Table
from beholder.evaluation.headline import scored_headline
from beholder.lifecycle.earlier import merged, with_earlier
from beholder.methods import Fitted, load_fitted
from beholder.methods.user_adapters import FittedBank
from beholder.registry import bundle_store as stored
from beholder.registry import maintenance as upkeep
from beholder.registry import versions as registry
from beholder.registry.blob_store import ChangedError, Store
from beholder.registry.bundle import USERS_FILE
from beholder.registry.feedback import Feedback
from beholder.registry.manifest import Manifest
from beholder.registry.memory import read_texts, read_told, write_taken_in, write_told
from beholder.registry.routing import USERS, reroute, row_losses
from beholder.tracking.client import identity
from beholder.training.context import Context
from beholder.util.atomic import atomic_write, scratch
from beholder.util.errors import BeholderError, DataError, RegistryError
from beholder.util.tombstones import erased_people
from beholder.workflows.run import Reporter, Silent

KEPT = ("best", "base", "users", "split_hash", "valid_macro_f1", "metric")
"""Tags of a version that are one of its refreshed successor, too; what was measured on test is not."""


TRIES = 3
"""How often a refresh begins, where people are erased from the champion meanwhile."""


def refresh(model: str, file: Path | None, reporter: Reporter | None = None) -> dict[str, Any]:
    """Train users with new judgements on the champion's global model; publish a candidate.

    All that is known of them is learned from: the new judgements, what they gave the served model, what earlier
    refreshes learned of them, and their rows in the champion's run where that is kept here; of the same text, what
    comes first in this list. A text is learned from, chooses epochs, or is left alone for testing, as the champion's
    split would have it. Where somebody is erased while it works, it begins again without them.

    Args:
        model: a registered model that gives users adapters.
        file: a table with columns `text`, `user_id`, and one of 0 and 1 for each label, or of
            points for each scale; of a multiclass task `label`,
            the class. See `datasets.table`. None: what users gave the served model (`feedback`).
        reporter: receives progress.

    Returns:
        Everything `beholder refresh --json` prints. `valid_macro_f1`: of the refreshed users on their validation rows,
        by the champion (`old`) and by the candidate (`new`); None where there are no such rows.

    Raises:
        BeholderError: nothing to refresh, or the table cannot be read; nothing was published.
    """
    return with_champion(model, reporter or Silent(), partial(_refresh, file=file))


Work = Callable[[registry.Version, Store, Manifest, Reporter], dict[str, Any]]
"""What is done with a champion, its store and its manifest."""


def with_champion(model: str, reporter: Reporter, work: Work) -> dict[str, Any]:
    """Do something with a model's champion; again from the beginning where it changes meanwhile, as by an erasure.

    Raises:
        BeholderError: it gives nobody an adapter, what the work raises, or it changed `TRIES` times.
    """
    for left in reversed(range(TRIES)):
        champion = registry.find(model)
        store = registry.store_of(champion)
        manifest = store.manifest(registry.bundle_of(champion))
        require_bank(champion, manifest)
        try:
            return work(champion, store, manifest, reporter)
        except (BeholderError, FileNotFoundError) as error:
            changed = isinstance(error, ChangedError) or store.manifest(registry.bundle_of(champion)) != manifest
            if not changed or not left:
                raise
        reporter.say("the champion changed meanwhile, as when somebody is erased: beginning again")
    raise AssertionError("unreachable")


def _refresh(
    champion: registry.Version, store: Store, manifest: Manifest, reporter: Reporter, file: Path | None
) -> dict[str, Any]:
    """One try. See `refresh`."""
    model = champion.model
    task = manifest.task
    feedback = Feedback()
    enrolments = feedback.enrolled(model, manifest.backbone_digest)  # before the judgements they are of
    told = feedback.annotations(model, task)
    if file is None and told is None:
        raise DataError(f"{model} has received no judgements: PUT /v1/users/ID/annotations, or give --annotations.")
    given = _table(file, task) if file else told
    assert given is not None
    new = upkeep.without_erased(given, store)
    if len(new) < len(given):
        gone = erased_people(len(given.users) - len(new.users))
        reporter.say(f"{gone}: their {len(given) - len(new):,} judgements are left out")
    if not len(new):
        raise DataError(
            f"{file or 'the judgements of users'}: everybody in it was erased, so there is nobody to learn from."
        )
    of_tables = read_told(manifest, store)
    others = [rows for rows in (told if file else None, of_tables) if rows is not None]
    parts, left = with_earlier(new, manifest, reporter, others, read_texts(manifest, store))
    if not len(parts["train"]):
        where = file or "the judgements of users"
        raise DataError(f"{where}: no row is left to learn from ({left:,} are of texts kept for testing). Give more.")
    base = manifest.base
    with scratch() as own, stored.unfolded(manifest, store, True) as folder:
        old = load_fitted(folder / "personal", base)
        assert isinstance(old, FittedBank)

        def progress(done: int, total: int, note: str, unit: str = "steps") -> None:
            reporter.step("refresh", done, total, note, unit)

        context = Context(base, manifest.seed, progress=progress, say=reporter.say, run_folder=own)
        fitting = old.config.begin_on(old.shared, parts["train"], parts["valid"], context, old.prior)
        for number in range(len(fitting.blocks)):
            fitting.train(number)
        before = scores_of(old, parts["valid"])
        trained, measured_on = fitting.finish()
        rewritten = update(folder / "personal" / "bank", trained)
        refreshed = load_fitted(folder / "personal", base)
        after = scores_of(old.with_bank(measured_on), parts["valid"])  # before these rows were learned from
        shared = scores_of(load_fitted(folder / "global", base), parts["valid"])
        _write_routes(folder / USERS_FILE, manifest, parts, shared, after)
        if file:
            write_told(folder, merged(new, of_tables))
        write_taken_in(folder, {user: enrolments[user] for user in parts["train"].users if user in enrolments})
        measured = {"old": _macro_f1(before, old, parts["valid"]), "new": _macro_f1(after, refreshed, parts["valid"])}
        users = len(parts["train"].users)
        changed = {"refreshed": {"from": champion.number, "users": users, "valid_macro_f1": measured}}
        page = _version_page(model, champion.number, users, len(parts["train"]), measured)
        version = publish_candidate(champion, manifest, manifest.but(**changed), folder, measured, page)
    return {
        **version.to_json(),
        "refreshed_from": champion.number,
        "users": users,
        "rows": {name: len(part) for name, part in parts.items()},
        "kept_for_testing": left,
        "shards_rewritten": rewritten,
        "valid_macro_f1": measured,
    }


def require_bank(champion: registry.Version, manifest: Manifest) -> None:
    """Refuse a version that has no adapters.

    Raises:
        RegistryError: it has none.
    """
    if manifest.methods.get("personal") not in ("cls-u", "lm-u"):
        raise RegistryError(
            f"{champion.model} v{champion.number} gives nobody an adapter, so there is none to refresh."
        )


def publish_candidate(
    champion: registry.Version,
    was: Manifest,
    becomes: Manifest,
    folder: Path,
    measured: Mapping[str, float | None],
    page: str,
) -> registry.Version:
    """Publish what a champion's bundle became as a candidate.

    Args:
        champion: the version it comes from.
        was: the champion's manifest, as it was opened.
        becomes: the new one; `files` are taken from the folder.
        folder: the bundle, see `bundle_store.unfolded`, some files of it written again.
        measured: validation macro-F1 on the same rows, of the champion (`old`) and of the candidate (`new`).
        page: of the version.

    Raises:
        ChangedError: the champion's bundle changed since it was opened, or somebody in the new one was erased.
        RegistryError: it cannot be published.
    """
    store = registry.store_of(champion)
    with store.writing("publishing"):
        kept = stored.new_id()
        new = becomes.but(files=stored.files_of(folder, was, store), tracking=identity())
        with store.changing(kept, new.digests):
            if store.manifest(registry.bundle_of(champion)) != was:
                raise ChangedError(
                    f"{champion.model} v{champion.number}: it changed while it was refreshed, as when a user is "
                    "erased, so the result was not published. Run the command again."
                )
            stored.refuse_erased(folder, store, (), "Run the command again: it leaves their rows out.")
            stored.put_files(folder, new, store)
            store.write_manifest(kept, new)
    tags = {
        **{name: value for name, value in champion.tags.items() if name in KEPT},
        registry.REFRESHED: str(champion.number),
        **{f"{registry.REFRESHED}.{name}": f"{value:.6f}" for name, value in measured.items() if value is not None},
    }
    return registry.make_version(champion.model, kept, store, champion.run_id, tags, page)


def _table(file: Path, task: Task) -> Annotations:
    """New judgements of a table."""
    if task.kind == "multiclass":
        return load(Table(path=file, kind=task.kind, label_column="label", classes=task.labels)).annotations
    labels = {question.name: LabelRule.of(question) for question in task.questions}
    return load(Table(path=file, labels=labels, allow_missing=True)).annotations


def _version_page(model: str, old: int, users: int, rows: int, measured: dict[str, float | None]) -> str:
    better = "Nobody of them has a row to choose by, so it is not known whether they are served better."
    if None not in measured.values():
        before, after = (100 * (measured[name] or 0.0) for name in ("old", "new"))
        better = f"Macro-F1 on their validation rows: {after:.1f}, {before:.1f} before."
    return (
        f"# {model} v{old}, refreshed\n\n{users:,} users were trained again on {rows:,} judgements. {better}\n\n"
        f"All else is v{old}'s, whose page has the gains on test; what is refreshed was not measured there."
    )


def scores_of(fitted: Fitted, rows: Annotations) -> NDArray[np.float32]:
    """Scores of rows, of which there may be none: float32 [rows, labels]."""
    return (
        fitted.score(list(rows.texts), list(rows.user_ids)) if len(rows) else np.zeros((0, len(rows.task.labels)), "f4")
    )


def _macro_f1(scores: NDArray[np.float32], fitted: Fitted, rows: Annotations) -> float | None:
    if not len(rows):
        return None
    return scored_headline(scores, fitted.thresholds, rows.labels, rows.task)


def _write_routes(
    file: Path,
    manifest: Manifest,
    parts: dict[str, Annotations],
    shared: NDArray[np.float32],
    personal: NDArray[np.float32],
) -> None:
    """Choose again for the refreshed users, by what is known of everybody."""
    names, rows = np.unique(parts["train"].user_ids.astype(str), return_counts=True)
    valid = parts["valid"]
    before, after = (row_losses(scores, valid.labels, valid.task.kind) for scores in (shared, personal))
    known = dict(zip(names.tolist(), rows.tolist(), strict=True))
    population = manifest.population
    fresh = reroute(known, valid.user_ids.tolist(), before, after, population)
    table = pq.read_table(file)
    others = table.filter(~pc.field("user_id").isin(list(known)))
    with atomic_write(file) as temporary:
        pq.write_table(pa.concat_tables([others.cast(USERS), fresh]), temporary, compression="zstd")

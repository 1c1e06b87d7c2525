"""Versions in MLflow's model registry: publish, promote, roll back, find.

A version names a bundle in a store (`store`). Aliases say which one counts: `candidate` is the newest published,
`champion` the one served.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from beholder.evaluation.headline import MACRO_F1
from beholder.registry.blob_store import Store
from beholder.registry.bundle import Bundle
from beholder.registry.bundle_store import keep, open_stored, users_of
from beholder.registry.pyfunc import write_model
from beholder.tracking.client import client, identity
from beholder.util.atomic import scratch
from beholder.util.errors import RegistryError, first_line, unknown

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CANDIDATE = "champion", "candidate"
BUNDLE, STORE = "bundle", "store"
"""Tags of a version that say where its bundle is."""
REFRESHED = "refreshed_from"
"""Tag of a version made by refreshing another; `.old` and `.new` hold both's validation macro-F1 on the same rows,
where there were any."""
HISTORY = "champions"
"""Tag of a model: the numbers of its champions, oldest first."""


@dataclass(frozen=True)
class Version:
    """One published bundle.

    Attributes:
        model, number: name and version in MLflow.
        aliases: those that point at it.
        tags: split_hash, valid_macro_f1, best, base, ...
        run_id: the run that made it.
        created: milliseconds since 1970.
    """

    model: str
    number: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str
    created: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "version": self.number,
            "aliases": list(self.aliases),
            "tags": dict(self.tags),
            "run_id": self.run_id,
            "created": self.created,
        }


@dataclass(frozen=True)
class Proof:
    """A bundle's scores of some rows, compared with those through MLflow before a version is made.

    Attributes:
        texts, users: of each row.
        scores: float32 [rows, labels].
        tolerance: how far apart they may be.
    """

    texts: Sequence[str]
    users: Sequence[str]
    scores: NDArray[np.float32]
    tolerance: float

    def hold(self, model: Path) -> None:
        """Load a model folder as MLflow does and compare.

        Raises:
            RegistryError: it predicts something else.
        """
        import mlflow.pyfunc
        import pandas as pd

        said = mlflow.pyfunc.load_model(str(model)).predict(pd.DataFrame({"user_id": self.users, "text": self.texts}))
        scores = said[[name for name in said.columns if name.startswith("score.")]].to_numpy()
        difference = float(np.abs(scores - self.scores).max(initial=0.0))
        if difference > self.tolerance:
            raise RegistryError(f"loaded by MLflow, it scores differently by {difference:.2g}. It was not published.")


def publish(
    model: str,
    bundle: Path,
    run_id: str,
    tags: Mapping[str, str],
    description: str,
    proof: Proof | None = None,
    people: Collection[str] = (),
) -> Version:
    """Store a bundle, make it a new version of `model` and point `candidate` at it.

    A publishing that dies leaves no version, and at most files that `maintenance.gc` collects.

    Args:
        model: name in MLflow; made where it is not there.
        bundle: folder written by `write_bundle`.
        run_id: the MLflow run that made it; what stands for the bundle becomes its artifact `models/ID/`.
        tags: facts to search and compare by; `split_hash` and `valid_macro_f1` decide promotion.
        description: Markdown for the version's page.
        proof: what has to hold of the model as MLflow loads it.
        people: see `bundle_store.keep`.

    Raises:
        RegistryError: store or MLflow refused, somebody was erased meanwhile, or MLflow's way to the model predicts
            something else.
    """
    store = Store()
    return make_version(model, keep(bundle, store, people, identity()), store, run_id, tags, description, proof)


def make_version(
    model: str,
    kept: str,
    store: Store,
    run_id: str,
    tags: Mapping[str, str],
    description: str,
    proof: Proof | None = None,
) -> Version:
    """Make a bundle that is in a store a new version of `model`, and point `candidate` at it. See `publish`."""
    from mlflow.exceptions import MlflowException

    tracker = client()
    try:
        with scratch() as temporary:
            folder = temporary / "model"
            write_model(folder, kept, store)
            if proof is not None:
                proof.hold(folder)
            tracker.log_artifacts(run_id, str(folder), f"models/{kept}")  # a run may have several: those refreshed
        first = True
        try:
            tracker.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            first = False
        made = tracker.create_model_version(
            model,
            source=f"runs:/{run_id}/models/{kept}",
            run_id=run_id,
            tags={**tags, BUNDLE: kept, STORE: store.uri},
            description=description,
        )
        try:
            store.manifest(kept)
        except RegistryError:  # this process stood still for so long that the bundle was collected
            tracker.delete_model_version(model, made.version)
            if first:
                tracker.delete_registered_model(model)
            raise
        tracker.set_registered_model_alias(model, CANDIDATE, made.version)
    except (MlflowException, OSError) as error:
        raise RegistryError(f"model {model!r} could not be published: {first_line(error)}") from error
    return find(model, str(made.version))


def promote(
    model: str, number: int, force: bool = False, check: Callable[[Version, Version], None] | None = None
) -> Version:
    """Point `champion` at a version: of two processes that promote at once, one does.

    Args:
        model, number: which.
        force: whatever the champion is like.
        check: called with the version and the champion; raises to refuse.

    Raises:
        RegistryError: the champion was measured on another split, or is better on validation, or `check` refuses, and
            `force` is off; or another process is promoting.
    """
    with store_of(find(model, str(number))).writing("promoting", patience=60):
        candidate = find(model, str(number))
        champion = next((version for version in versions(model) if CHAMPION in version.aliases), None)
        if champion is not None and champion.number != number and not force:
            _compare(candidate, champion)
            if check is not None:
                check(candidate, champion)
        former = _former(model)
        if champion is not None and champion.number in former:
            former = former[: former.index(champion.number) + 1]
        if number not in former[-1:]:
            _point(model, number, [*former, number])
    return find(model, str(number))


def rollback(model: str) -> Version:
    """Point `champion` at the version that was it before.

    Raises:
        RegistryError: there was none, or another process is promoting.
    """
    champion = find(model)
    with store_of(champion).writing("rolling back", patience=60):
        number, former = find(model).number, _former(model)
        there = {version.number for version in versions(model)}
        before = former[: former.index(number)] if number in former else former
        before = [each for each in before if each in there]
        if not before:
            raise RegistryError(f"{model}: there was no champion before v{number}. Promote another version.")
        _point(model, before[-1], before)
    return find(model)


def _compare(candidate: Version, champion: Version) -> None:
    """Raise unless the candidate was measured as the champion was, and is not worse."""
    model, number = candidate.model, candidate.number
    remedy = f"To promote it anyway: beholder registry promote {model} {number} --force"
    if champion.tags.get("split_hash") != candidate.tags.get("split_hash"):
        raise RegistryError(
            f"{model} v{number} and the champion v{champion.number} were measured on different splits and cannot "
            f"be compared. {remedy}"
        )
    measured = [version.tags.get("metric", MACRO_F1) for version in (champion, candidate)]
    if measured[0] != measured[1]:
        raise RegistryError(
            f"{model} v{number} was measured by {measured[1]} and the champion v{champion.number} by {measured[0]}, "
            f"which cannot be compared. {remedy}"
        )
    if candidate.tags.get(REFRESHED) == str(champion.number):
        old, new = (float(candidate.tags.get(f"{REFRESHED}.{name}", "nan")) for name in ("old", "new"))
        if np.isnan([old, new]).any():
            raise RegistryError(
                f"{model} v{number} was refreshed without a row to choose by, so nobody knows whether it is better "
                f"than v{champion.number}. {remedy}"
            )
    else:
        old, new = (float(version.tags.get("valid_macro_f1", "nan")) for version in (champion, candidate))
    if not new >= old:
        raise RegistryError(
            f"{model} v{number} is worse on validation than the champion v{champion.number} "
            f"({measured[0]} {100 * new:.1f} against {100 * old:.1f}). {remedy}"
        )


def _former(model: str) -> list[int]:
    """Champions in the order in which they became it, the one that is it now among them."""
    said = client().get_registered_model(model).tags.get(HISTORY, "[]")
    return [int(number) for number in json.loads(said)]


def _point(model: str, number: int, history: list[int]) -> None:
    """The history first: one that dies before the alias is moved leaves the old champion, who is in it, too."""
    tracker = client()
    tracker.set_registered_model_tag(model, HISTORY, json.dumps(history))
    tracker.set_registered_model_alias(model, CHAMPION, str(number))


def models() -> list[str]:
    """Names of all registered models."""
    return sorted(model.name for model in _pages(client().search_registered_models))


def _pages(search: Callable[..., Any]) -> list[Any]:
    """All that a search of MLflow finds, which answers a page at a time."""
    found: list[Any] = []
    token = None
    while True:
        page = search(page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def versions(model: str) -> list[Version]:
    """All versions of a model, newest first.

    Raises:
        RegistryError: no model has that name.
    """
    from mlflow.exceptions import MlflowException

    tracker = client()
    try:
        aliases = tracker.get_registered_model(model).aliases
    except MlflowException as error:
        raise RegistryError(f"{unknown('model', model, models())} Publish one with: beholder run EXPERIMENT") from error
    found = _pages(lambda **page: tracker.search_model_versions(f"name = '{model}'", **page))
    return sorted((_version(each, aliases) for each in found), key=lambda version: -version.number)


def find(model: str, which: str = CHAMPION) -> Version:
    """A version by number or alias.

    Raises:
        RegistryError: there is none; lists those there are.
    """
    all_versions = versions(model)
    for version in all_versions:
        if which == str(version.number) or which in version.aliases:
            return version
    names = [str(version.number) for version in all_versions] + sorted({a for v in all_versions for a in v.aliases})
    raise RegistryError(f"{model}: {unknown('version or alias', which, names)}")


def bundles_named(store: Store) -> set[str]:
    """The bundles of a store that are versions of any model."""
    every = [version for model in models() for version in versions(model)]
    return {bundle_of(each) for each in every if BUNDLE in each.tags and store_of(each).uri == store.uri}


def store_of(version: Version) -> Store:
    """The store that holds a version's bundle. `BEHOLDER_STORE` is where a store is that was moved."""
    return Store(os.environ.get("BEHOLDER_STORE") or version.tags.get(STORE))


def bundle_of(version: Version) -> str:
    """The id of a version's bundle in its store.

    Raises:
        RegistryError: the version was not published by beholder, or by one that had no store yet.
    """
    if BUNDLE not in version.tags:
        raise RegistryError(f"{version.model} v{version.number}: it names no bundle in a store. Publish it again.")
    return version.tags[BUNDLE]


def user_row(version: Version, user: str) -> dict[str, Any]:
    """How a version serves a user: `routing.USERS` without the id; the global route for somebody it does not know."""
    table = users_of(bundle_of(version), store_of(version))
    (row, *_) = [*table.filter(pc.field("user_id") == user).to_pylist(), {"user_id": user, "route": "global"}]
    del row["user_id"]
    return {"version": version.number, "aliases": list(version.aliases), "known": len(row) > 1, **row}


def difference(one: Version, other: Version) -> dict[str, Any]:
    """Whom another version is expected to serve better or worse than one: by expected gain over the global method.

    Returns:
        `better`, `worse`, `same`, `joined`, `left`: how many users; `users`: each of better and worse, the largest
        changes first, with `from` and `to` in nats a row and label, and both routes.
    """
    before, after = (
        {row["user_id"]: row for row in users_of(bundle_of(version), store_of(version)).to_pylist()}
        for version in (one, other)
    )

    def served(row: dict[str, Any]) -> float:
        return row["expected"] if row["route"] == "personal" else 0.0

    both = [(user, before[user], after[user]) for user in before if user in after]
    changes = [
        {"user_id": user, "from": served(old), "to": served(new), "routes": [old["route"], new["route"]]}
        for user, old, new in both
        if served(old) != served(new)
    ]
    changes.sort(key=lambda change: -abs(change["to"] - change["from"]))
    better = sum(change["to"] > change["from"] for change in changes)
    return {
        "better": better,
        "worse": len(changes) - better,
        "same": len(both) - len(changes),
        "joined": len(after.keys() - before.keys()),
        "left": len(before.keys() - after.keys()),
        "users": changes,
    }


def open_version(version: Version, device: str = "cpu") -> Bundle:
    """Load what a version serves. See `bundle_store.open_stored` for the errors."""
    return open_stored(bundle_of(version), store_of(version), device)


def _version(found: ModelVersion, aliases: Any) -> Version:
    number = int(found.version)
    mine = tuple(sorted(alias for alias, version in dict(aliases).items() if int(version) == number))
    tags = {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.tags.items()}
    return Version(found.name, number, mine, tags, found.run_id or "", int(found.creation_timestamp or 0))

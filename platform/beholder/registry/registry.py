"""Versions in MLflow's model registry: publish, promote, find.

A version is a bundle, stored once as an artifact of the run that made it. Aliases say which one counts: `candidate` is
the newest published, `champion` the one served.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from beholder.errors import RegistryError, unknown
from beholder.home import home
from beholder.registry.bundle import MANIFEST, read_manifest
from beholder.tracking import client

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CANDIDATE = "champion", "candidate"


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


def publish(model: str, bundle: Path, run_id: str, tags: Mapping[str, str], description: str) -> Version:
    """Store a bundle as a new version of `model` and point `candidate` at it.

    Args:
        model: name in MLflow; made where it is not there.
        bundle: folder written by `write_bundle`.
        run_id: the MLflow run that made it; the bundle becomes its artifact `bundle/`.
        tags: facts to search and compare by; `split_hash` and `valid_macro_f1` decide promotion.
        description: Markdown for the version's page.
    """
    from mlflow.exceptions import MlflowException

    tracker = client()
    try:
        tracker.log_artifacts(run_id, str(bundle), "bundle")
        try:
            tracker.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = tracker.create_model_version(
            model, source=f"runs:/{run_id}/bundle", run_id=run_id, tags=dict(tags), description=description
        )
        tracker.set_registered_model_alias(model, CANDIDATE, made.version)
    except (MlflowException, OSError) as error:
        raise RegistryError(f"model {model!r} could not be published: {str(error).splitlines()[0]}") from error
    return find(model, str(made.version))


def promote(model: str, number: int, force: bool = False) -> Version:
    """Point `champion` at a version.

    Raises:
        RegistryError: the champion was measured on another split, or is better on validation, and `force` is off.
    """
    tracker = client()
    candidate = find(model, str(number))
    champion = next((version for version in versions(model) if CHAMPION in version.aliases), None)
    if champion is not None and champion.number != number and not force:
        if champion.tags.get("split_hash") != candidate.tags.get("split_hash"):
            raise RegistryError(
                f"{model} v{number} and the champion v{champion.number} were measured on different splits and cannot "
                f"be compared. To promote it anyway: beholder registry promote {model} {number} --force"
            )
        old, new = (float(version.tags.get("valid_macro_f1", "nan")) for version in (champion, candidate))
        if not new >= old:
            raise RegistryError(
                f"{model} v{number} is worse on validation than the champion v{champion.number} "
                f"(macro-F1 {100 * new:.1f} against {100 * old:.1f}). "
                f"To promote it anyway: beholder registry promote {model} {number} --force"
            )
    tracker.set_registered_model_alias(model, CHAMPION, str(number))
    return find(model, str(number))


def models() -> list[str]:
    """Names of all registered models."""
    return sorted(model.name for model in client().search_registered_models())


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
    found = tracker.search_model_versions(f"name = '{model}'")
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


def bundle_folder(version: Version) -> Path:
    """A local folder with the version's bundle; one from a remote artifact store is fetched once into the home folder.

    Raises:
        RegistryError: the artifacts are not there.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.file_utils import local_file_uri_to_path

    try:
        uri = client().get_run(version.run_id).info.artifact_uri or ""
        if urlparse(uri).scheme in ("", "file"):
            folder = Path(local_file_uri_to_path(uri)) / "bundle"
        else:
            folder = home() / "bundles" / version.run_id / "bundle"
            if not (folder / MANIFEST).is_file():
                folder.parent.mkdir(parents=True, exist_ok=True)
                client().download_artifacts(version.run_id, "bundle", str(folder.parent))
        read_manifest(folder)
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"{version.model} v{version.number}: its bundle cannot be read from the artifact store "
            f"({str(error).splitlines()[0]}). Publish it again, or roll back to another version."
        ) from error
    return folder


def _version(found: ModelVersion, aliases: Any) -> Version:
    number = int(found.version)
    mine = tuple(sorted(alias for alias, version in dict(aliases).items() if int(version) == number))
    tags = {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.tags.items()}
    return Version(found.name, number, mine, tags, found.run_id or "", int(found.creation_timestamp or 0))

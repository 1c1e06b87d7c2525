"""A thin layer over MLflow's client: one parent run for an experiment, a child run for each method."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.util.errors import TrackingError, first_line
from beholder.util.paths import home

if TYPE_CHECKING:
    from mlflow import MlflowClient


KEY = "beholder.key"
"""Tag of a run that is a record of something that grows."""


@dataclass(frozen=True)
class ChildRun:
    """What MLflow shall know of one method."""

    name: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    tags: Mapping[str, str]
    files: tuple[Path, ...] = ()


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, else SQLite in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def identity() -> str:
    """The identity of this MLflow: a hash of its address without name and password."""
    return hashlib.sha256(re.sub(r"//[^/@]*@", "//", tracking_uri()).encode()).hexdigest()[:16]


def artifact_folder() -> Path:
    """Where artifacts go while there is no tracking server."""
    return home() / "artifacts"


def client() -> MlflowClient:
    """A client on the store, made ready on first use.

    Raises:
        TrackingError: the store cannot be reached or written.
    """
    os.environ.setdefault("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    import mlflow
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = tracking_uri()
    try:
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        made = MlflowClient(uri, uri)
        made.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        reason = first_line(error)
        raise TrackingError(f"MLflow store {uri}: {reason}. Check MLFLOW_TRACKING_URI, or the disk.") from error
    return made


def log_run(
    experiment: str,
    name: str,
    *,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float | None],
    tags: Mapping[str, str],
    description: str,
    folders: Mapping[str, Path],
    children: list[ChildRun],
    key: str | None = None,
) -> str:
    """Record one finished run and its methods; returns the parent's run id.

    Args:
        experiment: MLflow's experiment, made where it is not there.
        name: of the parent run.
        parameters, metrics, tags: of the parent; metrics that are None are left out.
        description: Markdown, shown on top of the run's page.
        folders: artifact path -> a local folder or file to log there.
        children: one per method, with names of their own.
        key: of a record that grows. The run recorded under it before is extended, and only children that are not
            there are added.

    Raises:
        TrackingError: MLflow refused; what was begun is marked FAILED.
    """
    from mlflow.exceptions import MlflowException

    tracker = client()
    begun: list[str] = []
    try:
        experiment_id = _experiment_id(tracker, experiment)
        written = {**tags, "mlflow.note.content": description, **({KEY: key} if key else {})}
        parent, there = _recorded(tracker, experiment_id, key) if key else (None, set())
        if parent is None:
            parent = tracker.create_run(experiment_id, run_name=name, tags=written).info.run_id
        else:
            for tag, value in written.items():
                tracker.set_tag(parent, tag, value)
        begun.append(parent)
        _log(tracker, parent, parameters, metrics)
        for place, path in folders.items():
            if path.is_dir():
                tracker.log_artifacts(parent, str(path), place)
            else:
                tracker.log_artifact(parent, str(path), place or None)
        for child in children:
            if child.name in there:
                continue
            child_tags = {**tags, **child.tags, "mlflow.parentRunId": parent}
            run_id = tracker.create_run(experiment_id, run_name=child.name, tags=child_tags).info.run_id
            begun.append(run_id)
            _log(tracker, run_id, child.parameters, child.metrics)
            for file in child.files:
                tracker.log_artifact(run_id, str(file))
        for run_id in begun:
            tracker.set_terminated(run_id, "FINISHED")
    except (MlflowException, OSError) as error:
        for run_id in begun:
            try:
                tracker.set_terminated(run_id, "FAILED")
            except MlflowException:
                break
        reason = first_line(error)
        raise TrackingError(
            f"MLflow store {tracking_uri()}: {reason}. The run's folder is complete; run again to log it."
        ) from error
    return parent


def page_of(run_id: str) -> str | None:
    """The address of a run's page, where MLflow is a server."""
    uri = tracking_uri().rstrip("/")
    if not uri.startswith(("http://", "https://")):
        return None
    return f"{uri}/#/experiments/{client().get_run(run_id).info.experiment_id}/runs/{run_id}"


def register_prompt(name: str, template: str | list[dict[str, str]], tags: Mapping[str, str]) -> dict[str, str]:
    """Put a prompt into MLflow's Prompt Registry, unless it is there: the version with the same tag `digest`.

    Args:
        name: letters, digits, `-`, `_` and `.`.
        template: with `{{variables}}`; or messages of a chat.
        tags: of the version; `digest` among them.

    Returns:
        The tags of a run that used it: `prompt`, `prompt_version`, and what MLflow shows a run's prompts by.

    Raises:
        TrackingError: the store has no such registry, or refused.
    """
    from mlflow.exceptions import MlflowException

    tracker = client()
    try:
        there = tracker.search_prompt_versions(name) if tracker.get_prompt(name) is not None else []
        same = [version for version in there if version.tags.get("digest") == tags["digest"]]
        version = str((same[0] if same else tracker.register_prompt(name, template, tags=dict(tags))).version)
    except MlflowException as error:
        reason = first_line(error).rstrip(".")
        raise TrackingError(f"MLflow store {tracking_uri()}: prompt {name!r} was not registered: {reason}.") from error
    shown = json.dumps([{"name": name, "version": version}])
    return {"prompt": name, "prompt_version": version, "mlflow.linkedPrompts": shown}


def _recorded(tracker: MlflowClient, experiment_id: str, key: str) -> tuple[str | None, set[str]]:
    """The parent run under a key, and the names of its finished children; those a killed process left go away."""
    runs = tracker.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
    if not runs:
        return None, set()
    parent = runs[0].info.run_id
    there: set[str] = set()
    token: str | None = None
    while token is None or token:
        page = tracker.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'", page_token=token)
        for run in page:
            if run.info.status == "FINISHED":
                there.add(str(run.info.run_name))
            else:
                tracker.delete_run(run.info.run_id)
        token = page.token or ""
    return parent, there


def _experiment_id(tracker: MlflowClient, name: str) -> str:
    found = tracker.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    local = tracking_uri().startswith("sqlite:")
    return tracker.create_experiment(name, artifact_location=artifact_folder().as_uri() if local else None)


def _log(
    tracker: MlflowClient, run_id: str, parameters: Mapping[str, Any], metrics: Mapping[str, float | None]
) -> None:
    from mlflow.entities import Metric, Param
    from mlflow.utils.time import get_current_time_millis

    now = get_current_time_millis()
    written = [Param(key, value if isinstance(value, str) else json.dumps(value)) for key, value in parameters.items()]
    measured = [Metric(key, float(value), now, 0) for key, value in metrics.items() if value is not None]
    tracker.log_batch(run_id, metrics=measured, params=written)

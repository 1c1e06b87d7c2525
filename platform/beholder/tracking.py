"""A thin layer over MLflow's client: one parent run for an experiment, a child run for each method."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.errors import TrackingError
from beholder.home import home

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
        reason = str(error).strip().splitlines()[0]
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
) -> str:
    """Record one finished run and its methods; returns the parent's run id.

    Args:
        experiment: MLflow's experiment, made where it is not there.
        name: of the parent run.
        parameters, metrics, tags: of the parent; metrics that are None are left out.
        description: Markdown, shown on top of the run's page.
        folders: artifact path -> a local folder or file to log there.
        children: one per method.

    Raises:
        TrackingError: MLflow refused; what was begun is marked FAILED.
    """
    from mlflow.exceptions import MlflowException

    tracker = client()
    begun: list[str] = []
    try:
        experiment_id = _experiment_id(tracker, experiment)
        parent = tracker.create_run(
            experiment_id, run_name=name, tags={**tags, "mlflow.note.content": description}
        ).info.run_id
        begun.append(parent)
        _log(tracker, parent, parameters, metrics)
        for place, path in folders.items():
            if path.is_dir():
                tracker.log_artifacts(parent, str(path), place)
            else:
                tracker.log_artifact(parent, str(path), place or None)
        for child in children:
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
        reason = str(error).strip().splitlines()[0]
        raise TrackingError(
            f"MLflow store {tracking_uri()}: {reason}. The run's folder is complete; run again to log it."
        ) from error
    return parent


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

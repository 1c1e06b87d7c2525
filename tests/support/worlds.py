"""A home folder with one published version: fixtures for each file of tests that asks for them."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
from house import settings

from beholder.experiment.config import make_experiment
from beholder.workflows import run as pipeline


@contextmanager
def home_with_a_run(folder: Path, written: dict):
    """What the run found, for as long as the folder is home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield pipeline.run(make_experiment(written))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder, and what the run found."""
    folder = tmp_path_factory.mktemp("home")
    with home_with_a_run(folder, settings()) as outcome:
        yield folder, outcome


@pytest.fixture
def outcome(world, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(world[0]))
    return world[1]

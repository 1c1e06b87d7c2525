"""Every test has a home folder of its own; nothing a test does reaches the user's."""

from __future__ import annotations

import os

import pytest

from beholder.cluster.local import apply_settings

apply_settings()


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Where all tests keep the bases they make or convert: the same for each, and SmolLM2 alone takes 20 s."""
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, bases):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "bases").symlink_to(bases)
    monkeypatch.setenv("BEHOLDER_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    os.environ.setdefault("MPLBACKEND", "Agg")
    return folder

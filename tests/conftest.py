"""Every test has a home folder of its own; nothing a test does reaches the user's."""

from __future__ import annotations

import os

import hypothesis
import pytest
from needs import skipped_line

from beholder.cluster.runtime import apply_settings

hypothesis.settings.register_profile("house", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("house")

apply_settings()
os.environ.pop("COLUMNS", None)  # what runs tests side by side sets it to 80, and names in tables would be cut there
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray yields to other programs, and would starve beside other tests


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    monkeypatch.setenv("BEHOLDER_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    os.environ.setdefault("MPLBACKEND", "Agg")
    return folder


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """What tests were skipped for want of, in one line."""
    skipped = [each.longrepr for each in terminalreporter.stats.get("skipped", [])]
    line = skipped_line(str(each[2] if isinstance(each, tuple) else each) for each in skipped)
    if line:
        terminalreporter.write_line(line)

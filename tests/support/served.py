"""A real server for browser tests: Ray Serve on loopback, a small model whose readers differ."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from house import MODEL, settings
from servers import free_port

from beholder.experiment.config import make_experiment
from beholder.workflows import run as pipeline
from beholder_serve.api import ApiSettings
from beholder_serve.auth import KeyRing
from beholder_serve.deployment import serving


@contextlib.contextmanager
def published(home: Path) -> Iterator[list[str]]:
    """A home folder, set for the time of the block, in which the model of `house` is the champion; its readers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        outcome = pipeline.run(make_experiment(settings()))
        yield sorted(set(outcome.test.user_ids.tolist()))


@contextlib.contextmanager
def playground_server(home: Path) -> Iterator[tuple[str, list[str]]]:
    """A server without tokens: its address, and its readers."""
    port = free_port()
    with published(home) as readers, serving({"model": MODEL, "poll_s": 0.5}, "127.0.0.1", port):
        yield f"http://127.0.0.1:{port}", readers


@contextlib.contextmanager
def token_server(home: Path) -> Iterator[tuple[str, str]]:
    """A server that requires tokens: its address, and a token with the scope admin."""
    port = free_port()
    with published(home), serving({"model": MODEL}, "127.0.0.1", port, ApiSettings(tokens=True)):
        yield f"http://127.0.0.1:{port}", KeyRing().issue("tester", ["admin"], timedelta(hours=1))

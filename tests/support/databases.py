"""An empty database of each kind that feedback is kept in: a fixture for tests that ask for it."""

from __future__ import annotations

import pytest
from servers import postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """The address of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'kept.db'}"
        return
    with postgres(tmp_path / "postgres.log") as url:
        yield url.replace("postgresql://", "postgresql+psycopg://")

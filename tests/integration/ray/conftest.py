"""One embedded Ray for all tests of a file."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def ray_once():
    """Each run joins it instead of starting its own."""
    from beholder.cluster.runtime import on_ray

    with on_ray():
        yield

"""What comes out when nothing happens."""

from __future__ import annotations

import pytest
from clusters import experiment, shards

from beholder import pipeline


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Results and shards of one process, without a cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_HOME", str(tmp_path_factory.mktemp("undisturbed")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        outcome = pipeline.run(experiment(0))
    return outcome.results, shards(outcome)

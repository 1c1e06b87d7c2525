"""Erased people are taken out of what everybody shares, too: `registry erase --retrain` runs the experiment again."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from house import MODEL, content, said, settings
from typer.testing import CliRunner
from worlds import home_with_a_run

from beholder.cli.main import app
from beholder.data.annotations import Annotations
from beholder.lifecycle.erase import trained_on
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path):
    with home_with_a_run(tmp_path / "home", settings()) as outcome:
        yield tmp_path / "home", outcome


def scores_by_all(number: int, outcome) -> np.ndarray:
    texts = list(outcome.test.texts)
    return registry.open_version(registry.find(MODEL, str(number))).shared.score(texts, ["nobody"] * len(texts))


def test_the_global_model_is_trained_again_without_them(world, tmp_path):
    home, outcome = world
    rows = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
    first, second, *others = rows.users
    assert trained_on(first) == [MODEL] and trained_on("a stranger") == []
    before = scores_by_all(1, outcome)
    found = said("registry", "erase", "--user", first, "--retrain")
    (retrained,) = found["retrained"]
    assert (retrained["model"], retrained["version"], found["bundles"]) == (MODEL, 2, 1)
    again = Annotations.read_parquet(home / "runs" / retrained["run"] / "annotations.parquet")
    assert set(again.users) == {second, *others} and len(again) == int((rows.user_ids != first).sum())
    assert registry.find(MODEL).number == 1 and registry.find(MODEL, "candidate").number == 2
    manifest = Store().manifest(registry.bundle_of(registry.find(MODEL, "2")))
    assert "prior_still_holds" not in manifest and first not in set(
        registry.open_version(registry.find(MODEL, "2")).users
    )
    assert np.abs(scores_by_all(2, outcome) - before).max() > 1e-4  # it learned from others
    np.testing.assert_array_equal(scores_by_all(1, outcome), before)
    assert not [file for file in home.rglob("*") if file.is_file() and first.encode() in content(file)]

    assert trained_on("a stranger") == [MODEL]  # the champion still holds a share of somebody who was erased
    registry.promote(MODEL, 2, force=True)
    assert trained_on("a stranger") == []
    shutil.move(home / "runs" / retrained["run"], tmp_path / "elsewhere")
    refused = CliRunner().invoke(app, ["registry", "erase", "--user", second, "--retrain"])
    assert refused.exit_code == 2 and "erased, but" in refused.stderr and "is not in" in refused.stderr
    assert second not in refused.output and "Traceback" not in refused.output
    assert set(registry.open_version(registry.find(MODEL)).users) == set(others)

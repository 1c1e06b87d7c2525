"""A home folder that cannot be written, and a Ray that is not up in time, are one line each."""

from __future__ import annotations

import pytest
import yaml
from judged_tables import drawn, long, pairs, written
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.cluster import runtime
from beholder.util.errors import BeholderError, ClusterError
from beholder.util.paths import require_home


@pytest.fixture
def experiment(tmp_path):
    table = written(tmp_path / "mine.csv", long(pairs(), rude=drawn((0, 1))))
    settings = {"name": "x", "methods": {"prior": {}}, "evaluate": {"reference": "prior"}}
    settings["source"] = {"name": "table", "path": str(table), "user": "annotator", "labels": ["rude"]}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "x.yaml"


@pytest.mark.parametrize("command", [("run",), ("models", "pull", "owner/model")])
def test_an_unusable_home(command, experiment, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "file" / "home"))
    arguments = [*command, str(experiment)] if command == ("run",) else list(command)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and "Set BEHOLDER_HOME to a folder" in done.stderr
    with pytest.raises(BeholderError, match="cannot be written"):
        require_home()


def test_a_ray_that_is_not_up_in_time(monkeypatch):
    import ray

    def late(**settings):
        raise Exception("The current node timed out during startup. This could happen because of an overload.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    monkeypatch.delenv(runtime.ADDRESS, raising=False)
    with pytest.raises(ClusterError, match=r"Ray did not start: The current node timed out.*run the command again"):
        runtime.start_ray()

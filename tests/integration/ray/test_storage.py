"""What a run shares through an object store, and what happens when the store, MLflow or the disk is gone."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from clusters import Undisturbed, Watched, experiment, shards
from house import content
from project import ROOT
from servers import free_port, mlflow_server, object_storage

from beholder.cluster.run_storage import SharedRun, below, missing
from beholder.cluster.runtime import on_ray
from beholder.experiment.config import make_experiment
from beholder.lifecycle.erase import erase_everywhere
from beholder.util.errors import ClusterError, TrackingError
from beholder.workflows import run as pipeline

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    """Its processes have the keys of the object store from the start, as those of a cluster do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        with on_ray(2):
            yield


def files(folder: Path) -> dict[str, bytes]:
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_copies_go_there_and_back_and_what_says_whole_goes_last(tmp_path):
    here, there, other = (tmp_path / name for name in ("here", "there", "other"))
    for name, text in {"methods/a/weights": "one", "methods/a/done.json": "1", "scores/a": "s", ".lock": ""}.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    shared = SharedRun(here, there.as_uri())
    shared.fetch("methods")  # nothing is there yet
    shared.keep("methods", "scores", "nothing")
    kept = {name: written for name, written in files(here).items() if name != ".lock"}
    assert files(there) == kept
    back = SharedRun(other, there.as_uri())
    back.fetch(".")
    assert files(other) == kept

    (here / "methods" / "a" / "weights").write_text("two")
    (here / "methods" / "a" / "done.json").write_text("2")
    (here / "methods" / "a" / "bad").mkdir()
    (there / "methods" / "a" / "bad").write_text("in the way of a folder")
    (here / "methods" / "a" / "bad" / "file").write_text("x")
    with pytest.raises(ClusterError, match="run again to resume"):
        shared.keep("methods")
    assert not (there / "methods" / "a" / "done.json").exists()  # torn, and nothing says otherwise
    (there / "methods" / "a" / "bad").unlink()
    shared.keep("methods")
    back.fetch("methods")
    assert files(other)["methods/a/weights"] == b"two" and files(other)["methods/a/done.json"] == b"2"
    shared.drop("methods")
    shared.drop("methods")
    assert set(files(there)) == {"scores/a"}


def test_a_storage_that_cannot_be_written_or_read_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    shared = SharedRun(tmp_path, "file:///proc/beholder")
    with pytest.raises(ClusterError, match=r"storage file:///proc/beholder: .*BEHOLDER_STORAGE"):
        shared.keep("file")
    with pytest.raises(ClusterError, match="storage nowhere://x"):
        SharedRun(tmp_path, "nowhere://x")


def test_below_keeps_what_stands_after_the_question_mark():
    assert below("s3://bucket/runs/?region=x&scheme=http", "store") == "s3://bucket/runs/store?region=x&scheme=http"
    assert below("gs://bucket", "store") == "gs://bucket/store"


def test_what_several_nodes_lack_is_said_with_its_remedy():
    assert missing(1, "sqlite:///x", False) is None and missing(2, "http://m", True) is None
    both = missing(3, "sqlite:///x", False)
    assert both and "3 nodes" in both and "--storage" in both and "--mlflow" in both
    assert "--storage" not in (missing(2, "sqlite:///x", True) or "")


def test_workers_share_through_an_object_store_and_another_machine_goes_on(tmp_path, monkeypatch):
    with object_storage(tmp_path, "bucket") as (uri, client):
        expected = Undisturbed(tmp_path / "undisturbed")
        monkeypatch.setenv("BEHOLDER_STORAGE", uri)
        outcome = pipeline.run(experiment(2))
        expected.is_what_came_of(outcome)
        there = [each["Key"] for each in client.list_objects_v2(Bucket="bucket")["Contents"]]  # type: ignore[attr-defined]
        run = outcome.run_folder.name
        assert f"kept/runs/{run}/results.json" in there and f"kept/runs/{run}/methods/cls-u/done.json" in there
        assert not [key for key in there if "unfinished" in key or "/ray/" in key or ".lock" in key]

        monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "another"))
        again = Watched(experiment(2), tmp_path / "another")
        again.run()
        assert again.error is None and shards(again.outcome) == shards(outcome)
        assert sum("finished before with the same inputs, kept" in line for line in again.lines) == 3

        user = sorted(outcome.test.user_ids)[0]
        assert erase_everywhere(user)["runs"] == 1
        for each in client.list_objects_v2(Bucket="bucket")["Contents"]:  # type: ignore[attr-defined]
            key = each["Key"]
            if key.endswith("/"):  # a place, which holds nothing
                assert each["Size"] == 0, key
                continue
            client.download_file("bucket", key, str(tmp_path / "fetched"))  # type: ignore[attr-defined]
            assert user.encode() not in content(tmp_path / "fetched"), key
            assert "/methods/" not in key and "/bundle/" not in key

        monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "third"))
        late = Watched(experiment(2, users=10, epochs=30), tmp_path / "third")
        late.start()
        late.until(lambda: (tmp_path / "third").exists())
        begun = f"kept/runs/{late.folder()}/unfinished/bank"
        late.until(lambda: bool(client.list_objects_v2(Bucket="bucket", Prefix=begun)["KeyCount"]))  # type: ignore[attr-defined]
    late.join(240)  # the store is gone
    assert isinstance(late.error, ClusterError) and "storage s3://bucket" in str(late.error), late.error
    assert "\n" not in str(late.error)


def quick():
    """Nothing to wait for."""
    settings = experiment(0).model_dump(mode="json", by_alias=True)
    return make_experiment({**settings, "methods": {"prior": {}}, "evaluate": {"reference": "prior"}})


def test_mlflow_may_be_away_for_half_a_minute(tmp_path, monkeypatch):
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    run = threading.Thread(target=lambda: found.append(pipeline.run(quick())), daemon=True)
    found: list = []
    run.start()
    time.sleep(10)
    with mlflow_server(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", port):
        run.join(120)
        assert found and found[0].results.mlflow.page.startswith(f"http://127.0.0.1:{port}/#/experiments/")


def test_mlflow_away_for_good_is_one_line_and_what_was_fitted_is_kept(home, tmp_path, monkeypatch):
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI"):
        pipeline.run(quick())
    assert not (home / "runs").exists()  # said before anything was done

    class Leaving(pipeline.Silent):
        def step(self, arm, done, total, note, unit="steps"):
            server.close()

    server = contextlib.ExitStack()
    server.enter_context(mlflow_server(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", port))
    with pytest.raises(TrackingError) as refused:
        pipeline.run(quick(), Leaving())
    assert "\n" not in str(refused.value)
    assert (next((home / "runs").iterdir()) / "methods" / "prior" / "done.json").exists()


def test_a_full_disk_is_one_line_and_what_was_finished_is_kept(home):
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from beholder.workflows import run as pipeline\n"
        "from beholder.util.errors import BeholderError\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from clusters import experiment\n"
        "class Full(pipeline.Silent):\n"
        "    def step(self, arm, done, total, note, unit='steps'):\n"
        "        if list(Path(sys.argv[2]).glob('runs/*/unfinished/bank-*/block-*.parquet')):\n"
        "            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    pipeline.run(experiment(0, epochs=20), Full())\n"
        "except BeholderError as error:\n"
        "    print(error)\n"
    )
    support = str(ROOT / "tests" / "support")
    done = subprocess.run([sys.executable, "-c", code, support, str(home)], capture_output=True, text=True, timeout=240)
    assert done.stdout.count("\n") == 1 and "kept" in done.stdout, done.stdout + done.stderr
    (run,) = (home / "runs").iterdir()
    assert (run / "methods" / "cls" / "done.json").exists() and not (run / "methods" / "cls-u").exists()
    blocks = list(run.glob("unfinished/bank-*/block-*.parquet"))
    assert blocks
    times = {file: file.stat().st_mtime_ns for file in blocks}
    again = Watched(experiment(0, epochs=20), home)
    again.start()
    again.until(lambda: again.look() > len(blocks) or not again.is_alive())
    outcome = again.end()
    assert outcome.results.methods["cls-u"].macro_f1 > 0
    for file, when in times.items():
        assert again.written.get(file.name, {when}) == {when}  # not trained again

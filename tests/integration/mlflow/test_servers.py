"""The whole life of a model where MLflow is a server on PostgreSQL and bundles lie in object storage."""

from __future__ import annotations

import subprocess
import sys

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from house import MODEL, content, said, settings, table_of
from project import ROOT
from servers import answers, free_port, mlflow_server, object_storage, postgres, postgres_tool, running

from beholder.data.annotations import Annotations
from beholder.experiment.config import make_experiment
from beholder.registry import maintenance as upkeep
from beholder.registry import versions as registry
from beholder.registry.blob_store import Store
from beholder.util.errors import RegistryError
from beholder.workflows import run as pipeline

pytestmark = pytest.mark.slow

BUCKET = "bundles"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Servers, a published version, and what its run found."""
    folder = tmp_path_factory.mktemp("servers")
    home = folder / "home"
    with (
        pytest.MonkeyPatch.context() as patch,
        postgres(folder / "postgres.log") as database,
        mlflow_server(folder, database) as tracking,
        object_storage(folder, BUCKET) as (store, bucket),
    ):
        surroundings = {
            "BEHOLDER_HOME": str(home),
            "BEHOLDER_STORE": store,
            "MLFLOW_TRACKING_URI": tracking,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        for name, value in surroundings.items():
            patch.setenv(name, value)
        yield surroundings, folder, database, bucket, pipeline.run(make_experiment(settings()))


@pytest.fixture
def here(world, monkeypatch):
    for name, value in world[0].items():
        monkeypatch.setenv(name, value)
    return world[1:]


def objects(bucket) -> dict[str, bytes]:
    """Everything that lies in the bucket."""
    found = bucket.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {each["Key"]: bucket.get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read() for each in found}


def test_mlflow_loads_what_was_published(here):
    import mlflow

    *_, outcome = here
    rows = pd.DataFrame({"user_id": [*outcome.test.user_ids, "a stranger"], "text": [*outcome.test.texts, "hello"]})
    found = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion").predict(rows)
    ours = registry.open_version(registry.find(MODEL)).predict(list(rows["text"]), list(rows["user_id"]))
    np.testing.assert_array_equal(found.filter(like="score.").to_numpy(), ours.scores)
    assert list(found["route"]) == ours.routes and "cls-u" in ours.routes


def test_refreshed_promoted_rolled_back(here, tmp_path):
    *_, bucket, outcome = here
    everybody = Annotations.read_parquet(outcome.run_folder / "annotations.parquet")
    table_of(everybody, everybody.users[:2], tmp_path / "new.parquet")
    before = set(objects(bucket))
    found = said("refresh", MODEL, "--annotations", tmp_path / "new.parquet")
    assert found["version"] == 2
    new = [key for key in set(objects(bucket)) - before if "/objects/" in f"/{key}"]
    assert 0 < len(new) <= found["shards_rewritten"] + 5
    assert said("registry", "promote", MODEL, 2, "--force")["version"] == 2
    assert [row["version"] for row in said("registry", "history", MODEL, "--user", everybody.users[0])] == [2, 1]
    assert said("registry", "rollback", MODEL)["version"] == 1


def test_damage_in_the_bucket_is_found_and_nothing_else_is_lost(here):
    *_, bucket, outcome = here
    ask = list(outcome.test.texts), list(outcome.test.user_ids)
    expected = registry.open_version(registry.find(MODEL)).predict(*ask).scores
    assert upkeep.verify(Store()).problems == ()
    manifest = Store().manifest(registry.bundle_of(registry.find(MODEL)))
    name = next(name for name in manifest["files"] if "shard-" in name)
    digest = manifest["files"][name]["sha256"]
    key = f"kept/objects/{digest[:2]}/{digest}"
    whole = bucket.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    bucket.put_object(Bucket=BUCKET, Key=key, Body=whole[:-1] + bytes([whole[-1] ^ 1]))
    (problem,) = upkeep.verify(Store()).problems  # though this machine had fetched it whole before
    assert digest in problem and "altered" in problem
    bucket.delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(RegistryError, match=r"objects/.* is missing. Publish the version again, or roll back"):
        Store().checked(digest, again=True)
    bucket.put_object(Bucket=BUCKET, Key=key, Body=whole)
    assert upkeep.verify(Store()).problems == ()
    np.testing.assert_array_equal(registry.open_version(registry.find(MODEL)).predict(*ask).scores, expected)


def test_an_erased_person_is_in_no_server(here):
    folder, database, bucket, outcome = here
    user = str(outcome.test.user_ids[0])
    others = outcome.test.user_ids != user
    ask = list(outcome.test.texts[others]), list(outcome.test.user_ids[others])
    expected = {number: registry.open_version(registry.find(MODEL, number)).predict(*ask).scores for number in "12"}
    weights = registry.open_version(registry.find(MODEL)).personal.bank.take([user])  # type: ignore[union-attr]
    needles = [
        user.encode(),
        *(row.numpy().tobytes() for name, row in weights.items() if row.any() and not name.endswith(".down")),
    ]
    assert len(needles) > 2
    found = said("registry", "erase", "--user", user)
    assert found["bundles"] == 2 and found["runs"] == 1
    dump = [postgres_tool("pg_dump"), "--inserts", database]
    there = {"the database": subprocess.run(dump, capture_output=True, check=True).stdout}
    there |= {str(file): content(file) for file in (folder / "artifacts").rglob("*") if file.is_file()}
    there |= {str(file): content(file) for file in (folder / "home").rglob("*") if file.is_file()}
    for key, body in objects(bucket).items():
        (folder / "fetched").write_bytes(body)
        there[key] = content(folder / "fetched")
    assert len(there["the database"]) > 10_000 and len(there) > 30
    for name, bytes_there in there.items():
        assert not any(needle in bytes_there for needle in needles), name
    for number, scores in expected.items():
        again = registry.open_version(registry.find(MODEL, number)).predict(*ask).scores
        np.testing.assert_array_equal(again, scores)


def test_the_mlflow_server_of_the_compose_file_works_as_it_is_written_there(here, tmp_path):
    """Its own flags, on this PostgreSQL and this S3; asked under the name other containers know it by, and no other."""
    from mlflow import MlflowClient

    _, database, bucket, _ = here
    file = ROOT / "infra" / "compose" / "compose.yaml"
    written = yaml.safe_load(file.read_text())["services"]["mlflow"]["command"]
    port, s3 = free_port(), f"http://127.0.0.1:{bucket.meta.endpoint_url.rsplit(':', 1)[1]}"
    mine = {
        "--host 0.0.0.0": "--host 127.0.0.1",
        "--port 5000": f"--port {port}",
        "127.0.0.1:5000": f"127.0.0.1:{port}",
        "postgresql+psycopg://beholder:${POSTGRES_PASSWORD}@postgres/mlflow": database,
        "s3://beholder/mlflow": f"s3://{BUCKET}/mlflow",
    }
    for there, here_ in mine.items():
        assert there in written
        written = written.replace(there, here_)
    with running(
        [sys.executable, "-m", *written.split()],
        tmp_path / "mlflow.log",
        answers(f"http://127.0.0.1:{port}/health"),
        MLFLOW_S3_ENDPOINT_URL=s3,
        AWS_DEFAULT_REGION="us-east-1",
    ):
        names = ("mlflow:5000", "evil")
        api = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"  # probes are open to all
        assert [httpx.get(api, headers={"Host": name}, timeout=60).status_code for name in names] == [200, 403]
        client = MlflowClient(f"http://127.0.0.1:{port}")
        run = client.create_run(client.create_experiment("compose"))
        client.log_text(run.info.run_id, "kept", "note.txt")
        (key,) = [each for each in objects(bucket) if each.endswith("note.txt")]
        assert key.startswith("mlflow/")

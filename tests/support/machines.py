"""One bucket as machines with home folders of their own see it."""

from __future__ import annotations

import pytest
from servers import object_storage

from beholder.registry.blob_store import Store

TERM_S = 1.5
"""Of leases, in tests."""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        with object_storage(tmp_path_factory.mktemp("s3"), "shared") as found:
            yield found


@pytest.fixture
def machine(bucket, tmp_path, monkeypatch):
    """Makes the store as a machine with a home folder of its own sees it, in an empty part of the bucket."""
    address, _ = bucket
    address = address.replace("/kept?", f"/{tmp_path.name}?")

    def made(name: str) -> Store:
        monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / name))
        store = Store(address)
        store.term = TERM_S
        return store

    return made


def everything(bucket, prefix: str) -> dict[str, bytes]:
    _, client = bucket
    found = client.list_objects_v2(Bucket="shared", Prefix=prefix).get("Contents", [])
    return {each["Key"]: client.get_object(Bucket="shared", Key=each["Key"])["Body"].read() for each in found}

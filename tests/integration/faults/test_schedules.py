"""Random schedules of writers on two machines, killed and stopped: nothing is lost, nobody erased comes back."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest
from project import ROOT

SCRIPT = ROOT / "experiments" / "benchmarks" / "schedules.py"
SCHEDULES = int(os.environ.get("BEHOLDER_TEST_SCHEDULES", "6"))


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("schedules", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["schedules"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["schedules"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_lost_nobody_returns_and_no_bystander_changes(script):
    found = script.measure(SCHEDULES, seed=7, steps=4)
    assert (found["lost"], found["returned"], found["changed"]) == (0, 0, 0), found["first"]
    assert found["done"] > 2 * SCHEDULES and found["killed"] + found["stopped"] == SCHEDULES


def test_what_it_looks_for_is_found_where_it_is(script, tmp_path):
    """Ids as text, as values of a compressed column, and weights as bytes; and not where they are not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"user_id": ["ada@example.org"] * 500}), tmp_path / "a.parquet", compression="zstd")
    assert b"ada@example.org" in script.readable((tmp_path / "a.parquet").read_bytes())
    assert b"ada@example.org" in script.readable(b'{"ada@example.org": 1}')
    assert b"ada@example.org" not in script.readable(b"somebody else")

    class Bucket:
        """One object."""

        def get_paginator(self, name):
            return self

        def paginate(self, **where):
            return [{"Contents": [{"Key": "s0/objects/one"}]}]

        def get_object(self, **which):
            return {"Body": self}

        def read(self):
            return b"\x01\x02\x03\x04 weights"

    world = object.__new__(script.World)
    world.client, world.facts = Bucket(), {"weights": {"reader2": ["01020304"], "reader3": ["09090909"]}}
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "log.txt").write_text("reader3 was here")
    assert world._found(0, tmp_path, ["reader2", "reader3"]) == ["reader2 in s0/objects/one", "reader3 in two/log.txt"]
    assert world._found(0, tmp_path, ["reader4"]) == []

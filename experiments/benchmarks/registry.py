"""The registry at many users: publish, open, look up, load, refresh, erase, verify; against a version per user.

    python experiments/benchmarks/registry.py --json                  1,000 users
    python experiments/benchmarks/registry.py --full --json           100,000 users: 3.4 GB, twice over for a while

Users have random adapters of MiniLM's shape, rank 4 in the top layer, heads of four labels; MLflow is on SQLite.

publish_s       a bundle in a folder becomes a version: checksums, objects, MLflow's pointer, parity of 64 rows
open_ms         a version is loaded with its base, median of 5
lookup_p99_ms   how one user is served, 2,000 drawn at random
load64_p99_ms   the weights of 64 random users, 200 times; every shard was opened before (`shards_s`, checksums)
refresh10_s     ten users with 20 new judgements each are trained anew and published; the longer of two
erase_s         one user, over the three versions there are then
verify_s        all checksums
peer_publish_s  MLflow's own way: each user's weights as an artifact, and a registered model version of it
ratio           seconds a user of the peer to those of `publish_s`
reader_mb       what a process holds of its own that opened a version and did the above; `mapped_mb`, what it sees of
                files, shards and libraries, which the system takes back when it needs the memory
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from shared_model import RANK, bundle_of

MODEL = "many-users"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=None, help="default 1,000, with --full 100,000")
    parser.add_argument("--peer-users", type=int, default=None, help="default 100, with --full 1,000")
    parser.add_argument("--full", action="store_true", help="for the record")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--reader", action="store_true", help=argparse.SUPPRESS)  # how it calls itself
    arguments = parser.parse_args()
    if arguments.reader:
        print(json.dumps(reader()))
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    arguments.users = arguments.users or (100_000 if arguments.full else 1_000)
    arguments.peer_users = arguments.peer_users or (1_000 if arguments.full else 100)
    with tempfile.TemporaryDirectory(prefix="beholder-") as home:
        os.environ["BEHOLDER_HOME"] = home
        for name in ("BEHOLDER_STORE", "MLFLOW_TRACKING_URI"):
            os.environ.pop(name, None)
        found = measure(arguments, Path(home))
    print(json.dumps(found) if arguments.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


def measure(arguments: argparse.Namespace, home: Path) -> dict:
    """Everything, in the order of the docstring."""
    from beholder.registry import maintenance as upkeep
    from beholder.registry import versions as registry

    bundle, rows = bundle_of(arguments.users, home / "made", 1)
    test = renamed(rows.select(range(64)), [f"user{number}" for number in range(arguments.users)])
    megabytes = round(sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) / 2**20)
    run_id = new_run()
    proof = registry.Proof(list(test.texts), list(test.user_ids), said_by(bundle, test), 1e-5)
    tags = {"split_hash": "none", "valid_macro_f1": "0.5"}
    published, _ = timed(lambda: registry.publish(MODEL, bundle, run_id, tags, "", proof))
    registry.promote(MODEL, 1)
    shutil.rmtree(bundle)  # the store has it all
    opened = [timed(lambda: registry.open_version(registry.find(MODEL)))[0] for _ in range(5)]
    there = subprocess.run([sys.executable, __file__, "--reader"], check=True, capture_output=True, text=True)
    refreshed = [refreshed_ten(arguments.users, home / f"new{number}.parquet", test, number) for number in range(2)]
    user = f"user{arguments.users // 2}"
    erase_s, erased = timed(lambda: upkeep.erase(user, registry.store_of(registry.find(MODEL))))
    verify_s, checked = timed(lambda: upkeep.verify(registry.store_of(registry.find(MODEL))))
    if erased.bundles != 3 or checked.problems:
        raise SystemExit(f"erased from {erased.bundles} bundles of 3; problems: {checked.problems}")
    peer = version_per_user(arguments.peer_users)
    return {
        "users": arguments.users,
        "rank": RANK,
        "top_layers": 1,
        "mb": megabytes,
        "publish_s": round(published, 2),
        "open_ms": round(1000 * statistics.median(opened), 1),
        **json.loads(there.stdout.splitlines()[-1]),
        "refresh10_s": round(max(seconds for seconds, _ in refreshed), 2),
        "refresh10_shards": max(found["shards_rewritten"] for _, found in refreshed),
        "erase_s": round(erase_s, 2),
        "verify_s": round(verify_s, 2),
        "peer_users": arguments.peer_users,
        "peer_publish_s": round(peer, 2),
        "ratio": round(peer / arguments.peer_users / (published / arguments.users), 1),
    }


def renamed(rows, names: list[str]):  # noqa: ANN001, ANN201
    """The same rows, of users drawn from all."""
    from beholder.data.annotations import Annotations

    users = random.Random(0).choices(names, k=len(rows))
    return Annotations.from_columns(rows.task, text=list(rows.texts), user_id=users, labels=rows.labels)


def said_by(bundle: Path, rows):  # noqa: ANN001, ANN201
    """What a bundle in a folder says."""
    from beholder.registry.bundle import open_bundle

    return open_bundle(bundle).predict(list(rows.texts), list(rows.user_ids)).scores


def reader() -> dict:
    """What somebody who serves sees, in a process of its own."""
    import psutil

    from beholder.registry import versions as registry

    bundle = registry.open_version(registry.find(MODEL))
    bank = bundle.personal.bank  # type: ignore[union-attr]
    users, drawn = bank.users, random.Random(1)
    lookups = spread(lambda: bundle.user_row(drawn.choice(users)), 2_000)
    shards_s, _ = timed(lambda: bank.take(users[::512]))
    loads = spread(lambda: bank.take(drawn.sample(users, 64)), 200)
    memory = psutil.Process().memory_info()
    return {
        "lookup_p50_ms": round(lookups[0], 4),
        "lookup_p99_ms": round(lookups[1], 4),
        "shards_s": round(shards_s, 2),
        "load64_p50_ms": round(loads[0], 2),
        "load64_p99_ms": round(loads[1], 2),
        "reader_mb": round((memory.rss - memory.shared) / 2**20),
        "mapped_mb": round(memory.shared / 2**20),
    }


def refreshed_ten(users: int, file: Path, rows, seed: int) -> tuple[float, dict]:  # noqa: ANN001
    """Seconds, and what the refresh of ten random users says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from beholder.lifecycle.refresh import refresh
    from beholder.registry import versions as registry

    drawn = random.Random(seed)
    some = [f"user{number}" for number in drawn.sample(range(users), 10) for _ in range(20)]
    places = drawn.choices(range(len(rows)), k=len(some))
    texts = [f"{rows.texts[place]} {number}" for number, place in enumerate(places)]
    labels = {label: rows.labels[places, at].astype(int) for at, label in enumerate(rows.task.labels)}
    pq.write_table(pa.table({"text": texts, "user_id": some, **labels}), file)
    took, found = timed(lambda: refresh(MODEL, file))
    registry.promote(MODEL, found["version"], force=True)
    return took, found


def version_per_user(users: int) -> float:
    """Seconds of MLflow's own way: an artifact and a registered model version for each user."""
    import torch
    from safetensors.torch import save_file

    from beholder.registry import versions as registry
    from beholder.tracking.client import client

    bundle = registry.open_version(registry.find(MODEL))
    bank = bundle.personal.bank  # type: ignore[union-attr]
    weights = [{name: tensor[0].clone() for name, tensor in bank.take([user]).items()} for user in bank.users[:users]]
    assert all(isinstance(tensor, torch.Tensor) for tensor in weights[0].values())
    tracker, run_id = client(), new_run()
    tracker.create_registered_model("a-version-per-user")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for user, tensors in enumerate(weights):
            file = Path(folder) / "adapter.safetensors"
            save_file(tensors, str(file))
            tracker.log_artifact(run_id, str(file), f"users/{user}")
            tracker.create_model_version(
                "a-version-per-user", source=f"runs:/{run_id}/users/{user}", run_id=run_id, tags={"user": str(user)}
            )
    return time.perf_counter() - started


def new_run() -> str:
    """The id of a run to hang things on."""
    from beholder.tracking.client import artifact_folder, client

    tracker = client()
    found = tracker.get_experiment_by_name("benchmark")
    place = artifact_folder().as_uri()
    experiment = found.experiment_id if found else tracker.create_experiment("benchmark", artifact_location=place)
    return tracker.create_run(experiment).info.run_id


def timed(run: Callable[[], object]) -> tuple[float, object]:
    """(seconds, what it gave)."""
    started = time.perf_counter()
    found = run()
    return time.perf_counter() - started, found


def spread(run: Callable[[], object], times: int) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds."""
    took = [1000 * timed(run)[0] for _ in range(times)]
    return float(np.median(took)), float(np.percentile(took, 99))


if __name__ == "__main__":
    main()

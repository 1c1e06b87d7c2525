"""How long it takes to give somebody a model of their own from their first judgements, once the bundle is open.

    python experiments/benchmarks/enrolment.py RUN_FOLDER --json

RUN_FOLDER is that of a finished run whose bundle serves users adapters (`$BEHOLDER_HOME/runs/NAME-HASH`). An unknown
user judges texts of the run's test part and is enrolled repeatedly. Seconds are those of `train_user` alone: trunk,
estimates on all judgements and on all but each fold, route.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from beholder.data.annotations import Annotations
from beholder.lifecycle.enroll import train_user
from beholder.registry.bundle import open_bundle


def main() -> None:
    """Print one JSON object, or lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--judgements", type=int, default=5)
    parser.add_argument("--times", type=int, default=20, help="enrolments, after two that warm up")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    bundle = open_bundle(arguments.run / "bundle")
    rows = Annotations.read_parquet(arguments.run / "annotations.parquet")
    test = rows.select(np.flatnonzero(np.asarray(rows.column("part"), dtype=object) == "test"))
    seconds = []
    for number in range(arguments.times + 2):
        first = number * arguments.judgements % (len(test) - arguments.judgements)
        mine = test.select(np.arange(first, first + arguments.judgements))
        mine = mine.replace_users(["somebody new"] * arguments.judgements)
        started = time.perf_counter()
        train_user(bundle, mine)
        seconds.append(time.perf_counter() - started)
    warm = 1000 * np.asarray(seconds[2:])
    found = {
        "judgements": arguments.judgements,
        "threads": torch.get_num_threads(),
        "first_ms": round(1000 * seconds[0]),
        "median_ms": round(float(np.median(warm))),
        "p90_ms": round(float(np.quantile(warm, 0.9))),
    }
    print(json.dumps(found) if arguments.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()

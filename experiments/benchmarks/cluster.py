"""A fan-out of users over workers: what a second worker is worth, and what giving out work costs.

    python experiments/benchmarks/cluster.py --json           2,000 users on one worker and on two, 7 minutes
    python experiments/benchmarks/cluster.py --scale --json   100,000 users and five million rows on two workers

Both run on one embedded Ray, each worker with one thread, on one shared model and the same rows; the trunk is run
before. The span of a fan-out is from the start of its first block to the end of its last.

efficiency     span on one worker / (2 x span on two); the median of runs that take turns. 1: a second worker halves it
alone          the same for two processes that train the same blocks without Ray, board or anything else between them:
               what two processes of this machine, which share the speed of its memory, are worth at best
overhead       on one worker, the part of its span that is not training, to the part that is
block_s        training of a block, median on one worker
seconds        spans on one and on two workers, and `job_s`, everything around them: Ray Train starting, models loading
rows_per_s     with `--scale`: annotations, from the source to the last adapter, a second; `phases_s` where they go
peak_mb        with `--scale`: the most that one process held, of the driver and of the workers
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--rows-per-user", type=int, default=50)
    parser.add_argument("--block-users", type=int, default=125)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--scale", action="store_true", help="five million rows instead")
    parser.add_argument("--blocks", help=argparse.SUPPRESS)  # a process of `alone`
    arguments = parser.parse_args()
    if arguments.blocks:
        train_blocks(**json.loads(arguments.blocks))
        return
    with tempfile.TemporaryDirectory(prefix="beholder-") as home:
        os.environ["BEHOLDER_HOME"] = home
        os.environ["OMP_NUM_THREADS"] = "1"
        found = measure_scale(arguments) if arguments.scale else measure(arguments)
    print(json.dumps(found) if arguments.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """An experiment whose users are trained to the last epoch, so that every run does the same."""
    bank = {"block_users": arguments.block_users, "epochs": arguments.epochs, "patience": arguments.epochs}
    return {
        "name": "cluster",
        "source": {
            "name": "simulated",
            "users": arguments.users,
            "rows_per_user": arguments.rows_per_user,
            "distinct_texts": 2_000,
        },
        "base": "minilm-l6",
        "methods": {"cls": {"epochs": 1, "max_tokens": 64}, "cls-u": {"init_from": "cls", "bank": bank}},
        "evaluate": {"reference": "cls"},
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit the shared model, then take turns."""
    from beholder.cluster.runtime import on_ray
    from beholder.experiment.config import make_experiment
    from beholder.workflows import run as pipeline

    experiment = make_experiment({**settings(arguments), "cluster": {"workers": 1}})
    prepared = pipeline.prepare(experiment)
    one, two, alone, overheads, blocks, jobs = [], [], [], [], [], []
    with on_ray(2):
        folder = pipeline.fit_some(experiment, prepared, {"cls"}, pipeline.Silent())
        for repeat in range(arguments.repeats + 1):
            spans = {}
            for workers in (1, 2):
                started = time.perf_counter()
                fan_out(experiment, prepared, folder, workers)
                whole = time.perf_counter() - started
                span, training = spent(folder)
                if repeat:  # the first turn runs the trunk, and warms everything up
                    spans[workers] = span
                    jobs.append(whole - span)
                    if workers == 1:
                        overheads.append(span / sum(training) - 1)
                        blocks.append(statistics.median(training))
            if repeat:
                one.append(spans[1])
                two.append(spans[2])
    for _ in range(arguments.repeats):
        alone.append(by_hand(arguments, folder, 1) / (2 * by_hand(arguments, folder, 2)))
    return {
        "users": arguments.users,
        "rows": len(prepared.annotations),
        "blocks": -(-arguments.users // arguments.block_users),
        "efficiency": round(statistics.median(a / (2 * b) for a, b in zip(one, two, strict=True)), 3),
        "alone": round(statistics.median(alone), 3),
        "overhead": round(statistics.median(overheads), 4),
        "block_s": round(statistics.median(blocks), 3),
        "seconds": [round(statistics.median(one), 2), round(statistics.median(two), 2)],
        "job_s": round(statistics.median(jobs), 1),
    }


def measure_scale(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything once, watching memory."""
    from beholder.cluster.runtime import on_ray
    from beholder.experiment.config import make_experiment
    from beholder.workflows import run as pipeline

    arguments.users, arguments.rows_per_user, arguments.block_users, arguments.epochs = 100_000, 50, 512, 5
    written = settings(arguments)
    written["source"]["distinct_texts"] = 20_000
    experiment = make_experiment({**written, "cluster": {"workers": 2}})
    phases: dict[str, float] = {}
    with Memory() as memory:
        started = time.perf_counter()
        prepared = pipeline.prepare(experiment)
        phases["source, split"] = time.perf_counter() - started
        with on_ray(2):
            for name, arm in (("shared model", "cls"), ("fan-out", "cls-u")):
                began = time.perf_counter()
                if arm == "cls":
                    folder = pipeline.fit_some(experiment, prepared, {arm}, pipeline.Silent())
                else:
                    fan_out(experiment, prepared, folder, 2)
                phases[name] = time.perf_counter() - began
        took = time.perf_counter() - started
    span, training = spent(folder)
    return {
        "users": arguments.users,
        "rows": len(prepared.annotations),
        "texts": len(prepared.annotations.distinct_texts[0]),
        "rows_per_s": round(len(prepared.annotations) / took),
        "peak_mb": {name: round(most) for name, most in memory.most.items()},
        "phases_s": {name: round(seconds, 1) for name, seconds in phases.items()},
        "blocks": len(training),
        "span_s": round(span, 1),
        "training_s": round(sum(training), 1),
    }


class Memory(threading.Thread):
    """The most memory that the driver, and any one worker, held: resident, in MB, looked at five times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = {"driver": 0.0, "worker": 0.0}
        self._over = threading.Event()

    def __enter__(self) -> Memory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._over.wait(0.2):
            self.most["driver"] = max(self.most["driver"], me.memory_info().rss / 2**20)
            for child in me.children(recursive=True):
                try:
                    if "RayTrainWorker" in "".join(child.cmdline()[:1]):
                        self.most["worker"] = max(self.most["worker"], child.memory_info().rss / 2**20)
                except psutil.Error:
                    continue


def fan_out(experiment: Any, prepared: Any, folder: Path, workers: int) -> None:
    """Train all users anew on so many workers; the trunk's outputs stay."""
    from beholder.cluster.config import Cluster
    from beholder.cluster.trainer import FitJob, fit_arms

    for bank in folder.glob("unfinished/bank-*"):
        shutil.rmtree(bank)
    arms = tuple(job for job in prepared.jobs if job.name == "cls-u")
    cluster = Cluster(workers=workers, cpus_per_worker=1, use_gpu=False)
    job = FitJob(str(folder), arms, experiment.base_model.to_json(), experiment.seed, cluster)
    fit_arms(job, lambda *_: None, lambda _: None)


def spent(folder: Path) -> tuple[float, list[float]]:
    """The span of the last fan-out, and what training each block took."""
    import pyarrow.parquet as pq

    files = list(folder.glob("unfinished/bank-*/block-*.parquet"))
    seconds = [float(pq.read_schema(file).metadata[b"beholder_seconds"]) for file in files]
    ends = [file.stat().st_mtime for file in files]
    return max(ends) - min(end - took for end, took in zip(ends, seconds, strict=True)), seconds


def by_hand(arguments: argparse.Namespace, folder: Path, processes: int) -> float:
    """Seconds in which so many processes train all blocks, each its share, with nothing between them."""
    for bank in folder.glob("unfinished/bank-*"):
        shutil.rmtree(bank)
    running = []
    for number in range(processes):
        share = {"experiment": settings(arguments), "folder": str(folder), "first": number, "step": processes}
        line = [sys.executable, __file__, "--blocks", json.dumps(share)]
        running.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    assert all(process.wait(900) == 0 for process in running)
    return spent(folder)[0]


def train_blocks(experiment: dict[str, Any], folder: str, first: int, step: int) -> None:
    """A process of `by_hand`: every `step`-th block."""
    import torch

    from beholder.cluster.trainer import read_parts
    from beholder.experiment.config import make_experiment
    from beholder.training.context import Context

    torch.set_num_threads(1)
    made = make_experiment(experiment)
    config: Any = next(arm.config for arm in made.arms if arm.name == "cls-u")
    parts = read_parts(Path(folder))
    fitting = config.begin(parts["train"], parts["valid"], Context(made.base, made.seed, run_folder=Path(folder)))
    _ = fitting.outputs
    for number in range(first, len(fitting.blocks), step):
        fitting.train(number)


if __name__ == "__main__":
    main()

"""Runs that tests of a cluster disturb, and what would have come out without."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from beholder.experiment.config import make_experiment
from beholder.util.atomic import sha256_of
from beholder.workflows import run as pipeline


def experiment(workers, users: int = 8, epochs: int = 8):
    """So many blocks of two users each, of about a second: with next to no validation rows, no epoch is left out."""
    few = 12 / (60 * users)
    prior = {"rank": 2, "steps": 10, "strength": 0.25}
    bank = {"block_users": 2, "top_layers": 1, "epochs": epochs, "prior": prior, "refit": False}
    return make_experiment(
        {
            "name": "faults",
            "source": {"name": "simulated", "texts": "templates", "users": users, "rows_per_user": 60},
            "split": {"by": "text", "fractions": [0.8, few, 0.2 - few]},
            "base": "tiny-bert",
            "methods": {"prior": {}, "cls": {"epochs": 1}, "cls-u": {"init_from": "cls", "bank": bank}},
            "evaluate": {"reference": "cls"},
            "cluster": {"workers": workers, "cpus_per_worker": 1},
        }
    )


class Watched(threading.Thread):
    """A run in a thread of its own, and every block file it wrote, each time it did."""

    def __init__(self, settings, home) -> None:
        super().__init__(daemon=True)
        self.settings, self.home = settings, home
        self.lines: list[str] = []
        self.steps = 0  # of the bank
        self.outcome = self.error = None
        self.written: dict[str, set[int]] = {}

    def say(self, line):
        self.lines.append(line)

    def step(self, arm, done, total, note, unit="steps"):
        self.steps += arm == "cls-u"

    def run(self):
        try:
            self.outcome = pipeline.run(self.settings, self)
        except Exception as error:
            self.error = error

    def folder(self) -> str:
        """The run's name."""
        return f"{self.settings.name}-{self.settings.digest[:8]}"

    def look(self) -> int:
        """Blocks finished so far."""
        for file in self.home.glob("runs/*/unfinished/bank-*/block-*.parquet"):
            with contextlib.suppress(FileNotFoundError):  # the run is over, and has cleared up
                self.written.setdefault(file.name, set()).add(file.stat().st_mtime_ns)
        return len(self.written)

    def until(self, ready: Callable[[], bool], seconds: float = 400) -> None:
        """Look again and again until something is so."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.error is None or ready(), self.error
            assert time.monotonic() < deadline, self.lines
            self.look()
            time.sleep(0.02)

    def end(self):
        self.until(lambda: not self.is_alive(), 400)
        assert self.error is None, self.error
        return self.outcome


def workers() -> list[psutil.Process]:
    """The processes that compute, of Rays that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in "".join(process.cmdline()[:1]):
                found.append(process)
        except psutil.Error:
            pass  # it died meanwhile
    return found


def shards(outcome) -> dict[str, str]:
    """What a run's bank is made of: shards by name, with their checksums."""
    bank = outcome.run_folder / "methods" / "cls-u" / "bank"
    return {file.name: sha256_of(file) for file in bank.glob("shard-*")}


class Undisturbed:
    """What an experiment gives in one process without a cluster, computed beside."""

    def __init__(self, home, **size) -> None:
        env = {**os.environ, "BEHOLDER_HOME": str(home), "OMP_NUM_THREADS": "1"}
        for name in ("MLFLOW_TRACKING_URI", "BEHOLDER_STORAGE"):
            env.pop(name, None)
        line = [sys.executable, __file__, json.dumps(size)]
        self._process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)

    def is_what_came_of(self, outcome) -> None:
        """Hold a run against it, to the last bit of every adapter."""
        written, errors = self._process.communicate(timeout=240)
        assert self._process.returncode == 0, errors
        found = json.loads(written)
        assert shards(outcome) == found["shards"] and len(found["shards"]) > 2
        assert outcome.results.split.hash == found["split"]
        for name, method in outcome.results.methods.items():
            assert method.macro_f1 == pytest.approx(found["macro_f1"][name], abs=1e-6)


if __name__ == "__main__":
    alone = pipeline.run(experiment(0, **json.loads(sys.argv[1])))
    scores = {name: method.macro_f1 for name, method in alone.results.methods.items()}
    print(json.dumps({"shards": shards(alone), "split": alone.results.split.hash, "macro_f1": scores}))

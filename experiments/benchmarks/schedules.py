"""Random schedules of writers that are killed and stopped: is anything lost, does anybody erased come back?

    python experiments/benchmarks/schedules.py --json

Four processes in two home folders share one bucket (an S3 server on loopback), one MLflow and one database of
judgements. Each does a random list of publish, promote, refresh, erase, enrol, gc and read; one of them is killed
(SIGKILL) or stopped for longer than a lease's term (SIGSTOP, then SIGCONT) in the midst of it. Afterwards erasures that
did not answer are asked for again, as a user would, and everything is looked through:

* `lost`: schedules after which the store has a problem, the champion does not open, or a process had an error that is
  none of beholder's own;
* `returned`: schedules after which an id, or a weight, of somebody erased is in the bucket, in a home folder or in a
  database;
* `changed`: schedules after which a bystander (somebody who was neither erased nor refreshed nor enrolled) has other
  scores under any version, by a bit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from schedule_worker import BUCKET, ERASED, NEWCOMERS, REFRESHED, TERM_S, WEIGHTS


def main() -> None:
    """Print one JSON object, or a line a schedule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5, help="of each process")
    arguments = parser.parse_args()
    found = measure(arguments.schedules, arguments.seed, arguments.steps, quiet=arguments.json)
    print(json.dumps(found))


def measure(schedules: int, seed: int, steps: int, quiet: bool = True) -> dict[str, Any]:
    """Run schedules; see the top of the file for what comes back."""
    started = time.perf_counter()
    bad: dict[str, list[str]] = {"lost": [], "returned": [], "changed": []}
    counts = {"done": 0, "refused": 0, "killed": 0, "stopped": 0}
    with tempfile.TemporaryDirectory(prefix="schedules-") as temporary, object_storage(Path(temporary)) as bucket:
        world = World(Path(temporary), bucket)
        try:
            for number in range(schedules):
                problems = world.schedule(number, np.random.default_rng([seed, number]), steps, counts)
                for kind, lines in problems.items():
                    if lines:
                        bad[kind].append(f"{number}: {lines[0]}")
                if not quiet:
                    print(number, {kind: lines for kind, lines in problems.items() if lines} or "sound", flush=True)
        finally:
            world.close()
    return {
        "schedules": schedules,
        **{kind: len(each) for kind, each in bad.items()},
        **counts,
        "seconds": round(time.perf_counter() - started, 1),
        "first": [each[0] for each in bad.values() if each],
    }


class World:
    """What all schedules begin with, and the processes that carry them out."""

    def __init__(self, folder: Path, bucket: tuple[str, Any]) -> None:
        self.folder, (self.address, self.client) = folder, bucket
        self.base = folder / "base"
        self.workers = [Worker() for _ in range(4)]
        found = self.workers[0].ask("make", self._places("base", self.base, self.base))
        assert found["ok"], found
        self.facts = found["said"]

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.end()

    def _places(self, name: str, home: Path, common: Path) -> dict[str, str]:
        """The environment of one home folder in one schedule."""
        return {
            "BEHOLDER_HOME": str(home),
            "BEHOLDER_STORE": self.address.replace("/kept?", f"/{name}?"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{common / 'mlflow.db'}",
            "BEHOLDER_FEEDBACK": f"sqlite:///{common / 'feedback.db'}",
        }

    def schedule(
        self, number: int, random: np.random.Generator, steps: int, counts: dict[str, int]
    ) -> dict[str, list[str]]:
        """Carry one out and look everything through; what is wrong, in lines."""
        common = self.folder / f"s{number}"
        homes = [common / "one", common / "two"]
        for home in homes:
            home.mkdir(parents=True)
        shutil.copytree(self.base / "runs", homes[0] / "runs")
        shutil.copyfile(self.base / "mlflow.db", common / "mlflow.db")
        places = [self._places(f"s{number}", homes[each // 2], common) for each in range(4)]
        begun = self.workers[0].ask("begin", places[0], facts=self.facts)
        if not begun["ok"]:
            return {"lost": [f"it did not begin: {begun}"], "returned": [], "changed": []}
        lost: list[str] = []
        asked: set[str] = set()
        lists = [self._steps(random, steps, first=each < 2) for each in range(4)]

        def carry_out(each: int) -> None:
            for what, argument in lists[each]:
                if what == "erase":
                    asked.add(argument)
                said = self.workers[each].ask(what, places[each], argument=argument, facts=self.facts)
                counts["done" if said["ok"] else "refused"] += 1
                if said.get("crash"):
                    lost.append(f"{what}: {said['crash']}")
                if said.get("died"):
                    return

        threads = [threading.Thread(target=carry_out, args=(each,)) for each in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(float(random.uniform(0.2, 4.0)))
        victim, kill = self.workers[int(random.integers(4))], bool(random.integers(2))
        if kill:
            victim.kill()
        else:
            victim.pause(2.5 * TERM_S)
        counts["killed" if kill else "stopped"] += 1
        for thread in threads:
            thread.join()
        for each, worker in enumerate(self.workers):
            if worker.process.poll() is not None:
                self.workers[each] = Worker()
        for user in sorted(asked):  # an erasure that was not answered is requested again
            for each in (0, 2):  # each home folder has what its machine holds
                said = self.workers[each].ask("erase", places[each], argument=user, facts=self.facts)
                if not said["ok"]:
                    lost.append(f"erase, asked again: {said}")
        said = self.workers[1].ask("look", places[1], facts=self.facts)
        said_too = self.workers[3].ask("look", places[3], facts=self.facts)
        for each in (said, said_too):
            lost += each["said"]["lost"] if each["ok"] else [str(each)]
        changed = said["said"]["changed"] if said["ok"] else []
        returned = self._found(number, common, sorted(asked))
        with contextlib.suppress(OSError):
            shutil.rmtree(common)
        return {"lost": lost, "returned": returned, "changed": changed}

    def _steps(self, random: np.random.Generator, steps: int, first: bool) -> list[tuple[str, str]]:
        names, weights = list(WEIGHTS), np.asarray(list(WEIGHTS.values()), dtype=float)
        found = []
        for what in random.choice(names, steps, p=weights / weights.sum()):
            whom = {"refresh": REFRESHED, "erase": (*ERASED, *NEWCOMERS), "enrol": NEWCOMERS}.get(str(what), ("",))
            what = "refresh" if what == "publish" and not first else str(what)  # its run is in the first home alone
            if what == "refresh":
                whom = REFRESHED
            found.append((what, str(whom[int(random.integers(len(whom)))])))
        return found

    def _found(self, number: int, common: Path, erased: list[str]) -> list[str]:
        """Where ids and weights of people who were erased are still found."""
        needles = {user: [user.encode(), *map(bytes.fromhex, self.facts["weights"].get(user, []))] for user in erased}
        found = []
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"s{number}/")
        for page in pages:
            for each in page.get("Contents", []):
                data = readable(self.client.get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read())
                found += [f"{user} in {each['Key']}" for user, some in needles.items() if any(n in data for n in some)]
        for file in common.rglob("*"):
            if file.is_file():
                data = readable(file.read_bytes())
                found += [
                    f"{user} in {file.relative_to(common)}"
                    for user, some in needles.items()
                    if any(needle in data for needle in some)
                ]
        return found


def readable(data: bytes) -> bytes:
    """A file's bytes, Parquet with its values as text."""
    if data[:4] != b"PAR1":
        return data
    import io

    import pyarrow.parquet as pq

    return data + json.dumps(pq.read_table(io.BytesIO(data)).to_pydict(), default=str).encode()


class Worker:
    """A process that carries out one request after the other, each in the home folder it names."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("schedule_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, what: str, places: dict[str, str], **more: Any) -> dict[str, Any]:
        """One line there and one back."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"what": what, "places": places, **more}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        return json.loads(line) if line.endswith("\n") else {"ok": False, "died": True}

    def kill(self) -> None:
        """As `kill -9` does it."""
        self.process.kill()
        self.process.wait()

    def pause(self, seconds: float) -> None:
        """Stop it for a while."""
        os.kill(self.process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self) -> None:
        """Let it go."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        if self.process.poll() is None:
            self.process.kill()


@contextlib.contextmanager
def object_storage(folder: Path) -> Iterator[tuple[str, Any]]:
    """A server on loopback that speaks S3: a store's address in it, and a client."""
    import boto3

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "s3.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)
        client.create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}/kept?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1", client
    finally:
        server.terminate()
        server.wait(20)


if __name__ == "__main__":
    main()

"""Two replicas: is every answer of the adapter it names, and what does erasing somebody cost those who are served?

    python experiments/benchmarks/replicas.py --json               1,000 users, two minutes and a half
    python experiments/benchmarks/replicas.py --users 100000 --no-check --json      an erasure among many

Users have random heads on MiniLM (`--top-layers 1`: LoRA of rank 4 in the top layer, too). There are three versions,
each with other adapters, on one Ray Serve on loopback with `--replicas` engines.

answers, own, wrong, fallbacks, refused     `serve check` for `--seconds` at `--connections`, while another version is
                promoted every two seconds: see `beholder_serve.check`
answers_a_second, expected_share            what the check reaches, and the share of its time that goes into computing
                what is right, on the same cores as the engines
unchecked_a_second    the same requests without anything being held against a bundle or switched
                Of two users, one after the other, the first since the server started:
erase_s         one user out of all three versions, over HTTP, under load
gone_s          from the answer until no replica gives their adapter any more; the answer promises `within_s`
p50_ms, p99_ms  of everybody else, in ten seconds before, and in twelve around it
statuses        of everybody else's answers meanwhile
engine_mb       what the engines hold of their own, together: before it, at most from then on, and after it
same_engines    whether the processes are the same ones after it
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import load
import psutil
from shared_model import bundle_of, own_home

MODEL = "replicated"
VERSIONS = (1, 2, 3)
SWITCH_S = 2.0
TEXTS = [f"text number {number}, to see who answers" for number in range(6)]


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--top-layers", type=int, default=0)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the check")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--no-check", action="store_true", help="the erasure alone")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    arguments = parser.parse_args()
    with own_home() as home:
        found = measure(arguments, home)
    print(json.dumps(found) if arguments.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


def measure(arguments: argparse.Namespace, home: Path) -> dict[str, Any]:
    """The check, then the erasure."""
    from registry import new_run
    from serving import free_port

    from beholder.registry import versions as registry
    from beholder_serve.deployment import serving

    for number in VERSIONS:
        bundle, _ = bundle_of(arguments.users, home / "made", arguments.top_layers, seed=number)
        registry.publish(MODEL, bundle, new_run(), {"split_hash": "none", "valid_macro_f1": "0.5"}, "")
        shutil.rmtree(home / "made")
    registry.promote(MODEL, 1, force=True)
    found: dict[str, Any] = {
        "users": arguments.users,
        "versions": len(VERSIONS),
        "replicas": arguments.replicas,
        "connections": arguments.connections,
    }
    port = free_port()
    with serving({"model": MODEL}, "127.0.0.1", port, replicas=arguments.replicas):
        url = f"http://127.0.0.1:{port}"
        if not arguments.no_check:
            found |= checked(url, arguments)
        found |= erased(url, arguments)
    return found


def checked(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every answer held against its bundle, while versions switch."""
    from beholder_serve.check import check

    users = [f"user{number}" for number in range(arguments.users)]
    plain = load.run(url, asking(arguments.users), arguments.connections, 10)
    with switching():
        said = asyncio.run(
            check(url, MODEL, users, TEXTS, seconds=arguments.seconds, connections=arguments.connections)
        )
    return {
        "answers": said.answers,
        "own": said.own,
        "wrong": said.wrong,
        "fallbacks": said.fallbacks,
        "refused": said.refused,
        "versions_seen": len(said.versions),
        "check_s": round(said.seconds, 1),
        "answers_a_second": round(said.answers / said.seconds, 1),
        "expected_share": round(said.expected_seconds / said.seconds, 2),
        "unchecked_a_second": round(plain.rps, 1),
    }


@contextlib.contextmanager
def switching() -> Iterator[None]:
    """Promote one version after another."""
    from beholder.registry import versions as registry

    stop = threading.Event()

    def switch() -> None:
        turn = 0
        while not stop.wait(SWITCH_S):
            turn += 1
            registry.promote(MODEL, VERSIONS[turn % len(VERSIONS)], force=True)

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def erased(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Two users erased, one after the other, while others are served."""
    load.run(url, asking(arguments.users), 16, 8, first=10**9)  # opens shards
    each = [one_erased(url, arguments, f"user{number}") for number in (arguments.users // 2, arguments.users // 3)]
    return {key: [one[key] for one in each] for key in each[0]}


def one_erased(url: str, arguments: argparse.Namespace, user: str) -> dict[str, Any]:
    """One user erased while others are served."""
    engines = running()
    before = load.run(url, asking(arguments.users), 16, 10, first=2 * 10**9)
    held = memory(engines)
    most, stop = [held], threading.Event()

    def watch() -> None:
        while not stop.wait(0.25):
            most.append(memory(engines))

    under: list[load.Load] = []
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        length = 12.0
        loading = threading.Thread(
            target=lambda: under.append(load.run(url, asking(arguments.users), 16, length, first=3 * 10**9))
        )
        loading.start()
        time.sleep(1)
        started = time.perf_counter()
        answer = httpx.delete(f"{url}/v1/users/{user}", timeout=120)
        erase_s = time.perf_counter() - started
        if answer.status_code != 200 or answer.json()["bundles"] != len(VERSIONS):
            raise SystemExit(f"the erasure was answered {answer.status_code}: {answer.text}")
        gone_s = until_gone(url, user)
        loading.join()
    finally:
        stop.set()
        watching.join()
    return {
        "erase_s": round(erase_s, 2),
        "gone_s": round(gone_s, 2),
        "within_s": answer.json()["within_s"],
        "p50_ms": [round(each.percentile(50), 1) for each in (before, under[0])],
        "p99_ms": [round(each.percentile(99), 1) for each in (before, under[0])],
        "statuses": dict(under[0].statuses),
        "engine_mb": [round(each) for each in (held, max(most), memory(engines))],
        "same_engines": {each.pid for each in engines} == {each.pid for each in running()},
    }


def until_gone(url: str, user: str) -> float:
    """Seconds until forty answers in a row are not of their adapter."""
    started = last = time.perf_counter()
    clean = 0
    with httpx.Client(base_url=url, timeout=60) as client:
        while clean < 40:
            said = client.post("/v1/predict", json={"user_id": user, "text": TEXTS[0]}).raise_for_status().json()
            clean += 1
            if said["predictions"][0]["adapter"] is not None:
                clean, last = 0, time.perf_counter()
    return last - started


def running() -> list[psutil.Process]:
    """The engines' processes."""
    return [each for each in psutil.process_iter(["cmdline"]) if "beholder:Engine" in " ".join(each.cmdline())]


def memory(engines: list[psutil.Process]) -> float:
    """MB of their own, together."""
    return sum(each.memory_full_info().uss for each in engines) / 2**20


def asking(users: int) -> load.Ask:
    """Every request another user."""
    return lambda number: ("/v1/predict", {"user_id": f"user{number * 7_919 % users}", "text": TEXTS[number % 6]})


if __name__ == "__main__":
    main()

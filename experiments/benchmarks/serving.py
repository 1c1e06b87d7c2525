"""Serving, every request another user: our engine, with and without personal models, against two ways with PEFT.

    python experiments/benchmarks/serving.py --json                 1,000 users, rank 4 in the top layer, a few minutes
    python experiments/benchmarks/serving.py --top-layers 0 --json  heads alone
    python experiments/benchmarks/serving.py --full --json          longer, for the record; --soak 600 watches memory

Each is a real Ray Serve on loopback with one replica of the model on MiniLM, asked over HTTP in a closed loop, every
request by another user. Texts are drawn from a pool of 500, as many readers see the same texts; `distinct` is ours
where no text comes twice. The peers have no ingress of their own in front (ours has), and answer scores alone.

ours            users of whom most have a model of their own; `rps`, `p50_ms`, `p99_ms` at 64 connections,
                `by_connections` at 1, 16, 64 and 256; `distinct_rps` at 64
global          the same server asked by users it does not know: the model for everybody; `ratio_to_global` is ours to
                it, the median of runs that take turns; `distinct_ratio_to_global` where no text comes twice
multiplexed     Ray Serve's own way: `@serve.multiplexed` loads a user's PEFT adapter (at most 32 at once), and
                `@serve.batch` makes batches of one adapter
peft_mixed      PEFT's `adapter_names`: 64 users' adapters loaded before, batches of at most 64 mix them
half_load       ours at half the requests a second: `half_p50_ms`, `half_p99_ms`
perspectives_ms, predict_ms   over HTTP, one at a time: what 1,000 users say of a text, and what one says
mean_batch, users_per_batch   of ours, from `/metrics`
errors          answers that were not 200, of ours
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load
from ray import serve
from shared_model import RANK, bundle_of, own_home, peft_config, plain_network

MODEL, HELD, MIXED = "served", 32, 64
CONNECTIONS = (1, 16, 64, 256)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--top-layers", type=int, default=1)
    parser.add_argument("--texts", type=int, default=500, help="that requests draw from")
    parser.add_argument("--seconds", type=float, default=None, help="of each measurement; default 8, with --full 20")
    parser.add_argument("--soak", type=float, default=0, help="seconds of random users, watching the engine's memory")
    parser.add_argument("--full", action="store_true", help="for the record")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (20 if arguments.full else 8)
    with own_home() as home:
        found = measure(arguments, home)
    print(json.dumps(found) if arguments.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


def measure(arguments: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Ours, then the peers."""
    from registry import new_run

    from beholder.registry import versions as registry

    bundle, rows = bundle_of(arguments.users, home / "made", arguments.top_layers)
    registry.publish(MODEL, bundle, new_run(), {"split_hash": "none", "valid_macro_f1": "0.5"}, "")
    registry.promote(MODEL, 1)
    shutil.rmtree(bundle)
    words = sorted({word for text in rows.texts for word in text.split()})
    found = {"users": arguments.users, "rank": RANK, "top_layers": arguments.top_layers}
    with ours() as url:
        found |= measured(url, arguments, words)
    adapters = home / "adapters"
    shared = registry.open_version(registry.find(MODEL)).shared
    save_adapters(shared, arguments.top_layers, 4 * MIXED, adapters)
    for name, peer, users in (("multiplexed", Multiplexed, 4 * MIXED), ("peft_mixed", PeftMixed, MIXED)):
        with on_serve(peer.bind(str(adapters), arguments.top_layers)) as url:
            asked = asking(words, users, arguments.texts)
            load.run(url, asked, 16, 3, first=10**9)
            said = load.run(url, asked, 64, arguments.seconds)
        found |= {f"{name}_rps": round(said.rps, 2), f"{name}_errors": failed(said)}
        found[f"ratio_to_{name}"] = round(found["rps"] / said.rps, 1)
        found[f"distinct_ratio_to_{name}"] = round(found["distinct_rps"] / said.rps, 1)
    return found


def measured(url: str, arguments: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    """Everything of ours."""
    mine, strangers = (asking(words, users, arguments.texts) for users in (arguments.users, None))
    load.run(url, mine, 16, 8, first=10**9)  # opens every shard
    by_connections, errors = {}, 0
    for turn, connections in enumerate(CONNECTIONS):
        said = load.run(url, mine, connections, arguments.seconds, first=turn * 10**7)
        errors += failed(said)
        by_connections[connections] = {
            "rps": round(said.rps, 1),
            "p50_ms": round(said.percentile(50), 1),
            "p99_ms": round(said.percentile(99), 1),
        }
    pooled = against(url, mine, strangers, arguments.seconds)
    distinct = against(url, asking(words, arguments.users, None), asking(words, None, None), arguments.seconds)
    load.run(url, mine, 64, 2 * arguments.seconds, first=19 * 10**7)  # the pool's texts are recent again
    half = load.run(url, mine, 64, arguments.seconds, rate=by_connections[64]["rps"] / 2, first=20 * 10**7)
    one = [f"user{number}" for number in range(min(1_000, arguments.users))]
    everybody = turns(
        url,
        lambda number: ("/v1/perspectives", {"text": text_of(words, number), "users": one}),
        lambda number: ("/v1/predict", {"text": text_of(words, 10**6 + number), "user_id": one[number % len(one)]}),
    )
    return {
        **by_connections[64],
        "by_connections": by_connections,
        "errors": errors,
        "half_p50_ms": round(half.percentile(50), 1),
        "half_p99_ms": round(half.percentile(99), 1),
        "half_ratio": round(half.percentile(99) / half.percentile(50), 2),
        "ratio_to_global": round(pooled[1], 3),
        "distinct_rps": round(distinct[0], 1),
        "distinct_ratio_to_global": round(distinct[1], 3),
        "perspectives_users": len(one),
        "perspectives_ms": round(everybody[0], 1),
        "predict_ms": round(everybody[1], 1),
        "perspectives_ratio": round(everybody[0] / everybody[1], 2),
        **batches(url),
        **(soak(url, mine, arguments.soak) if arguments.soak else {}),
    }


def against(url: str, mine: load.Ask, strangers: load.Ask, seconds: float) -> tuple[float, float]:
    """Median requests a second of one, and median ratio to the other, taking turns."""
    runs = [
        [load.run(url, ask, 64, seconds, first=(10 + 2 * turn + side) * 10**7).rps for side, ask in enumerate(both)]
        for turn, both in enumerate([(mine, strangers)] * 3)
    ]
    return statistics.median(one for one, _ in runs), statistics.median(one / other for one, other in runs)


def asking(words: list[str], users: int | None, texts: int | None) -> load.Ask:
    """Every request another user. None: nobody the model knows; and no text twice."""

    def ask(number: int) -> tuple[str, dict[str, Any]]:
        user = f"stranger{number}" if users is None else f"user{number % users}"
        return "/v1/predict", {"user_id": user, "text": text_of(words, number if texts is None else number % texts)}

    return ask


def text_of(words: list[str], number: int) -> str:
    """A text of a dozen words that no other number gives."""
    return " ".join([*random.Random(number).choices(words, k=12), str(number)])


def failed(said: load.Load) -> int:
    """Answers that were not 200."""
    return sum(count for status, count in said.statuses.items() if status != "200")


def turns(url: str, *asks: load.Ask) -> list[float]:
    """Median milliseconds of each, one request at a time, taking turns."""
    import httpx

    took: list[list[float]] = [[] for _ in asks]
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(43):
            for ask, mine in zip(asks, took, strict=True):
                path, body = ask(number)
                started = time.perf_counter()
                client.post(path, json=body).raise_for_status()
                mine.append(1000 * (time.perf_counter() - started))
    return [statistics.median(mine[3:]) for mine in took]


def batches(url: str) -> dict[str, float]:
    """Mean texts and users in a batch, over all measurements so far."""
    import httpx

    time.sleep(12)  # Ray's exporter renews what it says every ten seconds
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()

    def total(name: str) -> float:
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"ray_beholder_{name}{{"))

    return {
        key: round(total(f"{name}_sum") / total(f"{name}_count"), 1)
        for key, name in (("mean_batch", "batch_texts"), ("users_per_batch", "batch_users"))
    }


def soak(url: str, ask: load.Ask, seconds: float) -> dict[str, float]:
    """The engine's own memory in MB, every tenth of the time."""
    import psutil

    (engine,) = [each for each in psutil.process_iter(["cmdline"]) if "beholder:Engine" in " ".join(each.cmdline())]
    seen = []
    for tenth in range(10):
        load.run(url, ask, 64, seconds / 10, first=(100 + tenth) * 10**7)
        seen.append(engine.memory_full_info().uss / 2**20)
    return {"soak_s": seconds, "soak_mb": [round(each) for each in seen]}


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def ours() -> Iterator[str]:
    """Our server; its address."""
    from beholder_serve.deployment import serving

    port = free_port()
    with serving({"model": MODEL, "poll_s": 10}, "127.0.0.1", port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def on_serve(application: Any) -> Iterator[str]:
    """A peer on Ray Serve; its address."""
    from beholder.cluster.runtime import on_ray
    from beholder_serve.deployment import LOGGING

    port = free_port()
    with on_ray():
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=LOGGING)
        serve.run(application, name="peer", route_prefix="/", logging_config=LOGGING)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()


def save_adapters(shared: Any, top_layers: int, users: int, folder: Path) -> None:
    """PEFT adapters of users, as PEFT saves them; of the shape of the bank's."""
    from peft import get_peft_model

    model = get_peft_model(plain_network(shared), peft_config(shared, top_layers))
    for number in range(users):
        model.save_pretrained(str(folder / f"user{number}"))


class Peer:
    """The same base under PEFT."""

    def __init__(self, adapters: str, top_layers: int) -> None:
        import torch
        from peft import PeftModel

        from beholder.registry import versions as registry

        torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
        self.adapters = Path(adapters)
        self.shared: Any = registry.open_version(registry.find(MODEL)).shared
        network = plain_network(self.shared)
        self.model: Any = PeftModel.from_pretrained(network, str(self.adapters / "user0"), adapter_name="user0").eval()

    def forward(self, texts: list[str], **more: Any) -> list[list[float]]:
        """Scores of some texts."""
        import numpy as np
        import torch

        from beholder.models.tokenization import encode

        ids, mask = encode(self.shared.base.tokenizer, texts, self.shared.max_tokens).batch(np.arange(len(texts)))
        with torch.inference_mode():
            return torch.sigmoid(self.model(tokens=ids, mask=mask, **more)).tolist()


@serve.deployment(max_ongoing_requests=512)
class Multiplexed(Peer):
    """Ray Serve's multiplexing: a model id is a user, models are loaded when asked for and batches are of one model."""

    @serve.multiplexed(max_num_models_per_replica=HELD)
    async def adapter(self, user: str) -> Any:
        """Load a user's adapter; it is taken out again when Ray lets go of it."""
        if user not in self.model.peft_config:
            self.model.load_adapter(str(self.adapters / user), adapter_name=user)
        return Held(self.model, user)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.003)
    async def score(self, items: list[tuple[str, str]]) -> list[list[float]]:
        """All of one user."""
        self.model.set_adapter(items[0][0])
        return self.forward([text for _, text in items])

    async def __call__(self, request: Any) -> dict[str, Any]:
        """As ours is asked."""
        body = await request.json()
        held = await self.adapter(body["user_id"])
        return {"scores": await self.score((held.user, body["text"]))}


class Held:
    """An adapter that is loaded for as long as this lives."""

    def __init__(self, model: Any, user: str) -> None:
        self.model, self.user = model, user

    def __del__(self) -> None:
        if self.user in self.model.peft_config and len(self.model.peft_config) > 1:
            self.model.delete_adapter(self.user)


@serve.deployment(max_ongoing_requests=512)
class PeftMixed(Peer):
    """PEFT's mixed batches, of users whose adapters were all loaded before."""

    def __init__(self, adapters: str, top_layers: int) -> None:
        super().__init__(adapters, top_layers)
        for number in range(1, MIXED):
            self.model.load_adapter(str(self.adapters / f"user{number}"), adapter_name=f"user{number}")

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.003)
    async def score(self, items: list[tuple[str, str]]) -> list[list[float]]:
        """Any users."""
        texts = [text for _, text in items]
        return await asyncio.to_thread(self.forward, texts, adapter_names=[user for user, _ in items])

    async def __call__(self, request: Any) -> dict[str, Any]:
        """As ours is asked."""
        body = await request.json()
        return {"scores": await self.score((body["user_id"], body["text"]))}


if __name__ == "__main__":
    main()

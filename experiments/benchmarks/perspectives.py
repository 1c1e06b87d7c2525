"""What everybody would say of a text, against one plain forward pass of it, and against PEFT's mixed batch.

    python experiments/benchmarks/perspectives.py --json                              1,000 users, heads alone
    python experiments/benchmarks/perspectives.py --users 64 --top-layers 2 --json    64 users, top two layers of six

One text, tokenised anew each time. `ms` is `Fitted.score_all([text], users)`; `ms_forward` one forward pass of the same
base on that text with the shared head. PEFT reads the text once per user in one batch with `adapter_names`, each with
LoRA and a head of their own, as far as it can: heads alone are not for it (`ratio_to_peft` is null), and it is asked
for at most 64 adapters, as loading each takes longer than the one before. The three take turns, medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from shared_model import RANK, bank_of, peft_config, plain_network, rows_of, shared_model

PEFT_HOLDS = 64
"""Adapters loaded into one PEFT model, at most."""


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="minilm-l6", help="minilm-l6, smollm2-135m, or mistral-7b-random")
    parser.add_argument("--layers", type=int, default=None, help="fewer layers than 32, of mistral-7b-random")
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--top-layers", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=None, help="default 30, with --full 200")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--full", action="store_true", help="more repeats, for the record")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    arguments.repeats = arguments.repeats or (200 if arguments.full else 30)
    found = measure(arguments)
    print(json.dumps(found) if arguments.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


def measure(arguments: argparse.Namespace) -> dict:
    """All three, taking turns."""
    train, test = rows_of("simulated", 50, 40, 400)
    shared = shared_model(arguments.base, train, arguments.device, arguments.layers)
    by_length = sorted(test.distinct_texts[0], key=len)
    text = by_length[len(by_length) // 2]  # one of median length
    users = [f"user{number}" for number in range(arguments.users)]
    with tempfile.TemporaryDirectory() as folder:
        fitted = bank_of(shared, users, arguments.top_layers, Path(folder))
        sides: dict[str, Callable[[], object]] = {
            "ms": lambda: fitted.score_all([text], users),
            "ms_forward": lambda: shared.score([text], [""]),
        }
        if arguments.top_layers and arguments.users <= PEFT_HOLDS:
            sides["ms_peft"] = mixed_batch(shared, users, arguments.top_layers, text)
        took = turns(sides, arguments.repeats, arguments.device)
    return {
        "base": arguments.base,
        "device": arguments.device,
        "top_layers": arguments.top_layers,
        "rank": RANK,
        "labels": len(train.task.labels),
        "tokens": int(shared.distinct([text], [""])[0].lengths[0]),
        "users": arguments.users,
        **{name: round(value, 3) for name, value in took.items()},
        "ratio_to_forward": round(took["ms"] / took["ms_forward"], 2),
        "ratio_to_peft": round(took["ms_peft"] / took["ms"], 2) if "ms_peft" in took else None,
    }


def turns(sides: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median milliseconds of each side."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 3):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn >= 3:  # the first ones warm up
                took[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in took.items()}


def mixed_batch(shared, users: list[str], top_layers: int, text: str) -> Callable[[], object]:  # noqa: ANN001
    """PEFT with an adapter per user, and the text once for each of them in one batch."""
    from peft import get_peft_model

    from beholder.models.tokenization import encode

    config = peft_config(shared, top_layers)
    plain = plain_network(shared)
    model = get_peft_model(plain, config, adapter_name=users[0])
    for user in users[1:]:
        model.add_adapter(user, config)
    model.eval()

    def run() -> object:
        ids, mask = encode(shared.base.tokenizer, [text], shared.max_tokens).batch(torch.zeros(1).long().numpy())
        ids, mask = ids.to(shared.device).expand(len(users), -1), mask.to(shared.device).expand(len(users), -1)
        with torch.inference_mode():
            return torch.sigmoid(model(tokens=ids, mask=mask, adapter_names=users)).float().cpu()

    return run


if __name__ == "__main__":
    main()

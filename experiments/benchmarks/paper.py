"""An epoch of the paper's 4-bit fine-tuning, on a model of Mistral-7B's shape, against plain PEFT over judgements.

    python experiments/benchmarks/paper.py --json                     cls, cls-p, lm and lm-p; needs a GPU, bitsandbytes
    python experiments/benchmarks/paper.py --base tiny-mistral --device cpu --arms cls,lm      the same paths, anywhere

Settings are those of `experiments/paper/mistral-7b.yaml`. The peer has the same base in the same form, the same LoRA
and as many judgements in a step, and reads each judgement anew, padded to the longest of its batch, as the paper's code
does; its rows of `cls-p` and `lm-p` name the user in the text. Both make forward passes again for their gradients.
Seconds are of the training loop alone (ours scores sixteen validation rows after it), memory is the GPU's peak with the
base, and `query_seconds` is what scoring sixteen rows by asking takes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from shared_model import RANDOM, random_folder, rows_of

PAPER = Path(__file__).parents[1] / "paper" / "mistral-7b.yaml"
JUDGEMENTS = 32


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=RANDOM, help=f"default {RANDOM}; or any other")
    parser.add_argument("--layers", type=int, default=None, help=f"fewer layers than 32, of {RANDOM}")
    parser.add_argument("--form", choices=["nf4", "bf16", "float32"], default=None, help="default nf4 on a GPU")
    parser.add_argument("--arms", default="cls,cls-p,lm,lm-p")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--rows-per-user", type=int, default=None, help="default 16, with --full 64")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--full", action="store_true", help="more rows, for the record")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    arguments.rows_per_user = arguments.rows_per_user or (64 if arguments.full else 16)
    arguments.form = arguments.form or ("nf4" if arguments.device == "cuda" else "float32")
    found = measure(arguments)
    print(json.dumps(found) if arguments.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


def measure(arguments: argparse.Namespace) -> dict:
    """Each arm, ours and then the peer's."""
    rows = arguments.users * arguments.rows_per_user
    train, test = rows_of("simulated", arguments.users, arguments.rows_per_user, rows // 4)
    valid, other = test.select(range(16)), test.select(range(16, 32))
    random = arguments.base == RANDOM
    folder = str(random_folder(arguments.layers, arguments.device)) if random else arguments.base
    base = folder if arguments.form == "float32" else f"{folder}@{arguments.form}"
    ours("cls", base, valid, valid, arguments.device)  # warms up
    arms = {}
    for arm in arguments.arms.split(","):
        with peak(arguments.device) as memory:
            seconds = ours(arm, base, train, valid, arguments.device)
        with peak(arguments.device) as memory_peer:
            seconds_peer = peer(arm, base, train, arguments.device)
        arms[arm] = {
            "ratio": round(seconds_peer / seconds, 2),
            "seconds": round(seconds, 2),
            "seconds_peer": round(seconds_peer, 2),
            "peak_mb": memory(),
            "peak_mb_peer": memory_peer(),
        }
    return {
        "base": arguments.base,
        "form": arguments.form,
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "judgements": len(train),
        "texts": len(train.distinct_texts[0]),
        "query_seconds": round(asked(base, train, valid, other, arguments.device), 2),
        "arms": arms,
    }


class peak:  # noqa: N801
    """A block's peak of GPU memory in MB; 0 without a GPU."""

    def __init__(self, device: str) -> None:
        self.on = device == "cuda"

    def __enter__(self) -> Any:
        gc.collect()
        if self.on:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.found = 0
        return lambda: self.found

    def __exit__(self, *_: object) -> None:
        if self.on:
            self.found = round(torch.cuda.max_memory_allocated() / 2**20)


def settings_of(arm: str) -> dict[str, Any]:
    """The paper file's settings of a method."""
    methods = yaml.safe_load(PAPER.read_text())["methods"]
    merged: dict[str, Any] = {}
    name: str | None = arm
    while name:
        merged = {**methods[name], **merged}
        name = methods[name].get("extends")
    return {key: value for key, value in merged.items() if key not in ("extends", "controls")}


def ours(arm: str, base: str, train, valid, device: str) -> float:  # noqa: ANN001
    """Seconds of the training loop."""
    from beholder.methods import config_class
    from beholder.training.context import Context

    texts = round(JUDGEMENTS * len(train.distinct_texts[0]) / len(train))
    config = config_class(arm)(**settings_of(arm) | {"epochs": 1, "batch_size": max(1, texts)})
    return config.fit(train, valid, Context(base=base, device=device)).training.seconds


def asked(base: str, train, valid, other, device: str) -> float:  # noqa: ANN001
    """Seconds `query` takes to score rows it has not seen."""
    from beholder.methods import config_class
    from beholder.training.context import Context

    fitted = config_class("query")(**settings_of("query")).fit(train, valid, Context(base=base, device=device))
    started = time.perf_counter()
    fitted.score(list(other.texts), list(other.user_ids))
    return time.perf_counter() - started


def peer(arm: str, base: str, train, device: str) -> float:  # noqa: ANN001
    """Seconds of an ordinary loop: transformers, PEFT, a row for each judgement."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    from beholder.models import resolve
    from beholder.models.precision import loading_options, split_form

    form, folder = split_form(base)[1], resolve(base)
    generates = arm.startswith("lm")
    kind: Any = AutoModelForCausalLM if generates else AutoModelForSequenceClassification
    more = {} if generates else {"num_labels": len(train.task.labels), "problem_type": "multi_label_classification"}
    model = kind.from_pretrained(folder, local_files_only=True, **loading_options(form), **more)
    model.config.use_cache = False
    model.config.pad_token_id = 0
    if form == "nf4":
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    else:
        model.to(device)
    lora = settings_of(arm)["lora"]
    model = get_peft_model(
        model,
        LoraConfig(
            r=lora["rank"],
            lora_alpha=lora["alpha"],
            lora_dropout=lora["dropout"],
            target_modules=lora["targets"],
            task_type="CAUSAL_LM" if generates else "SEQ_CLS",
        ),
    )
    model.train()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.padding_side = "right"
    rows = list(judgements(arm, train))
    order = np.random.default_rng(0).permutation(len(rows))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    started = time.perf_counter()
    for first in range(0, len(rows), JUDGEMENTS):
        some = [rows[place] for place in order[first : first + JUDGEMENTS]]
        batch = language_batch(tokenizer, some) if generates else classifier_batch(tokenizer, some)
        loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        float(loss.detach())  # waits for the GPU, as ours does
    return time.perf_counter() - started


def judgements(arm: str, train) -> Iterator[tuple[str, Any]]:  # noqa: ANN001
    """(prompt, answer or labels) of each judgement; `-p` names the user."""
    from beholder.prompting.builder import Prompter
    from beholder.prompting.config import PromptSettings

    number = {user: place for place, user in enumerate(train.users)}
    told = arm.endswith("-p")
    if not arm.startswith("lm"):
        for text, user, labels in zip(train.texts, train.user_ids, train.labels, strict=True):
            yield (f"user {number[user]}: {text}" if told else text), np.nan_to_num(labels)
        return
    settings = PromptSettings(**settings_of(arm).get("prompt", {}))
    prompter = Prompter(train.task, settings, train, personal=told, seed=0)
    for text, user, labels in zip(train.texts, train.user_ids, train.labels, strict=True):
        given = [label for label, value in zip(train.task.labels, labels, strict=True) if value > 0.5]
        yield "".join(prompter.prompt(text, user).parts), " " + (", ".join(given) or "none")


def classifier_batch(tokenizer, rows: list[tuple[str, Any]]) -> dict[str, torch.Tensor]:  # noqa: ANN001
    """Texts and their labels."""
    told = tokenizer([text for text, _ in rows], padding=True, truncation=True, max_length=128, return_tensors="pt")
    labels = torch.from_numpy(np.stack([labels for _, labels in rows])).float()
    return {"input_ids": told["input_ids"], "attention_mask": told["attention_mask"], "labels": labels}


def language_batch(tokenizer, rows: list[tuple[str, str]]) -> dict[str, torch.Tensor]:  # noqa: ANN001
    """Prompts with their answers; the loss is the answer's alone."""
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in rows]
    answers = [
        [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for _, answer in rows
    ]
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        ids[row, :end], mask[row, :end] = torch.tensor(prompt + answer), 1
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


if __name__ == "__main__":
    main()

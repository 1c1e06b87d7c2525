"""What the bank's benchmarks run on: rows of users, and a shared model to start everybody from."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from beholder.data.annotations import Annotations
    from beholder.data.task import Task
    from beholder.methods.cls import FittedClassifier

RANK = 4
RANDOM = "mistral-7b-random"


@contextlib.contextmanager
def own_home() -> Iterator[Path]:
    """A temporary home folder of one's own, whatever the environment says, for the time of the block."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory(prefix="beholder-") as home:
        os.environ["BEHOLDER_HOME"] = home
        for name in ("BEHOLDER_STORE", "BEHOLDER_FEEDBACK", "MLFLOW_TRACKING_URI"):
            os.environ.pop(name, None)
        yield Path(home)


def rows_of(source: str, users: int, rows_per_user: int, texts: int) -> tuple[Annotations, Annotations]:
    """Training and test rows of at most so many users; test texts are unseen in training.

    A real source gives those users who have most rows, at most `rows_per_user` training rows of each.
    """
    from beholder.data.splits import ByText, split
    from beholder.datasets import load, source_class

    if source == "simulated":
        drawn = -(-rows_per_user * 10 // 7)
        settings = {"users": users, "rows_per_user": drawn, "distinct_texts": max(texts, drawn)}
    else:
        settings = {"languages": ["deu", "ptbr"]} if source == "brighter" else {}
    annotations = load(source_class(source)(name=source, **settings)).annotations
    parts = split(annotations, ByText(fractions=(0.7, 0.15, 0.15)))
    train, test = annotations.select(parts["train"]), annotations.select([*parts["valid"], *parts["test"]])
    names, count = np.unique(train.user_ids.astype(str), return_counts=True)
    busiest = set(names[np.argsort(-count, kind="stable")][:users].tolist())
    seen = dict.fromkeys(busiest, 0)
    kept = []
    for row, user in enumerate(train.user_ids):
        if user in busiest and seen[user] < rows_per_user:
            seen[user] += 1
            kept.append(row)
    return train.select(kept), test.select([row for row, user in enumerate(test.user_ids) if user in busiest])


def shared_model(base_name: str, train: Annotations, device: str, layers: int | None = None) -> FittedClassifier:
    """The model everybody starts from: LoRA on all rows for one epoch; on a random 7B, which knows nothing, none."""
    from beholder.methods import config_class
    from beholder.training.context import Context

    if base_name == RANDOM:
        return random_mistral(train.task, device, layers)
    settings = {"epochs": 1, "learning_rate": 2e-3, "max_tokens": 64}
    config = config_class("cls")(**settings)
    return config.fit(train, train.select(range(min(200, len(train)))), Context(base=base_name, device=device))


def random_mistral(task: Task, device: str, layers: int | None) -> FittedClassifier:
    """A classifier on a base of Mistral-7B's shape with random weights, in bfloat16, with LoRA as it starts."""
    from beholder.methods.cls import FittedClassifier
    from beholder.models import load_base
    from beholder.models.classifier import Classifier
    from beholder.training.lora import LoraSettings, adapted

    base = load_base(f"{random_folder(layers, device)}@bf16")
    network = Classifier(base, len(task.labels))
    network.model = adapted(base, LoraSettings())
    fitted = FittedClassifier("cls", task, base, network, {}, None, 64, device)
    fitted.settle()
    return fitted


def random_folder(layers: int | None, device: str) -> Path:
    """A model folder of Mistral-7B's shape, or of so many of its 32 layers: random weights, a tokenizer of bytes."""
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    from beholder.models import resolve
    from beholder.util.paths import home

    folder = home() / "bases" / (f"{RANDOM}-{layers}" if layers else RANDOM)
    if folder.exists():
        return folder
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = MistralForCausalLM(MistralConfig(num_hidden_layers=layers or 32, pad_token_id=0))
    finally:
        torch.set_default_dtype(default)
    written = folder.with_name(f"{folder.name}.part")
    model.save_pretrained(written)
    AutoTokenizer.from_pretrained(resolve("tiny-mistral"), local_files_only=True).save_pretrained(written)
    os.replace(written, folder)
    return folder


def plain_network(shared: FittedClassifier) -> torch.nn.Module:
    """The shared model as a user of plain PEFT would have it: the same weights, without a trace of LoRA."""
    import copy

    network = copy.deepcopy(shared.network)
    if hasattr(network.model, "merge_and_unload"):
        network.model = network.model.merge_and_unload()
    return network.requires_grad_(False)


def peft_config(shared: FittedClassifier, top_layers: int):  # noqa: ANN201
    """LoRA on PEFT's default projections in the top layers, and the head trained whole: what the bank trains."""
    from peft import LoraConfig

    from beholder.adapters.bank import pefts_choice
    from beholder.adapters.trunk import layer_list

    plain = plain_network(shared)
    name, layers = layer_list(plain.model)
    wanted = [f"model.{name}.{place}." for place in range(len(layers) - top_layers, len(layers))]
    choice = pefts_choice(plain)
    targets = [
        module
        for module, _ in plain.named_modules()
        if module.startswith(tuple(wanted)) and module.split(".")[-1] in choice
    ]
    return LoraConfig(
        r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=targets or ["head"],
        modules_to_save=["head"] if targets else None,
    )  # fmt: skip


def bank_of(shared, users: list[str], top_layers: int, folder: Path, seed: int = 0):  # noqa: ANN001, ANN201
    """A bank of users with random adapters: how long reading takes does not depend on what they learned."""
    import pyarrow as pa

    from beholder.adapters.bank import BankModel
    from beholder.adapters.block_training import BankSettings
    from beholder.adapters.layers import init_tensors
    from beholder.adapters.prior import isotropic
    from beholder.adapters.shards import INDEX, SHARD_USERS, Bank, write_index, write_shard
    from beholder.methods.cls_user import FittedPersonal

    settings = BankSettings(top_layers=top_layers, rank=RANK, alpha=2 * RANK, head="full")
    model = BankModel(shared.network, settings)
    prior = isotropic(model.shapes, 0, settings.epochs)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for first in range(0, len(users), SHARD_USERS):
        some = users[first : first + SHARD_USERS]
        tensors = {
            name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in init_tensors(model.shapes, len(some), 0, "cpu").items()
        }
        many = {name: [value] * len(some) for name, value in (("train_rows", 1), ("valid_rows", 0), ("epoch", 1))}
        columns = {
            "user_id": some,
            "shard": [write_shard(folder, tensors)] * len(some),
            "row": range(len(some)),
            **many,
            "loss": [None] * len(some),
            "shared_loss": [None] * len(some),
            "status": ["own"] * len(some),
            "prior_rows": [0] * len(some),
        }
        parts.append(pa.table({name: list(values) for name, values in columns.items()}, schema=INDEX))
    write_index(folder, pa.concat_tables(parts), model.shapes)
    return FittedPersonal("cls-u", shared, "cls", model, Bank(folder, prior.without_rows()), prior, settings)


def bundle_of(users: int, folder: Path, top_layers: int, seed: int = 0) -> tuple[Path, Annotations]:
    """Write a bundle on MiniLM as a run would, with random adapters for `users` users; returns it and some rows.

    With another seed, adapters and routes are others, and the shared model is the same.
    """
    import shutil

    import pyarrow as pa

    from beholder.methods import save_fitted
    from beholder.registry.bundle import write_bundle
    from beholder.registry.routing import RULE, USERS, Choice

    train, test = rows_of("simulated", 50, 40, 400)
    shared = shared_model("minilm-l6", train, "cpu")
    names = [f"user{number}" for number in range(users)]
    for name in ("bank", "cls", "cls-u"):
        (folder / name).mkdir(parents=True)
    save_fitted(shared, folder / "cls")
    save_fitted(bank_of(shared, names, top_layers, folder / "bank", seed), folder / "cls-u")
    drawn = np.random.default_rng(seed)
    gains = drawn.normal(0.05, 0.05, users)
    routed = pa.table(
        {
            "user_id": names,
            "train_rows": drawn.integers(5, 50, users),
            "valid_rows": drawn.integers(1, 10, users),
            "gain": gains,
            "expected": gains,
            "route": np.where(gains > 0, "personal", "global"),
        },
        schema=USERS,
    )
    population = {"mean": 0.05, "between": 0.001, "within": 0.01}
    facts = {
        "run": "none",
        "seed": 42,
        "split": {"by": "text", "fractions": [0.7, 0.15, 0.15], "seed": 42},
        "routes": {"rule": RULE, "population": population},
    }
    written = write_bundle(
        folder / "bundle",
        Choice("cls", "cls-u"),
        {name: folder / name for name in ("cls", "cls-u")},
        "minilm-l6",
        facts,
        routed,
    )
    for name in ("bank", "cls", "cls-u"):
        shutil.rmtree(folder / name)
    return written, test

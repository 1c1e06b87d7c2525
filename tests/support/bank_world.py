"""A shared model, texts, and users who judge them: what the laws of a bank and its prior are tested on."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch.nn import functional

from beholder.adapters.bank import BankModel, BankShape
from beholder.adapters.classifier_examples import ClassifierExamples
from beholder.adapters.estimate import PriorSettings, estimate_prior, unit_of, with_spread
from beholder.adapters.fit import BankTraining, fit_bank
from beholder.adapters.layers import init_tensors
from beholder.adapters.moderation import moderation_of
from beholder.adapters.prior import Prior
from beholder.adapters.trunk_cache import run_once
from beholder.models import load_base
from beholder.models.classifier import Classifier
from beholder.models.tiny import ARCHITECTURES
from beholder.models.tokenization import encode, length_cut

LABELS = 3
TEXTS = ["you are kind", "go away", "what a mess this is", "thank you", "no", "fine by me", "you fool", "well done"]
TEXTS += ["never again", "I like it here"]
SHAPES = {
    "bias": BankShape(head="bias"),
    "gate": BankShape(head="gate"),
    "full": BankShape(head="full"),
    "one layer": BankShape(top_layers=1, rank=2, head="gate", targets="all-linear"),
    "all layers": BankShape(top_layers=2, rank=2, head="full"),
}
CASES = [(architecture, shape) for architecture in ARCHITECTURES for shape in ("full", "one layer", "all layers")] + [
    ("bert", "bias"),
    ("bert", "gate"),
    ("llama", "gate"),
]


class World:
    """A shared model, texts, and users who judge them by rules of their own: few, or many who are called busy."""

    def __init__(self, architecture: str, shape: BankShape, adapted: bool = False) -> None:
        self.base = load_base(f"tiny-{architecture}")
        torch.manual_seed(0)
        self.network = Classifier(self.base, LABELS)
        if adapted:
            from peft import LoraConfig, get_peft_model

            lora = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", init_lora_weights=False)
            self.network.model = get_peft_model(self.base.model, lora)
            self.network.model.merge_adapter()
        self.network.eval()
        self.model = BankModel(self.network, shape)
        self.encoded = encode(self.base.tokenizer, TEXTS, 32)
        self.outputs = self.cached(memory_mb=100)

    def cached(self, **where):
        lengths = self.encoded.lengths if self.model.shape.top_layers else np.ones(len(TEXTS), np.int64)
        batches = list(length_cut(self.encoded.lengths, 40))
        return run_once(lengths, batches, self.base.width, self.trunk, **where)

    def trunk(self, rows):
        return self.model.trunk(*self.encoded.batch(rows))

    def judgements(self, users: list[str], held_out: bool = False) -> ClassifierExamples:
        user, text, target = [], [], []
        for place, name in enumerate(users):
            rates = np.where(np.random.default_rng([*name.encode()]).random(LABELS) < 0.5, 0.95, 0.05)
            rng = np.random.default_rng([int(held_out), *name.encode()])
            count = int(rng.integers(100, 140) if name.startswith("busy") else rng.integers(4, 12))
            user += [place] * count
            text += rng.integers(0, len(TEXTS), count).tolist()
            target += (rng.random((count, LABELS)) < rates).tolist()
        targets = np.asarray(target, dtype=np.float32)
        weights = np.ones_like(targets)
        weights[::5, 0] = 0  # some were not asked
        for place in range(len(users)):  # ... the same ones whoever else is there
            mine = np.flatnonzero(np.asarray(user) == place)
            weights[mine] = 1
            weights[mine[0], 0] = 0
        return ClassifierExamples(
            self.model, self.outputs, len(users), np.asarray(user), np.asarray(text), targets, weights, row_losses
        )

    @cached_property
    def prior(self) -> Prior:
        """Learned from people who are in no test."""
        people = [f"p{number}" for number in range(12)]
        train = self.judgements(people)
        learned = estimate_prior(self.model.shapes, train, 2, PriorSettings(steps=20), epochs=3, seed=1)
        spread = with_spread(learned, unit_of(learned, train, 1, "cpu"), 0.5)
        readings = train.readings
        return replace(learned, spread=spread, moderation=readings and moderation_of(readings, 1))

    def fit(self, users: list[str], prior: Prior | None = None, **more):
        training = BankTraining(**{"epochs": 3, "batch_size": 4, **more})
        held_out = self.judgements(users, held_out=True)
        return fit_bank(prior or self.prior, users, self.judgements(users), training, seed=1, held_out=held_out)

    def logits(self, tensors, place: int):
        rows = np.arange(len(TEXTS))
        user = torch.full((len(TEXTS),), place)
        return self.model.logits(*self.outputs.batch(rows), tensors, user).detach()

    def moved(self, users: int = 2):
        """Tensors of users who have learned something, drawn at random."""
        generator = torch.Generator().manual_seed(3)
        tensors = init_tensors(self.model.shapes, users, 0, "cpu")
        return {name: tensor + 0.2 * torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}


def row_losses(logits, targets, weights):
    return (weights * functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")).sum(-1)


@lru_cache
def world(architecture: str, shape: str) -> World:
    return World(architecture, SHAPES[shape])

"""Where a run's time goes, and what the platform costs over a bare PyTorch loop.

    python experiments/benchmarks/pipeline.py --json          quick: a part of the rows, one epoch
    python experiments/benchmarks/pipeline.py --full --json   the whole experiment, for the record

Two things are measured in one go. The experiment runs from data to registered model in a home folder of its own, and
its phases are timed. Then the same training and scoring batches go through beholder and through a loop of plain
PyTorch, alternating, in this process; the ratio is of the medians of tokens per second (1 = no overhead).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", type=Path, default=None, help="default: convabuse, else simulated")
    parser.add_argument("--full", action="store_true", help="all rows and epochs")
    parser.add_argument("--repeats", type=int, default=None, help="of the comparison; default 5, with --full 9")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["BEHOLDER_HOME"] = home
        found = measure(arguments.experiment, arguments.full, arguments.repeats or (9 if arguments.full else 5))
    if arguments.json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        print(f"{key}: {value}")


def measure(file: Path | None, full: bool, repeats: int) -> dict:
    """Run the experiment, then the comparison on its training and test rows."""
    from beholder.cluster.runtime import apply_settings
    from beholder.datasets import locate
    from beholder.experiment.config import load_experiment
    from beholder.workflows import run as pipeline

    apply_settings()
    file = file or ROOT / "experiments" / ("convabuse.yaml" if locate("convabuse") else "simulated.yaml")
    shorter = [] if full else ["subsample.rows=4000", "methods.cls.epochs=1"]
    experiment = load_experiment(file, shorter)
    outcome = pipeline.run(experiment)
    arms = {arm.name: arm.config for arm in experiment.arms}
    prepared = pipeline.prepare(experiment)
    note = json.loads((outcome.run_folder / "methods" / "cls" / "done.json").read_text())
    training, scoring = [], []
    # The two sides take turns, so that what else the machine does hits both.
    for _ in range(repeats):
        ours, bare = compare(arms["cls"].model_copy(update={"epochs": 1}), prepared, experiment.base)
        training.append((ours[0], bare[0]))
        scoring.append((ours[1], bare[1]))
    phases = {f"{name.replace('-', '_')}_s": round(seconds, 2) for name, seconds in outcome.seconds.items()}
    return {
        "experiment": experiment.name,
        "rows": len(prepared.annotations),
        **phases,
        "total_s": round(sum(outcome.seconds.values()), 2),
        "training_tokens_per_s": round(statistics.median(ours for ours, _ in training)),
        "training_tokens_per_s_on_ray": round(note["training"]["tokens_per_second"]),
        "training_ratio": round(ratio(training), 3),
        "scoring_tokens_per_s": round(statistics.median(ours for ours, _ in scoring)),
        "scoring_ratio": round(ratio(scoring), 3),
        "repeats": repeats,
    }


def ratio(pairs: list[tuple[float, float]]) -> float:
    """Median of ours over median of the bare loop."""
    return statistics.median(ours for ours, _ in pairs) / statistics.median(bare for _, bare in pairs)


def compare(config, prepared, base_name: str) -> tuple[tuple[float, float], tuple[float, float]]:  # noqa: ANN001
    """(training, scoring) tokens per second: ours, and the bare loop's, one epoch over the same batches."""
    from beholder.training.context import Context

    train, valid, test = (prepared.part(part) for part in ("train", "valid", "test"))
    fitted = config.fit(train, valid, Context(base=base_name))
    texts, nobody = test.distinct_texts[0], [""] * len(test.distinct_texts[0])
    started = time.perf_counter()
    fitted.score(texts, nobody)
    seconds = time.perf_counter() - started
    training, scoring, tokens = bare_loop(config, train, texts, base_name)
    return (fitted.training.tokens_per_second, tokens / seconds), (training, scoring)


def bare_loop(config, train, test_texts: list[str], base_name: str) -> tuple[float, float, int]:  # noqa: ANN001
    """Training and scoring tokens per second of plain PyTorch on ready-made batches, and the test texts' tokens."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.nn.functional import binary_cross_entropy_with_logits

    from beholder.models import load_base
    from beholder.models.tokenization import encode, length_cut
    from beholder.training.batches import training_batches
    from beholder.training.losses import group

    base = load_base(base_name)
    grouped = group(train, by_user=False)
    inputs = encode(base.tokenizer, list(train.texts[grouped.rows]), config.max_tokens)
    batches = [
        (*inputs.batch(rows), torch.from_numpy(grouped.targets[rows]), torch.from_numpy(grouped.weights[rows]))
        for rows in training_batches(inputs.lengths, grouped.text, config.batch_size, np.random.default_rng(42))
    ]
    test = encode(base.tokenizer, test_texts, config.max_tokens)
    test_batches = [test.batch(rows) for rows in length_cut(test.lengths, 2_048)]

    for module in base.model.modules():  # as beholder does: the same work on both sides
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    lora = LoraConfig(r=config.lora.rank, lora_alpha=config.lora.alpha, lora_dropout=config.lora.dropout)
    model = get_peft_model(base.model, lora)
    head = torch.nn.Linear(base.width, len(train.task.labels))
    optimizer = torch.optim.AdamW([*(p for p in model.parameters() if p.requires_grad), *head.parameters()], lr=1e-3)

    def logits(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return head((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    model.train()
    started = time.perf_counter()
    for ids, mask, targets, weights in batches:
        loss = binary_cross_entropy_with_logits(logits(ids, mask), targets, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    training = int(inputs.lengths.sum()) / (time.perf_counter() - started)
    model.eval()
    started = time.perf_counter()
    with torch.inference_mode():
        for ids, mask in test_batches:
            torch.sigmoid(logits(ids, mask))
    tokens = int(test.lengths.sum())
    return training, tokens / (time.perf_counter() - started), tokens


if __name__ == "__main__":
    main()

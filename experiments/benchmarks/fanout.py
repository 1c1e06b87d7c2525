"""Training every user's adapter: the bank in one pass, against plain PEFT one user after another.

    python experiments/benchmarks/fanout.py --json                         250 simulated users x 50 rows, heads alone
    python experiments/benchmarks/fanout.py --top-layers 2 --json          the top two layers of six as well
    python experiments/benchmarks/fanout.py --base smollm2-135m --top-layers 3 --users 16 --rows-per-user 16 --epochs 3
    python experiments/benchmarks/fanout.py --scaling 100,1000,10000       the bank alone, as users grow

Both sides start from the same shared model (not timed) and train the same rows at the same rank, learning rate, batch
size and number of epochs, with Adam, to the last epoch. PEFT trains a sample of the users, seconds per user are what
that sample took, and both sides' macro-F1 is that sample's, on texts unseen in training. The bank's time holds all it
does: tokenising, the trunk, training, writing shards. PEFT's holds making the adapter and training it. PEFT runs
without dropout, as the bank does: noise in frozen layers would slow it down further.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from shared_model import RANK, peft_config, plain_network, rows_of, shared_model
from torch.nn.functional import binary_cross_entropy_with_logits

LEARNING_RATE, BATCH = 2e-3, 16


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=["simulated", "convabuse", "brighter"], default="simulated")
    parser.add_argument("--base", default="minilm-l6", help="minilm-l6, smollm2-135m, or mistral-7b-random")
    parser.add_argument("--layers", type=int, default=None, help="fewer layers than 32, of mistral-7b-random")
    parser.add_argument("--users", type=int, default=250)
    parser.add_argument("--rows-per-user", type=int, default=50)
    parser.add_argument(
        "--texts", type=int, default=None, help="distinct simulated texts; default: 5 judgements a text"
    )
    parser.add_argument("--top-layers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=None, help="default: 20 for heads alone, else 5")
    parser.add_argument("--sample", type=int, default=None, help="users PEFT trains; default 8, with --full 32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--scaling", default=None, help="numbers of users, as in 100,1000,10000: the bank alone")
    parser.add_argument("--full", action="store_true", help="a larger sample, for the record")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    for step in ("--draw-to", "--alone"):  # how --scaling calls itself
        parser.add_argument(step, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.epochs = arguments.epochs or (5 if arguments.top_layers else 20)
    arguments.sample = arguments.sample or (32 if arguments.full else 8)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    steps = ((arguments.scaling, scaling), (arguments.draw_to, draw), (arguments.alone, bank_alone))
    measure = next((step for asked, step in steps if asked), compare)
    found = measure(arguments)
    print(json.dumps(found) if arguments.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


def compare(arguments: argparse.Namespace) -> dict:
    """Both sides, in this process, one after the other."""
    texts = arguments.texts or arguments.users * arguments.rows_per_user // 5
    train, test = rows_of(arguments.source, arguments.users, arguments.rows_per_user, min(texts, 50_000))
    shared = shared_model(arguments.base, train, arguments.device, arguments.layers)
    users = train.users
    sample = [users[place] for place in np.linspace(0, len(users) - 1, min(arguments.sample, len(users))).astype(int)]
    seconds_peft, scores = peft_one_by_one(arguments, shared, train, test, sample)
    with tempfile.TemporaryDirectory() as folder:
        seconds_bank, _, seconds_prior, fitted = the_bank(arguments, shared, train, Path(folder))
        theirs = np.isin(test.user_ids, sample)
        mine = test.select(np.flatnonzero(theirs))
        f1_bank = f1(fitted(list(mine.texts), list(mine.user_ids)), mine)
    per_peft, per_bank = seconds_peft / len(sample), seconds_bank / len(users)
    return {
        "source": arguments.source,
        "base": arguments.base,
        "device": arguments.device,
        "users": len(users),
        "rows": len(train),
        "texts": len(train.distinct_texts[0]),
        "top_layers": arguments.top_layers,
        "rank": RANK,
        "epochs": arguments.epochs,
        "ratio": round(per_peft / per_bank, 1),
        "seconds_per_user_peft": round(per_peft, 4),
        "peft_sample": len(sample),
        "seconds_per_user_bank": round(per_bank, 4),
        "seconds_prior": seconds_prior,
        "f1_peft": round(100 * f1(scores, mine), 2),
        "f1_bank": round(100 * f1_bank, 2),
        "f1_shared": round(100 * f1(shared.score(list(mine.texts), list(mine.user_ids)), mine), 2),
        "peak_mb": peak_mb(arguments.device),
    }


def the_bank(arguments: argparse.Namespace, shared, train, folder: Path):  # noqa: ANN001, ANN201
    """(seconds in all, of them in the trunk, and in the prior, a function that scores) of all users together."""
    from beholder.adapters.bank import BankModel
    from beholder.adapters.block_training import BankFitting, BankSettings
    from beholder.adapters.estimate import PriorSettings
    from beholder.methods.classifier_backbone import ClassifierBackbone
    from beholder.methods.cls_user import FittedPersonal
    from beholder.training.context import Context

    settings = BankSettings(
        top_layers=arguments.top_layers,
        rank=RANK,
        alpha=2 * RANK,
        head="full",
        epochs=arguments.epochs,
        batch_size=BATCH,
        prior=PriorSettings(strength=1.0),  # nothing to choose: there are no validation rows
    )
    nobody = train.select([])  # without validation rows everybody keeps the last epoch, as on the other side
    started = time.perf_counter()
    fitting = BankFitting(
        settings,
        ClassifierBackbone(shared, BankModel(shared.network, settings), train, nobody),
        train,
        nobody,
        Context("", device=arguments.device, run_folder=folder),
    )
    _ = fitting.outputs
    trunk = time.perf_counter() - started
    for number in range(len(fitting.blocks)):
        fitting.train(number)
    bank, _ = fitting.finish()
    seconds = time.perf_counter() - started
    prior = fitting.prior
    return (
        seconds,
        trunk,
        prior.facts["seconds"],
        FittedPersonal("cls-u", shared, "cls", fitting.model, bank, prior, settings).score,
    )


def peft_one_by_one(arguments: argparse.Namespace, shared, train, test, sample: list[str]):  # noqa: ANN001, ANN201
    """(seconds, scores of the sample's test rows): an ordinary PEFT training loop for each user."""
    from peft import get_peft_model

    from beholder.models.tokenization import encode

    device = arguments.device
    config = peft_config(shared, arguments.top_layers)
    theirs = np.flatnonzero(np.isin(test.user_ids, sample))
    scores = np.empty((len(theirs), len(train.task.labels)), dtype=np.float32)
    plain = plain_network(shared)
    seconds = 0.0
    for user in sample:
        mine = train.select(np.flatnonzero(train.user_ids == user))
        labels = torch.from_numpy(np.nan_to_num(mine.labels))
        rng = np.random.default_rng(0)
        started = time.perf_counter()
        inputs = encode(shared.base.tokenizer, list(mine.texts), shared.max_tokens)
        model = get_peft_model(plain, config).eval()  # no dropout
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
        steps = arguments.epochs * math.ceil(len(mine) / BATCH)
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s, n=steps: 0.5 * (1 + math.cos(math.pi * s / n)))
        for _ in range(arguments.epochs):
            order = rng.permutation(len(mine))
            for first in range(0, len(mine), BATCH):
                rows = order[first : first + BATCH]
                ids, mask = inputs.batch(rows)
                logits = model(tokens=ids.to(device), mask=mask.to(device))
                loss = binary_cross_entropy_with_logits(logits, labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                rates.step()
        seconds += time.perf_counter() - started
        rows = np.flatnonzero(test.user_ids[theirs] == user)
        asked = encode(shared.base.tokenizer, list(test.texts[theirs[rows]]), shared.max_tokens)
        with torch.inference_mode():
            for row, place in enumerate(rows):
                ids, mask = asked.batch(np.asarray([row]))
                said = torch.sigmoid(model(tokens=ids.to(device), mask=mask.to(device)))
                scores[place] = said[0].float().cpu().numpy()
        plain = model.unload()
        plain.head = copy.deepcopy(
            shared.network.head
        )  # unloading keeps the user's: the next one must not start from it
    return seconds, scores


def f1(scores, rows) -> float:  # noqa: ANN001
    """Macro-F1 at 0.5."""
    from beholder.evaluation.metrics import decide, macro_f1

    return macro_f1(decide(scores, np.full(scores.shape[1], 0.5), rows.task.kind), rows.labels)


def scaling(arguments: argparse.Namespace) -> dict:
    """The bank alone, each number of users in a process of its own, on the same texts.

    Drawing the population takes more memory than training on it, so that another process does that before.
    """
    same = ("base", "device", "rows_per_user", "top_layers", "epochs")
    flags = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in same]
    flags.append(f"--texts={arguments.texts or 2_000}")
    found = []
    for users in arguments.scaling.split(","):
        with tempfile.TemporaryDirectory() as folder:
            for step in ("--draw-to", "--alone"):
                command = [
                    sys.executable,
                    __file__,
                    "--json",
                    *flags,
                    f"--users={users}",
                    f"{step}={folder}/rows.parquet",
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return {"base": arguments.base, "top_layers": arguments.top_layers, "epochs": arguments.epochs, "scaling": found}


def draw(arguments: argparse.Namespace) -> dict:
    """Write the rows of a population."""
    from beholder.data.annotations import Annotations

    train, _ = rows_of(arguments.source, arguments.users, arguments.rows_per_user, arguments.texts)
    plain = Annotations(train.table.select_columns(["text_id", "text", "user_id", "labels"]), train.task)
    plain.write_parquet(Path(arguments.draw_to))
    return {}


def bank_alone(arguments: argparse.Namespace) -> dict:
    """One row of `scaling`. `seconds_per_user` holds all; `without_trunk` leaves out what is paid once per text."""
    from beholder.data.annotations import Annotations

    train = Annotations.read_parquet(Path(arguments.alone))
    shared = shared_model(arguments.base, train.select(range(min(2_000, len(train)))), arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        seconds, trunk, prior, _ = the_bank(arguments, shared, train, Path(folder))
    users = len(train.users)
    return {
        "users": users,
        "seconds_per_user": round(seconds / users, 5),
        "without_trunk": round((seconds - trunk) / users, 5),
        "seconds_prior": prior,
        "peak_mb": peak_mb(arguments.device),
    }


def peak_mb(device: str) -> int:
    """Most memory held so far: of the process, or of the GPU."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()

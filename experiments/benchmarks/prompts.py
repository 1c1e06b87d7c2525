"""Many readers' prompts about the same texts, read as one tree of tokens, against each prompt read whole.

    python experiments/benchmarks/prompts.py --json                          16 texts x 16 users, users after texts
    python experiments/benchmarks/prompts.py --placement before --json       the user's examples before the text
    python experiments/benchmarks/prompts.py --peer harness --json           against a pass for each (prompt, label)

What is scored is the likelihood of each label, and of none, as an answer: what `query-p` calibrates. Both sides get the
same prompts in tokens, and the same head for the tokens answers are made of. The peer pads batches of prompts of about
one length. `cache`: it reads each prompt once, keeps keys and values, and goes on from them with each label's further
tokens. `harness`: it reads prompt and label together, each label anew, as lm-evaluation-harness does. `ratio` is the
peer's seconds to ours, `max_difference` the largest between log-likelihoods.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from shared_model import RANDOM, random_folder, rows_of
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from beholder.prompting.prompted_model import Prompted
    from beholder.prompting.tokenize import Segments

BLOCKS = {"after": "id", "before": "id,examples"}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m", help="or mistral-7b-random, in bfloat16")
    parser.add_argument("--layers", type=int, default=None, help="fewer layers than 32, of mistral-7b-random")
    parser.add_argument("--texts", type=int, default=None, help="default 16, with --full 64")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--placement", choices=["before", "after"], default="after", help="of the user's blocks")
    parser.add_argument("--blocks", default=None, help=f"default {BLOCKS}")
    parser.add_argument("--shots", type=int, default=8, help="examples, where they are among the blocks")
    parser.add_argument("--wording", default="plain")
    parser.add_argument("--peer", choices=["cache", "harness"], default="cache")
    parser.add_argument("--peer-tokens", type=int, default=2_048, help="in a batch of the peer's, with padding")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--full", action="store_true", help="64 texts, for the record")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    arguments.texts = arguments.texts or (64 if arguments.full else 16)
    arguments.blocks = arguments.blocks or BLOCKS[arguments.placement]
    found = measure(arguments)
    print(json.dumps(found) if arguments.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


def measure(arguments: argparse.Namespace) -> dict:
    """Both sides, once each, after a few prompts to warm up."""
    prompted = asked(arguments)
    texts, users = chosen(arguments, prompted)
    prompts, _ = prompted.distinct([text for text in texts for _ in users], users * len(texts))
    read: dict[str, Any] = {"shared": Shared(prompted), "peer": Peer(prompted, arguments.peer, arguments.peer_tokens)}
    took, said = {}, {}
    for name, side in read.items():
        side(prompts[:8])
        side.tokens = 0
        started = time.perf_counter()
        said[name] = side(prompts)
        took[name] = time.perf_counter() - started
    read["shared"].count(prompts)
    return {
        "ratio": round(took["peer"] / took["shared"], 2),
        "max_difference": float(f"{np.abs(said['peer'] - said['shared']).max():.2g}"),
        "seconds": round(took["shared"], 2),
        "seconds_peer": round(took["peer"], 2),
        "tokens": read["shared"].tokens,
        "tokens_peer": read["peer"].tokens,
        "base": arguments.base,
        "device": arguments.device,
        "texts": len(texts),
        "users": len(users),
        "labels": len(prompted.prompter.task.labels),
        "tokens_a_prompt": round(np.mean([sum(map(len, prompt)) for prompt in prompts]), 1),
        "placement": arguments.placement,
        "blocks": arguments.blocks,
        "shots": arguments.shots if "examples" in arguments.blocks else 0,
        "wording": arguments.wording,
        "peer": arguments.peer,
    }


def asked(arguments: argparse.Namespace) -> Prompted:
    """The model, and its prompts about simulated users."""
    from beholder.models.language_model import load_language_model
    from beholder.prompting.builder import Prompter
    from beholder.prompting.config import PromptSettings
    from beholder.prompting.prompted_model import Prompted

    train, _ = rows_of("simulated", arguments.users, 40, 400)
    settings = PromptSettings(
        wording=arguments.wording,
        blocks=tuple(arguments.blocks.split(",")),
        shots=arguments.shots,
        placement=arguments.placement,
    )
    random = arguments.base == RANDOM
    language = load_language_model(
        f"{random_folder(arguments.layers, arguments.device)}@bf16" if random else arguments.base
    )
    language.model.to(arguments.device)  # type: ignore[arg-type]
    language.model.eval()
    prompter = Prompter(train.task, settings, train, personal=True, seed=0)
    return Prompted(language, prompter, 1_024, arguments.device)


def chosen(arguments: argparse.Namespace, prompted: Prompted) -> tuple[list[str], list[str]]:
    """Unseen texts, and users."""
    _, test = rows_of("simulated", arguments.users, 40, 400)
    texts = test.distinct_texts[0][: arguments.texts]
    if len(texts) < arguments.texts:
        raise SystemExit(f"--texts: there are {len(texts)} unseen texts.")
    return texts, list(prompted.prompter.users)[: arguments.users]


class Shared:
    """What the platform does."""

    def __init__(self, prompted: Prompted) -> None:
        self.prompted, self.tokens = prompted, 0

    def __call__(self, prompts: list[Segments]) -> NDArray[np.float64]:
        """Log-likelihoods, float64 [prompts, labels + 1]."""
        return self.prompted.first_step(prompts)

    def count(self, prompts: list[Segments]) -> None:
        """Tokens that are read: of packs one after another, without what one begins with as the last did."""
        from beholder.models.prefix_tree import packs

        space, last = self.prompted.space, None
        answers = [(row, piece) for row in range(len(prompts)) for piece in (*space.first, space.none)]
        for pack in packs(self.prompted.language, prompts, answers, self.prompted.budget):
            self.tokens += pack.size - (pack.begins_like(last) if last else 0)  # type: ignore[union-attr, arg-type]
            last = pack


class Peer:
    """Every prompt read whole, in padded batches."""

    def __init__(self, prompted: Prompted, kind: str, budget: int) -> None:
        self.prompted, self.kind, self.budget, self.tokens = prompted, kind, budget, 0
        self.pieces = [*prompted.space.first, prompted.space.none]
        self.model: Any = prompted.language.model
        self.head = prompted.answer_head
        self.place = {int(token): place for place, token in enumerate(prompted.space.vocabulary)}

    @torch.inference_mode()
    def __call__(self, prompts: list[Segments]) -> NDArray[np.float64]:
        """Log-likelihoods, float64 [prompts, labels + 1]."""
        from beholder.models.tokenization import length_cut
        from beholder.prompting.constrained_decoding import whole

        told = [[token for segment in prompt for token in segment] for prompt in prompts]
        found = np.zeros((len(prompts), len(self.pieces)))
        if self.kind == "harness":
            rows = [(row, option) for row in range(len(told)) for option in range(len(self.pieces))]
            inputs = [told[row] + list(self.pieces[option][:-1]) for row, option in rows]
            for some in length_cut(np.asarray(list(map(len, inputs))), self.budget):
                said, _ = self.read([inputs[each] for each in some])
                for place, each in enumerate(some):
                    row, option = rows[each]
                    found[row, option] = self.sum_of(said[place], len(told[row]) - 1, self.pieces[option])
        else:
            for some in length_cut(np.asarray(list(map(len, told))), self.budget):
                found[some] = self.from_cache([told[row] for row in some])
        return whole(self.pieces, found)

    def from_cache(self, told: list[list[int]]) -> NDArray[np.float64]:
        """[prompts, labels + 1]: prompts once, then each label's tokens behind their keys and values."""
        said, cache = self.read(told, keep=True)
        last = [said[row, len(prompt) - 1] for row, prompt in enumerate(told)]
        found = np.asarray([[float(each[self.place[piece[0]]]) for piece in self.pieces] for each in last])
        longer = [option for option, piece in enumerate(self.pieces) if len(piece) > 1]
        if not longer:
            return found
        cache.batch_repeat_interleave(len(longer))
        width, lengths = max(map(len, told)), [len(prompt) for prompt in told for _ in longer]
        begun = [list(self.pieces[option][:-1]) for _ in told for option in longer]
        inputs, inside = self.padded(begun)
        before = torch.arange(width)[None] < torch.tensor(lengths)[:, None]  # [rows, width]
        said, _ = self.forward(
            inputs,
            torch.cat([before.long(), inside], dim=1),
            torch.tensor(lengths)[:, None] + torch.arange(inputs.shape[1])[None],
            past_key_values=cache,
        )
        rest = [self.sum_of(said[row], 0, self.pieces[longer[row % len(longer)]][1:]) for row in range(len(begun))]
        found[:, longer] += np.asarray(rest).reshape(len(told), len(longer))
        return found

    def read(self, rows: list[list[int]], keep: bool = False) -> tuple[NDArray[np.float64], Any]:
        """Log-probabilities of answer tokens at every place, and keys and values."""
        inputs, inside = self.padded(rows)
        return self.forward(inputs, inside, (inside.cumsum(1) - 1).clamp(min=0), use_cache=keep)

    def forward(self, inputs: Any, mask: Any, positions: Any, **more: Any) -> tuple[NDArray[np.float64], Any]:
        """The model's body, and the head of answer tokens."""
        device = self.prompted.device
        self.tokens += inputs.numel()
        said = self.prompted.language.body(  # type: ignore[operator]
            input_ids=inputs.to(device), attention_mask=mask.to(device), position_ids=positions.to(device), **more
        )
        scores = functional.log_softmax(self.head(said.last_hidden_state.float()), dim=-1)
        return scores.double().cpu().numpy(), said.past_key_values

    def sum_of(self, said: NDArray[np.float64], start: int, piece: Any) -> float:
        """Of a piece whose first token the state at `start` predicts."""
        return float(sum(said[start + place, self.place[token]] for place, token in enumerate(piece)))

    def padded(self, rows: list[list[int]]) -> tuple[Any, Any]:
        """Ids and mask, int64 [rows, longest]."""
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return ids, mask


if __name__ == "__main__":
    main()

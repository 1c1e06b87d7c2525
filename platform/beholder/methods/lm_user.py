"""An adapter for each user, on top of a language model that writes label lists: `lm-u`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from beholder.adapters.bank import BankModel, BankShape
from beholder.adapters.language_examples import AnswerBankModel, AnswerRows
from beholder.adapters.trunk_cache import TrunkOutputs, run_once
from beholder.data.annotations import Annotations
from beholder.data.written_points import scores_of_points, written_rows
from beholder.methods.base import WRITERS, BaseKind, Scores
from beholder.methods.cls_user import PersonalConfig
from beholder.methods.lm import FittedLanguage
from beholder.methods.user_adapters import FittedBank
from beholder.models.prefix_tree import Pack, packs
from beholder.models.tokenization import length_cut
from beholder.prompting.chain_loss import ChainDecisions, target
from beholder.prompting.constrained_decoding import Tokens, walk
from beholder.prompting.prompted_model import Prompted
from beholder.prompting.tokenize import Segments

ROWS = 1_024
"""(text, user) rows scored at once by the heads alone."""


class PersonalLanguageConfig(PersonalConfig):
    """An adapter per user, trained to write that user's answers. `init_from` names an `lm` or `lm-p`.

    Only answer tokens can be written, by users as by the global model; `bank.head` changes their rows of the output
    projection. Of a judgement with labels that were not asked, only what was asked is learned (`chain_loss`).
    """

    method: Literal["lm-u"] = "lm-u"  # type: ignore[assignment]
    init_from: str = "lm"

    writes: ClassVar[bool] = True
    bases: ClassVar[tuple[BaseKind, ...]] = WRITERS

    @property
    def fitted(self) -> type[FittedBank]:
        """What fitting it makes."""
        return FittedPersonalLanguage


class LanguageBackbone:
    """A fitted `lm` or `lm-p` under a bank. See `block_training.Backbone`.

    An input is a distinct prompt with every answer that anybody gives to it, and, of judgements with labels that were
    not asked, the beginnings of answers that decide what was asked.
    """

    def __init__(
        self, shared: FittedLanguage, model: AnswerBankModel, train: Annotations, valid: Annotations | None = None
    ) -> None:
        valid = train.select([]) if valid is None else valid
        self.shared, self.model = shared, model
        prompted = shared.prompted
        self._prompts, index = prompted.distinct([*train.texts, *valid.texts], [*train.user_ids, *valid.user_ids])
        self.index = {"train": index[: len(train)], "valid": index[len(train) :], "both": index}
        given: list[dict[Tokens, int]] = [{} for _ in self._prompts]
        self._said: dict[str, list[Tokens | ChainDecisions | None]] = {}  # part -> what each row teaches to write
        self._answer: dict[str, NDArray[np.int64]] = {}  # part -> the first of its prompt's answers that each row reads
        self._longest = 1
        for part, rows in (("train", train), ("valid", valid)):
            self._said[part] = [target(prompted.space, labels) for labels in written_rows(rows).labels]
            first = []
            for prompt, said in zip(self.index[part], self._said[part], strict=True):
                answers = said.answers if isinstance(said, ChainDecisions) else (said or prompted.space.none,)
                for answer in answers:
                    given[prompt].setdefault(answer, len(given[prompt]))
                first.append(given[prompt][answers[0]])
                if not isinstance(said, ChainDecisions):
                    self._longest = max(self._longest, len(answers[0]))
            self._answer[part] = np.asarray(first, dtype=np.int64)
        self._said["both"] = self._said["train"] + self._said["valid"]
        self._answer["both"] = np.concatenate([self._answer["train"], self._answer["valid"]])
        self._given = given
        self.inputs = [one_pack(prompted, *each) for each in zip(self._prompts, map(list, given), strict=True)]

    @cached_property
    def checksum(self) -> str:
        """Of the language model and its words."""
        return self.shared.checksum

    @property
    def tokens(self) -> NDArray[np.int64]:
        """int64 [inputs]"""
        return np.asarray([pack.size for pack in self.inputs], dtype=np.int64)

    @cached_property
    def trunk_key(self) -> str:
        """Of model, cut and inputs."""
        digest = hashlib.sha256(f"{self.checksum} {self.model.shape.top_layers} {self.shared.device}".encode())
        for prompt, pack in zip(self._prompts, self.inputs, strict=True):
            digest.update(repr((prompt, pack.asked.token.tolist(), pack.asked.request.tolist())).encode())
        return digest.hexdigest()

    def outputs(self, memory_mb: int, folder: Path | None) -> TrunkOutputs:
        """States of every token of every input, or of those that predict one where the head alone is a user's own."""
        return run_once(
            self.model.positions(self.inputs),
            list(length_cut(self.tokens, 2 * self.model.piece)),
            self.model.width,
            lambda rows: self.model.read([self.inputs[row] for row in rows]),
            memory_mb=memory_mb,
            folder=folder,
        )

    def examples(
        self, outputs: TrunkOutputs, part: str, rows: NDArray[np.int64], users: int, user: NDArray[np.int64]
    ) -> AnswerRows:
        """Rows of (user, prompt, answer)."""
        vocabulary = self.shared.prompted.space.vocabulary
        place, token = (np.full((len(rows), self._longest), -1, dtype=np.int64) for _ in range(2))
        partial: dict[int, tuple[ChainDecisions | None, NDArray[np.int64]]] = {}
        for position, row in enumerate(rows):
            prompt, said = int(self.index[part][row]), self._said[part][row]
            if said is None:
                partial[position] = None, np.empty(0, dtype=np.int64)
                continue
            if isinstance(said, ChainDecisions):
                partial[position] = said, self._places(prompt, said)
                continue
            asked = self.inputs[prompt].asked
            mine = asked.request == self._answer[part][row]
            place[position, : mine.sum()] = asked.place[mine]
            token[position, : mine.sum()] = np.searchsorted(vocabulary, asked.token[mine])
        return AnswerRows(
            self.model,
            outputs,
            self.inputs,
            users,
            user,
            self.index[part][rows],
            place,
            token,
            partial,
            self.shared.device,
        )

    def _places(self, prompt: int, said: ChainDecisions) -> NDArray[np.int64]:
        """The places of an input that predict what follows each of `Decisions.beginnings`: int64 [beginnings]."""
        asked, found = self.inputs[prompt].asked, {}
        for answer in said.answers:
            mine = asked.request == self._given[prompt][answer]
            for length, place in enumerate(asked.place[mine].tolist()):
                found[answer[:length]] = place
        return np.asarray([found[beginning] for beginning in said.beginnings], dtype=np.int64)


class FittedPersonalLanguage(FittedBank):
    """A language model and a bank on top of it. See `methods.base.Fitted` for the attributes."""

    stands_on = (FittedLanguage, "lm or lm-p")
    backbone = LanguageBackbone

    @property
    def base(self) -> str:
        """The base's name."""
        return self.shared.prompted.language.base.name

    @classmethod
    def model_for(cls, shared: FittedLanguage, shape: BankShape) -> BankModel:
        """The language model in two parts."""
        return AnswerBankModel(shared.prompted.language, shared.prompted.answer_head, shape)

    def score(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [rows, labels]: the probability that the user names each label when its turn comes.

        The trunk reads each distinct prompt once at every step of the walk, for all its users.

        Raises:
            BankError: a user's shard is missing or damaged.
        """
        prompts, prompt_of = self.shared.prompted.distinct(texts, users)
        names, user = np.unique(np.asarray(users, dtype=object).astype(str), return_inverse=True)
        named: list[str] = names.tolist()
        pairs, index = np.unique(np.stack([prompt_of, user]), axis=1, return_inverse=True)

        def found(requests: Sequence[tuple[int, Tokens]]) -> NDArray[np.float64]:
            return self._loglikelihoods(prompts, pairs[0], [named[each] for each in pairs[1]], requests)

        space = self.shared.prompted.space
        scores = walk(pairs.shape[1], space, found, in_order=True).scores
        return scores_of_points(self.task, scores)[index.reshape(-1)]

    @torch.inference_mode()
    def _loglikelihoods(
        self,
        prompts: Sequence[Segments],
        prompt_of: NDArray[np.int64],
        users: list[str],
        requests: Sequence[tuple[int, Tokens]],
    ) -> NDArray[np.float64]:
        """Of each answer, by each row's user: float64 [requests]. See `constrained_decoding.LogLikelihoods`."""
        model: Any = self.model
        answers: dict[int, dict[Tokens, int]] = {}  # prompt -> answers to score
        asked: dict[int, list[tuple[int, int]]] = {}  # row -> (request, answer of its prompt)
        for request, (row, answer) in enumerate(requests):
            known = answers.setdefault(int(prompt_of[row]), {})
            asked.setdefault(row, []).append((request, known.setdefault(answer, len(known))))
        chosen = list(answers)
        inputs = [one_pack(self.shared.prompted, prompts[prompt], list(answers[prompt])) for prompt in chosen]
        rows_of: dict[int, list[int]] = {prompt: [] for prompt in chosen}
        for row in asked:
            rows_of[int(prompt_of[row])].append(row)
        sums = np.zeros(len(requests))
        for some in length_cut(np.asarray([pack.size for pack in inputs]), 2 * model.piece):
            values, positions = model.read([inputs[each] for each in some])
            rows = [row for each in some for row in rows_of[chosen[each]]]
            here = np.repeat(np.arange(len(some)), [len(rows_of[chosen[each]]) for each in some])
            sizes = positions[here] if model.shape.top_layers else np.full(len(rows), model.piece // ROWS)
            for piece in length_cut(sizes, model.piece):
                mine = [inputs[some[here[each]]] for each in piece]
                logits = model.answer_logits(
                    values[torch.from_numpy(here[piece]).to(values.device)],
                    mine,
                    [np.arange(pack.asked.place.max() + 1) for pack in mine],
                    self.bank.take([users[rows[int(each)]] for each in piece], self.device),
                    torch.arange(len(piece), device=self.device),
                )
                said = functional.log_softmax(logits.float(), dim=-1).double().cpu().numpy()
                for place, each in enumerate(piece):
                    found = self._of_answers(mine[place], said[place])
                    for request, answer in asked[rows[each]]:
                        sums[request] = found[answer]
        return sums

    def _of_answers(self, pack: Pack, said: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-likelihood of each answer of an input, from log-probabilities [places, answer tokens]: [answers]."""
        token = np.searchsorted(self.shared.prompted.space.vocabulary, pack.asked.token)
        return np.bincount(pack.asked.request, weights=said[pack.asked.place, token]).astype(np.float64)


def one_pack(prompted: Prompted, prompt: Segments, answers: Sequence[Tokens]) -> Pack:
    """A prompt with some answers to it, as an input of its own."""
    return next(packs(prompted.language, [prompt], [(0, answer) for answer in answers], 0))

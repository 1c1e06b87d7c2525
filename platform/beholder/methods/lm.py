"""Fine-tuning a language model to write label lists: `lm`, and `lm-p`, with the user in the prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from beholder.data.annotations import Annotations
from beholder.data.controls import Shuffled
from beholder.data.task import Task
from beholder.data.written_points import scores_of_points, written_rows
from beholder.evaluation.headline import choose_thresholds, scored_headline
from beholder.methods.base import WRITERS, BaseKind, MethodConfig, Scores, score_every_pair
from beholder.models import BaseFacts
from beholder.models.hosted import Endpoint
from beholder.models.language_model import load_language_model
from beholder.models.prefix_tree import Pack, packs
from beholder.prompting.builder import Prompter
from beholder.prompting.chain_loss import ChainDecisions, target
from beholder.prompting.config import PromptSettings
from beholder.prompting.constrained_decoding import Tokens
from beholder.prompting.prompted_model import Prompted, answer_space, erase_prompter, read_prompted, write_prompted
from beholder.training.context import Context, Training
from beholder.training.loop import Schedule, fine_tune
from beholder.training.lora import (
    LoraSettings,
    adapted,
    adapter_checksum,
    check_trainable,
    fold,
    load_adapter,
    save_adapter,
)


class LanguageConfig(MethodConfig):
    """One global model that learns to write the labels given, alphabetically, and its end token.

    The loss is that of the answer's tokens alone, summed over an answer and averaged over judgements; of a judgement
    with labels that were not asked, that of what was asked (`chain_loss`). `batch_size` counts distinct texts, each
    with all its judgements. `lora: null` trains every weight.
    `tasks`: see `ClassifyConfig`.
    """

    method: Literal["lm"] = "lm"
    tasks: tuple[str, ...] | None = Field(default=None, min_length=1)
    prompt: PromptSettings = PromptSettings()
    epochs: int = Field(default=3, ge=1)
    patience: int = Field(default=2, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    max_tokens: int = Field(default=512, ge=16)
    lora: LoraSettings | None = LoraSettings()

    trains: ClassVar[bool] = True
    writes: ClassVar[bool] = True
    bases: ClassVar[tuple[BaseKind, ...]] = WRITERS

    @property
    def only_tasks(self) -> tuple[str, ...] | None:
        """See `tasks`."""
        return self.tasks

    @property
    def prompting(self) -> PromptSettings:
        """See `prompt`."""
        return self.prompt

    def check(self, base: BaseFacts | Endpoint, task: Task) -> None:
        """See `MethodConfig.check`."""
        super().check(base, task)
        if isinstance(base, BaseFacts):
            check_trainable(base, self.lora)
            answer_space(base, Prompter(task, self.prompt, None, self.personal, seed=0), self.max_tokens)

    def fit(self, train: Annotations, valid: Annotations, context: Context) -> FittedLanguage:
        """Fine-tune, stop early on validation macro-F1, fit thresholds on validation."""
        language = load_language_model(context.base_model.local)
        torch.manual_seed(context.seed)
        language.base.model = adapted(language.base, self.lora)
        language.model.to(context.device)  # type: ignore[arg-type]
        prompter = Prompter(train.task, self.prompt, train, self.personal, context.seed)
        fitted = FittedLanguage(self.method, Prompted(language, prompter, self.max_tokens, context.device))
        rows = _TrainingRows(fitted.prompted, train)

        def validate() -> float:
            scores = fitted.score(list(valid.texts), list(valid.user_ids))
            fitted.thresholds = choose_thresholds(scores, valid.labels, valid.task)
            return scored_headline(scores, fitted.thresholds, valid.labels, valid.task) or 0.0

        fitted.training = fine_tune(
            language.model,
            rows.lengths,
            rows.text,
            rows.losses,
            Schedule(self.epochs, self.patience, self.batch_size, self.learning_rate, known=context.epochs),
            validate,
            seed=context.seed,
            progress=context.progress,
            after_epoch=context.after_epoch,
            team=context.team,
        )
        fitted.settle()
        validate()
        for line in fitted.prompted.notes():
            context.say(f"{self.method}: {line}")
        return fitted


class PersonalisedLanguageConfig(LanguageConfig):
    """The same with the user in the prompt: the paper's `-p` arm. See `PromptSettings.blocks`."""

    method: Literal["lm-p"] = "lm-p"  # type: ignore[assignment]
    shuffle_users: Shuffled = False

    personal: ClassVar[bool] = True

    @property
    def control(self) -> Shuffled:
        """See `shuffle_users`."""
        return self.shuffle_users


class FittedLanguage:
    """A language model fine-tuned to answer. See `methods.base.Fitted` for the attributes."""

    def __init__(self, method: str, prompted: Prompted) -> None:
        self.method, self.prompted = method, prompted
        self.task: Task = prompted.prompter.answered
        self.thresholds: NDArray[np.float32] = np.full(len(self.task.labels), 0.5, dtype=np.float32)
        self.training = Training()

    @property
    def device(self) -> str:
        """Where the model is."""
        return self.prompted.device

    def settle(self) -> None:
        """Done with training: fold the adapter into the weights, so that a forward pass does not pay for it."""
        model = self.prompted.language.model
        fold(model, self.prompted.language.base)
        model.eval()

    @property
    def checksum(self) -> str:
        """SHA-256 of what was trained, of the base and of the words: equal checksums mean the same model."""
        trained = adapter_checksum(self.prompted.language.model, self.prompted.language.base)
        return hashlib.sha256(f"{trained} {self.prompted.prompter.wording.digest}".encode()).hexdigest()

    def score(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [rows, labels]: the probability of each label at its turn (`constrained_decoding.walk`)."""
        prompts, index = self.prompted.distinct(texts, users)
        return scores_of_points(self.task, self.prompted.walk(prompts, in_order=True).scores)[index]

    def score_all(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [texts, users, labels]."""
        return score_every_pair(self, texts, users)

    def answers(self, texts: Sequence[str], users: Sequence[str]) -> list[str]:
        """What the model writes of each row, where it can write nothing but answers."""
        prompts, index = self.prompted.distinct(texts, users)
        named = self.prompted.walk(prompts, in_order=True).named
        return [self.prompted.write(named[place]) for place in index]

    @property
    def known(self) -> list[str]:
        """See `base.Fitted`."""
        return sorted(self.prompted.prompter.users)

    def knows(self, user: str) -> bool:
        """Whether the model saw this user in training."""
        return user in self.prompted.prompter.users

    def save(self, folder: Path) -> None:
        """The adapter in PEFT's own format (or all weights), settings as JSON, what prompts are made of as Parquet."""
        save_adapter(self.prompted.language.model, self.prompted.language.base, folder)
        write_prompted(folder, self.prompted, {})

    @staticmethod
    def erase(folder: Path, user: str) -> bool:
        """See `prompted_model.erase_prompter`."""
        return erase_prompter(folder, user)

    @classmethod
    def load(
        cls, folder: Path, method: str, task: Task, thresholds: NDArray[np.float32], base: Any, device: str
    ) -> FittedLanguage:
        """Read `save`'s files onto the base they were trained on.

        Raises:
            MethodError: the base is another one than at training, or a file is missing or damaged.
        """
        prompted, _ = read_prompted(folder, task, base, device)
        language = prompted.language
        language.base.model = load_adapter(language.model, folder)
        language.model.to(device)  # type: ignore[arg-type]
        fitted = cls(method, prompted)
        fitted.settle()
        fitted.thresholds = thresholds
        return fitted


class _TrainingRows:
    """Distinct (prompt, target) pairs of training, each with the number of judgements that say it.

    A target is an answer, or what is decided of one (`chain_loss.target`). Judgements without anything asked are left
    out, and do not count.

    Attributes:
        lengths: int64 [pairs], tokens.
        text: int64 [pairs], the distinct text of each.
    """

    def __init__(self, prompted: Prompted, train: Annotations) -> None:
        self._prompted = prompted
        self._prompts, index = prompted.distinct(list(train.texts), list(train.user_ids))
        pairs: dict[tuple[int, Tokens | ChainDecisions], int] = {}
        counts: list[int] = []
        texts: list[int] = []
        labels = written_rows(train).labels
        for row, text in enumerate(train.distinct_texts[1]):
            said = target(prompted.space, labels[row])
            if said is None:
                continue
            pair = (int(index[row]), said)
            if pairs.setdefault(pair, len(pairs)) == len(counts):
                counts.append(0)
                texts.append(int(text))
            counts[pairs[pair]] += 1
        self._pairs, self._counts = list(pairs), np.asarray(counts)
        self.text = np.unique(np.asarray(texts, dtype=np.int64), return_inverse=True)[1]
        sizes = np.asarray([sum(map(len, prompt)) for prompt in self._prompts])
        self.lengths = sizes[[prompt for prompt, _ in self._pairs]]

    def losses(self, batch: NDArray[np.int64], mine: NDArray[np.int64]) -> Iterator[tuple[Tensor, int]]:
        """See `training.loop.Losses`: -log p of each judgement's target, averaged over the batch's judgements."""
        prompted, share = self._prompted, self._counts[mine] / self._counts[batch].sum()
        requests: list[tuple[int, Tokens]] = []
        whole: list[bool] = []  # of each request: whether it is a target itself
        weight: list[float] = []
        parts: dict[int, tuple[ChainDecisions, float]] = {}  # first request -> what is decided, and its share
        for row, mine_of_all in zip(mine, share, strict=True):
            prompt, said = self._pairs[row]
            answers = said.answers if isinstance(said, ChainDecisions) else (said,)
            if isinstance(said, ChainDecisions):
                parts[len(requests)] = (said, float(mine_of_all))
            requests += [(prompt, answer) for answer in answers]
            whole += [not isinstance(said, ChainDecisions)] * len(answers)
            weight += [float(mine_of_all)] * len(answers)
        is_whole, weights = np.asarray(whole), np.asarray(weight)
        for pack in packs(prompted.language, self._prompts, requests, prompted.budget):
            asked = pack.asked
            hidden = pack.hidden(prompted.language)
            plain = is_whole[asked.request]
            value = hidden.new_zeros((), dtype=torch.float32)
            if plain.any():
                place, token = (
                    torch.from_numpy(each[plain]).to(prompted.device) for each in (asked.place, asked.token)
                )
                losses = prompted.answer_losses(hidden[place], token)
                value = value + (torch.from_numpy(weights[asked.request[plain]]).to(losses) * losses).sum()
            if not plain.all():
                value = value + self._partial(pack, hidden, ~plain, parts)
            yield value, pack.size

    def _partial(
        self, pack: Pack, hidden: Tensor, mine: NDArray[np.bool_], parts: dict[int, tuple[ChainDecisions, float]]
    ) -> Tensor:
        """The share of a pack's judgements that leave labels unasked. Only answer tokens are read, as in scoring."""
        asked, prompted = pack.asked, self._prompted
        vocabulary = torch.from_numpy(prompted.space.vocabulary).to(hidden.device)
        places, at = np.unique(asked.place[mine], return_inverse=True)
        logits = prompted.language.logits(hidden[torch.from_numpy(places).to(hidden.device)]).float()
        said = functional.log_softmax(logits[:, vocabulary], dim=-1).double()
        token = np.searchsorted(prompted.space.vocabulary, asked.token[mine])
        each = said[torch.from_numpy(at).to(said.device), torch.from_numpy(token).to(said.device)]
        here, request = np.unique(asked.request[mine], return_inverse=True)
        found = said.new_zeros(len(here)).index_add(0, torch.from_numpy(request).to(said.device), each)
        value = hidden.new_zeros((), dtype=torch.float32)
        for place, first in enumerate(here.tolist()):
            if first in parts:
                decided, share = parts[first]
                (loss,) = decided.of_likelihoods(found[None, place : place + len(decided.answers)])
                value = value + share * loss.float()
        return value

"""An adapter for each user, on top of one global model: `cls-u`.

First a prior is learned of all users together, then each user is estimated from their own rows given it, all of them in
one pass (`beholder.adapters`). Users go into blocks; a block is trained at once and written as a shard, so that memory
is bounded by a block, and a fit that was interrupted resumes at the first missing block.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from beholder.adapters.bank import BankModel, BankShape
from beholder.adapters.block_training import BankFitting, BankSettings
from beholder.adapters.prior import Prior
from beholder.adapters.trait_values import require_columns, traits_of
from beholder.adapters.traits import Traits
from beholder.data.annotations import Annotations
from beholder.data.controls import Shuffled
from beholder.evaluation.headline import choose_thresholds
from beholder.methods.base import MethodConfig, Scores, score_every_pair, start_of
from beholder.methods.classifier_backbone import ClassifierBackbone, trunk_of
from beholder.methods.cls import FittedClassifier
from beholder.methods.user_adapters import FittedBank
from beholder.models.tokenization import length_cut, tokens_at_once
from beholder.training.context import Context, Training
from beholder.training.losses import probabilities
from beholder.training.user_adam import Tensors
from beholder.util.errors import BankError

ROWS = 1_024
"""(text, user) rows scored at once by the heads alone."""


class PersonalConfig(MethodConfig):
    """An adapter per user. `init_from` names the arm everybody starts from: a `cls` or `cls-p`."""

    method: Literal["cls-u"] = "cls-u"
    init_from: str = "cls"
    bank: BankSettings = BankSettings()
    tasks: tuple[str, ...] | None = Field(default=None, min_length=1)
    shuffle_users: Shuffled = False

    personal: ClassVar[bool] = True
    in_blocks: ClassVar[bool] = True

    @property
    def start(self) -> str:
        """See `init_from`."""
        return self.init_from

    @property
    def only_tasks(self) -> tuple[str, ...] | None:
        """See `tasks`."""
        return self.tasks

    @property
    def control(self) -> Shuffled:
        """See `shuffle_users`."""
        return self.shuffle_users

    @property
    def adapters(self) -> BankSettings:
        """See `bank`."""
        return self.bank

    def fit(self, train: Annotations, valid: Annotations, context: Context) -> FittedBank:
        """Train every block that was not trained before, choose thresholds on validation."""
        started = time.perf_counter()
        fitting = self.begin(train, valid, context)
        for number in range(len(fitting.blocks)):
            fitting.train(number)
        bank, before = fitting.finish()
        shared = fitting.backbone.shared
        fitted = self.fitted(self.method, shared, self.init_from, fitting.model, bank, fitting.prior, self.bank)
        fitted.before_refit = earlier = fitted.with_bank(before)
        scores = earlier.score(list(valid.texts), list(valid.user_ids))
        fitted.thresholds = choose_thresholds(scores, valid.labels, valid.task)
        elsewhere = max(0.0, fitting.seconds - (time.perf_counter() - started))
        each = sum(math.prod(shape) for shape in fitting.model.shapes.values())
        fitted.training = Training(seconds=fitting.seconds, elsewhere=elsewhere, parameters=each)
        return fitted

    @property
    def traits(self) -> tuple[str, ...]:
        """Context columns it reads as traits of people."""
        return self.bank.prior.traits

    def check_rows(self, train: Annotations) -> None:
        """Refuse traits that these rows do not have, or that have several values for one person."""
        traits_of([require_columns(train, self.traits)], self.traits)

    def begin(self, train: Annotations, valid: Annotations, context: Context) -> BankFitting:
        """The fit, cut into blocks that any process can train.

        Raises:
            MethodError: the arm named by `init_from` is not there, or nobody can be trained on top of it.
        """
        shared = start_of(self.init_from, self.method, context)
        if isinstance(shared, FittedClassifier):
            shared.share_features(context.features)
        return self.begin_on(shared, train, valid, context)

    def begin_on(
        self,
        shared: Any,
        train: Annotations,
        valid: Annotations,
        context: Context,
        prior: Prior | None = None,
        traits: Mapping[str, Traits] | None = None,
    ) -> BankFitting:
        """The same on a fitted method that is loaded already, and given a prior where one was learned before.

        The context's run folder takes what is worked with.
        """
        if self.bank.without_effect:
            context.say(
                f"note: bank.{', bank.'.join(self.bank.without_effect)} had a meaning before priors were learned, and "
                "have none now. Remove them; bank.prior and bank.step_size have the new settings."
            )
        model = self.fitted.model_for(self.fitted.can_stand_on(shared, self.init_from, self.method), self.bank)
        backbone = self.fitted.backbone(shared, model, train, valid)
        return BankFitting(self.bank, backbone, train, valid, context, prior, traits)

    @property
    def fitted(self) -> type[FittedBank]:
        """What fitting it makes."""
        return FittedPersonal


class FittedPersonal(FittedBank):
    """A classifier and a bank on top of it. See `methods.base.Fitted` for the attributes."""

    stands_on = (FittedClassifier, "cls or cls-p")
    backbone = ClassifierBackbone

    @property
    def base(self) -> str:
        """The base's name."""
        return self.shared.base.name

    @classmethod
    def model_for(cls, shared: FittedClassifier, shape: BankShape) -> BankModel:
        """The classifier in two parts."""
        return BankModel(shared.network, shape)

    def score(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [rows, labels]. The trunk runs once per distinct text. Unknown users: `Prior.without_rows`.

        Raises:
            BankError: a user's shard is missing or damaged.
        """
        scores = np.empty((len(texts), len(self.task.labels)), dtype=np.float32)
        inputs, index = self.shared.distinct(texts, users)
        names, user = np.unique(np.asarray(users, dtype=object).astype(str), return_inverse=True)
        by_input = np.argsort(index, kind="stable")
        first = np.searchsorted(index[by_input], np.arange(len(inputs.lengths) + 1))
        with torch.inference_mode():
            for some in length_cut(inputs.lengths, tokens_at_once(self.device)):
                values, positions = trunk_of(self.shared, self.model, inputs, some)
                mask = torch.arange(values.shape[1]) < torch.from_numpy(positions)[:, None]
                rows = np.concatenate([by_input[first[each] : first[each + 1]] for each in some])
                place = np.repeat(np.arange(len(some)), first[some + 1] - first[some])
                for piece in self._pieces(rows, positions[place]):
                    who, local = np.unique(user[rows[piece]], return_inverse=True)
                    here = torch.from_numpy(place[piece])
                    logits = self.model.logits(
                        values[here.to(self.device)],
                        mask[here].long().to(self.device),
                        self.bank.take(names[who].tolist(), self.device),
                        torch.from_numpy(local).to(self.device),
                    )
                    scores[rows[piece]] = probabilities(logits, self.task.kind).float().cpu().numpy()
        return scores

    def score_all(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """Perspectives: float32 [texts, users, labels]. The trunk runs once per text, and for nobody twice.

        Raises:
            BankError: a user's shard is missing or damaged.
        """
        if self.shared.users:  # the global model itself has the user in its prompt: inputs differ between users
            return score_every_pair(self, texts, users)
        scores = np.empty((len(texts), len(users), len(self.task.labels)), dtype=np.float32)
        inputs, index = self.shared.distinct(texts, [""] * len(texts))
        parts = list(self.bank.parts(users, self.device))
        with torch.inference_mode():
            for some in length_cut(inputs.lengths, tokens_at_once(self.device)):
                values, positions = trunk_of(self.shared, self.model, inputs, some)
                mask = (torch.arange(values.shape[1]) < torch.from_numpy(positions)[:, None]).long().to(self.device)
                rows = np.flatnonzero(np.isin(index, some))
                place = np.argsort(some)[np.searchsorted(np.sort(some), index[rows])]
                for who, tensors in parts:
                    logits = self.model.everybody(values, mask, tensors)  # [inputs, users, labels]
                    said = probabilities(logits, self.task.kind).float().cpu().numpy()
                    scores[rows[:, None], who] = said[place]
        return scores

    def states(self, texts: Sequence[str]) -> list[Tensor]:
        """Trunk hidden states per text, without user conditioning: [positions, width] each; for `say`."""
        inputs, index = self.shared.distinct(texts, [""] * len(texts))
        found: list[Tensor] = [torch.empty(0)] * len(inputs.lengths)
        with torch.inference_mode():
            for some in length_cut(inputs.lengths, tokens_at_once(self.device)):
                values, positions = trunk_of(self.shared, self.model, inputs, some)
                for place, each in enumerate(some):
                    found[each] = values[place, : positions[place]].clone()
        return [found[each] for each in index]

    def say(self, states: Sequence[Tensor], tensors: Tensors, user: NDArray[np.int64]) -> Scores:
        """Scores of each row under its user's tensors, given the trunk's states of its text: float32 [rows, labels].

        Args:
            states: of each row's text, see `states`.
            tensors: of some users, as `Bank.take` gives them.
            user: int64 [rows], positions among them.
        """
        scores = np.empty((len(states), len(self.task.labels)), dtype=np.float32)
        positions = np.asarray([len(state) for state in states], dtype=np.int64)
        with torch.inference_mode():
            for piece in self._pieces(np.arange(len(states)), positions):
                values = nn.utils.rnn.pad_sequence([states[row] for row in piece], batch_first=True)
                mask = torch.arange(values.shape[1]) < torch.from_numpy(positions[piece])[:, None]
                who = torch.from_numpy(user[piece]).to(self.device)
                logits = self.model.logits(values, mask.long().to(self.device), tensors, who)
                scores[piece] = probabilities(logits, self.task.kind).float().cpu().numpy()
        return scores

    def export(self, folder: Path, user: str) -> None:
        """Write one user's model as an ordinary PEFT adapter into an existing folder. See `adapters.peft_export`.

        Raises:
            BankError: the user has nothing of their own, or an adapter cannot express the model.
        """
        from beholder.adapters.peft_export import export_user

        if user not in self.bank:
            raise BankError("this user has no adapter: unknown, or served by the global model.")
        if self.shared.user_token == "added":
            raise BankError(
                f"{self.init_from} gives users a vector of their own in front of the text; PEFT cannot express that."
            )
        if not self.shared.adapted:
            raise BankError(f"{self.init_from} was trained in all its weights (lora: null); PEFT holds adapters only.")
        prompt = self.shared.prompts(["{text}"], self.shared.slots([user]))[0]
        facts = {
            "base": self.shared.base.name,
            "base_checksum": self.shared.base.checksum,
            "labels": list(self.task.labels),
            "kind": self.task.kind,
            "thresholds": [float(value) for value in self.thresholds],
            "max_tokens": self.shared.max_tokens,
            "prompt": prompt,
        }
        export_user(folder, self.model, self.bank.take([user]), facts)

    def _pieces(self, rows: NDArray[np.int64], positions: NDArray[np.int64]) -> Sequence[NDArray[np.int64]]:
        """Places among `rows`, cut into what is scored at once."""
        if self.model.shape.top_layers:
            return list(length_cut(positions, self.model.piece))
        return np.array_split(np.arange(len(rows)), -(-len(rows) // ROWS))

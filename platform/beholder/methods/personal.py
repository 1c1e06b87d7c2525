"""An adapter for each user, on top of one model for all: `cls-u`.

First a prior is learned of all users together, then each user is estimated from their own rows given it, all of them in
one pass (`beholder.bank`). Users go into blocks; a block is trained at once and written as a shard, so that memory is
bounded by a block, and a fit that was interrupted resumes at the first missing block.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from beholder.annotations import Annotations, Task
from beholder.bank.layers import Tensors
from beholder.bank.model import BankModel, BankShape
from beholder.bank.prior import FILES, Prior, isotropic_as_before, load_prior, save_prior
from beholder.bank.shards import Bank, erase, shard_file, shards_of
from beholder.bank.traits import Traits
from beholder.bases.tokens import length_cut, tokens_at_once
from beholder.errors import BankError, MethodError
from beholder.evaluation.metrics import fit_thresholds
from beholder.files import link
from beholder.methods.blocks import BankFitting, BankSettings
from beholder.methods.classify import FittedClassifier
from beholder.methods.ground import ClassifierGround
from beholder.methods.method import (
    Context,
    MethodConfig,
    Scores,
    Training,
    config_class,
    erase_saved,
    load_fitted,
    save_fitted,
    score_every_pair,
)
from beholder.methods.newcomers import bank_of_newcomers
from beholder.methods.objective import probabilities
from beholder.methods.traits import require_columns, traits_of

ROWS = 1_024
"""(text, user) rows scored at once by the heads alone."""


class PersonalConfig(MethodConfig):
    """An adapter per user. `from` names the arm everybody starts from: a `cls` or `cls-p`."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    method: Literal["cls-u"] = "cls-u"
    from_: str = Field(default="cls", alias="from")
    bank: BankSettings = BankSettings()
    tasks: tuple[str, ...] | None = Field(default=None, min_length=1)
    shuffle_users: bool = False

    personal: ClassVar[bool] = True
    in_blocks: ClassVar[bool] = True

    def fit(self, train: Annotations, valid: Annotations, context: Context) -> FittedBank:
        """Train every block that was not trained before, choose thresholds on validation."""
        started = time.perf_counter()
        fitting = self.begin(train, valid, context)
        for number in range(len(fitting.blocks)):
            fitting.train(number)
        bank, before = fitting.finish()
        shared = fitting.ground.shared
        fitted = self.fitted(self.method, shared, self.from_, fitting.model, bank, fitting.prior, self.bank)
        fitted.before_refit = earlier = fitted.with_bank(before)
        scores = earlier.score(list(valid.texts), list(valid.user_ids))
        fitted.thresholds = fit_thresholds(scores, valid.labels, valid.task.kind)
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
            MethodError: the arm named by `from` is not there, or nobody can be trained on top of it.
        """
        if context.run_folder is None:
            raise MethodError(
                f"{self.method} starts from a fitted method: give the context a run_folder with methods/NAME in it."
            )
        shared = load_fitted(context.run_folder / "methods" / self.from_, context.base, context.device)
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
        model = self.fitted.model_for(self.fitted.can_stand_on(shared, self.from_, self.method), self.bank)
        ground = self.fitted.ground(shared, model, train, valid)
        return BankFitting(self.bank, ground, train, valid, context, prior, traits)

    @property
    def fitted(self) -> type[FittedBank]:
        """What fitting it makes."""
        return FittedPersonal


class FittedBank:
    """A shared model, a prior and a bank: what `cls-u` and `lm-u` have in common. See `method.Fitted`.

    Attributes:
        prior: of users in general.
        settings: it was fitted with; people who come later are estimated with the same.
        before_refit: the same with users as they were before they learned from the validation rows: what these rows
            are scored by. Known after fitting; None where it was loaded.
    """

    stands_on: ClassVar[tuple[type, str]]
    """What the shared model has to be, and which methods give it."""
    ground: ClassVar[type]
    """What makes rows of annotations into those of a bank; see `blocks.Ground`."""

    def __init__(
        self, method: str, shared: Any, from_: str, model: BankModel, bank: Bank, prior: Prior, settings: BankSettings
    ) -> None:
        if bank.shapes != model.shapes:
            raise BankError(f"{bank.folder}: its tensors have other shapes than bank: asks for. Fit it again.")
        self.method, self.shared, self.from_, self.model, self.bank = method, shared, from_, model, bank
        self.prior, self.settings = prior, settings
        self.before_refit: Self | None = None
        self.task: Task = shared.task
        self.device: str = shared.device
        self.thresholds: NDArray[np.float32] = shared.thresholds
        self.training = Training()

    @classmethod
    def can_stand_on(cls, fitted: Any, name: str, method: str) -> Any:
        """The fitted method, if users can be trained on top of it.

        Raises:
            MethodError: it is of another kind.
        """
        kind, methods = cls.stands_on
        if not isinstance(fitted, kind):
            raise MethodError(f"methods.{method}.from: {name} is a {fitted.method}; {method} stands on {methods}.")
        return fitted

    @classmethod
    def model_for(cls, shared: Any, shape: BankShape) -> BankModel:
        """The shared model in two parts."""
        raise NotImplementedError

    def score(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [rows, labels]."""
        raise NotImplementedError

    def score_all(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """Perspectives: float32 [texts, users, labels]."""
        return score_every_pair(self, texts, users)

    def export(self, folder: Path, user: str) -> None:
        """Write one user's model as an ordinary PEFT adapter into an existing folder.

        Raises:
            BankError: the user has nothing of their own, or the model cannot be said as an adapter.
        """
        raise BankError(f"{self.method}: a user's change of the answer tokens' head cannot be said as a PEFT adapter.")

    @property
    def config(self) -> PersonalConfig:
        """The settings it was fitted with."""
        return config_class(self.method).model_validate({"from": self.from_, "bank": self.settings})  # type: ignore[return-value]

    def with_bank(self, bank: Bank) -> Self:
        """The same model under other users."""
        fitted = type(self)(self.method, self.shared, self.from_, self.model, bank, self.prior, self.settings)
        fitted.thresholds = self.thresholds
        return fitted

    @property
    def traits(self) -> tuple[str, ...]:
        """Traits that shift where somebody starts; see `bank.traits`."""
        return tuple(self.prior.traits)

    def adapt(self, rows: Annotations, seed: int = 42, traits: Mapping[str, Traits] | None = None) -> Self:
        """The same with users estimated from these rows alone, given the prior; everybody else is the prior's mean.

        What somebody gains from their first judgements is measured with it: the prior is not touched. Traits are read
        from the rows' context columns where they have these, beside `traits`; with them alone, group means are used.
        """
        return self.with_bank(bank_of_newcomers(self, rows, seed, traits or {}))

    @property
    def base(self) -> str:
        """The base's name."""
        raise NotImplementedError

    def knows(self, user: str) -> bool:
        """Whether this user has something of their own, here or in the shared model."""
        return user in self.bank or self.shared.knows(user)

    def save(self, folder: Path) -> None:
        """The shared model under `from/`, the bank under `bank/`: safetensors, Parquet and JSON."""
        (folder / "from").mkdir()
        save_fitted(self.shared, folder / "from")
        written = folder / "bank"
        written.mkdir()
        for name in ("index.parquet", "bank.json"):
            shutil.copyfile(self.bank.folder / name, written / name)
        for digest in shards_of(self.bank.index):
            link(self.bank.shard_file(digest), shard_file(written, digest))
        save_prior(self.prior, folder)
        settings = {"from": self.from_, "bank": self.settings.model_dump(mode="json")}
        (folder / "personal.json").write_text(json.dumps(settings, indent=2) + "\n")

    @staticmethod
    def erase(folder: Path, user: str) -> bool:
        """See `method.erase_saved` and `shards.erase`."""
        here, below = erase(folder / "bank", user), erase_saved(folder / "from", user)
        return here or below

    @classmethod
    def load(
        cls, folder: Path, method: str, task: Task, thresholds: NDArray[np.float32], base: Any, device: str
    ) -> FittedBank:
        """Read `save`'s files onto the base they were trained on.

        Raises:
            MethodError: the base is another one than at training, or a file is missing or damaged.
            BankError: the bank's index is damaged. Shards are checked when they are first read.
        """
        try:
            written = json.loads((folder / "personal.json").read_text())
            settings = BankSettings.model_validate(written["bank"])
        except (OSError, ValueError, KeyError) as error:
            raise MethodError(f"{folder / 'personal.json'}: damaged ({type(error).__name__}). Fit it again.") from error
        shared = cls.can_stand_on(load_fitted(folder / "from", base, device), written["from"], method)
        model = cls.model_for(shared, settings)
        if (folder / FILES[1]).is_file():
            prior = load_prior(folder, model.shapes)
        else:  # written before priors were learned
            prior = isotropic_as_before(model.shapes, written["bank"])
        fitted = cls(method, shared, written["from"], model, Bank(folder / "bank", prior.mean), prior, settings)
        fitted.thresholds = thresholds
        return fitted


class FittedPersonal(FittedBank):
    """A classifier and a bank on top of it. See `method.Fitted` for the attributes."""

    stands_on = (FittedClassifier, "cls or cls-p")
    ground = ClassifierGround

    @property
    def base(self) -> str:
        """The base's name."""
        return self.shared.base.name

    @classmethod
    def model_for(cls, shared: FittedClassifier, shape: BankShape) -> BankModel:
        """The classifier in two parts."""
        return BankModel(shared.network, shape)

    def score(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [rows, labels]. The trunk runs once per distinct text. Unknown users are the prior's mean.

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
                values, positions = self.model.trunk(*inputs.batch(some))
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
        if self.shared.users:  # the shared model itself is told who reads: its inputs differ from user to user
            return score_every_pair(self, texts, users)
        scores = np.empty((len(texts), len(users), len(self.task.labels)), dtype=np.float32)
        inputs, index = self.shared.distinct(texts, [""] * len(texts))
        parts = list(self.bank.parts(users, self.device))
        with torch.inference_mode():
            for some in length_cut(inputs.lengths, tokens_at_once(self.device)):
                values, positions = self.model.trunk(*inputs.batch(some))
                mask = (torch.arange(values.shape[1]) < torch.from_numpy(positions)[:, None]).long().to(self.device)
                rows = np.flatnonzero(np.isin(index, some))
                place = np.argsort(some)[np.searchsorted(np.sort(some), index[rows])]
                for who, tensors in parts:
                    logits = self.model.everybody(values, mask, tensors)  # [inputs, users, labels]
                    said = probabilities(logits, self.task.kind).float().cpu().numpy()
                    scores[rows[:, None], who] = said[place]
        return scores

    def states(self, texts: Sequence[str]) -> list[Tensor]:
        """What the trunk says of texts when it is told of no reader: [positions, width] each; for `say`."""
        inputs, index = self.shared.distinct(texts, [""] * len(texts))
        found: list[Tensor] = [torch.empty(0)] * len(inputs.lengths)
        with torch.inference_mode():
            for some in length_cut(inputs.lengths, tokens_at_once(self.device)):
                values, positions = self.model.trunk(*inputs.batch(some))
                for place, each in enumerate(some):
                    found[each] = values[place, : positions[place]].clone()
        return [found[each] for each in index]

    def say(self, states: Sequence[Tensor], tensors: Tensors, user: NDArray[np.int64]) -> Scores:
        """What each row's user says, given what the trunk said of its text: float32 [rows, labels].

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
        """Write one user's model as an ordinary PEFT adapter into an existing folder. See `bank.peft_format`.

        Raises:
            BankError: the user has nothing of their own, or the model cannot be said as an adapter.
        """
        from beholder.bank.peft_format import export_user

        if user not in self.bank:
            raise BankError("this user has no adapter: unknown, or served by the model for everybody.")
        if self.shared.user_token == "added":
            raise BankError(
                f"{self.from_} gives users a vector of their own in front of the text; PEFT cannot say that."
            )
        if not self.shared.adapted:
            raise BankError(f"{self.from_} was trained in all its weights (lora: null); PEFT holds adapters only.")
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

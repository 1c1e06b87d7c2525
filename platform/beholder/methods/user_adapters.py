"""A global model, a prior and a bank: what `cls-u` and `lm-u` have in common once they are fitted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from beholder.adapters.bank import BankModel, BankShape
from beholder.adapters.block_training import BankSettings
from beholder.adapters.prior import FILES, Prior, isotropic_as_before, load_prior, save_prior
from beholder.adapters.shards import Bank, erase, shard_file, shards_of
from beholder.adapters.traits import Traits
from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.methods.base import Scores, config_class, erase_saved, load_fitted, save_fitted, score_every_pair
from beholder.methods.newcomers import bank_of_newcomers
from beholder.training.context import Training
from beholder.util.atomic import link
from beholder.util.errors import BankError, MethodError

if TYPE_CHECKING:
    from beholder.methods.cls_user import PersonalConfig


class FittedBank:
    """A global model, a prior and a bank: what `cls-u` and `lm-u` have in common. See `methods.base.Fitted`.

    Attributes:
        prior: of users in general.
        settings: it was fitted with; people who come later are estimated with the same.
        before_refit: the same with users as they were before they learned from the validation rows: what these rows
            are scored by. Known after fitting; None where it was loaded.
    """

    stands_on: ClassVar[tuple[type, str]]
    """What the global model has to be, and which methods give it."""
    backbone: ClassVar[type]
    """What makes rows of annotations into those of a bank; see `block_training.Backbone`."""

    def __init__(
        self,
        method: str,
        shared: Any,
        init_from: str,
        model: BankModel,
        bank: Bank,
        prior: Prior,
        settings: BankSettings,
    ) -> None:
        if bank.shapes != model.shapes:
            raise BankError(f"{bank.folder}: its tensors have other shapes than bank: asks for. Fit it again.")
        self.method, self.shared, self.init_from, self.model, self.bank = method, shared, init_from, model, bank
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
            raise MethodError(f"methods.{method}.init_from: {name} is a {fitted.method}; {method} stands on {methods}.")
        return fitted

    @classmethod
    def model_for(cls, shared: Any, shape: BankShape) -> BankModel:
        """The global model in two parts."""
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
            BankError: the user has nothing of their own, or an adapter cannot express the model.
        """
        raise BankError(
            f"{self.method}: a user's change of the answer tokens' head cannot be expressed as a PEFT adapter."
        )

    @property
    def config(self) -> PersonalConfig:
        """The settings it was fitted with."""
        return config_class(self.method).model_validate({"init_from": self.init_from, "bank": self.settings})  # type: ignore[return-value]

    def with_bank(self, bank: Bank) -> Self:
        """The same model under other users."""
        fitted = type(self)(self.method, self.shared, self.init_from, self.model, bank, self.prior, self.settings)
        fitted.thresholds = self.thresholds
        return fitted

    @property
    def traits(self) -> tuple[str, ...]:
        """Traits that shift where somebody starts; see `adapters.traits`."""
        return tuple(self.prior.traits)

    def adapt(self, rows: Annotations, seed: int = 42, traits: Mapping[str, Traits] | None = None) -> Self:
        """The same with users estimated from these rows alone, given the prior; others have no rows.

        What somebody gains from their first judgements is measured with it: the prior is not touched. Traits are read
        from the rows' context columns where they have these, beside `traits`; with them alone, group means are used.
        """
        return self.with_bank(bank_of_newcomers(self, rows, seed, traits or {}))

    @property
    def base(self) -> str:
        """The base's name."""
        raise NotImplementedError

    @property
    def known(self) -> list[str]:
        """Users with something of their own, here or in the global model, sorted."""
        return sorted({*self.bank.users, *self.shared.known})

    def knows(self, user: str) -> bool:
        """Whether this user has something of their own, here or in the global model."""
        return user in self.bank or self.shared.knows(user)

    def save(self, folder: Path) -> None:
        """The global model under `from/`, the bank under `bank/`: safetensors, Parquet and JSON."""
        (folder / "from").mkdir()
        save_fitted(self.shared, folder / "from")
        written = folder / "bank"
        written.mkdir()
        for name in ("index.parquet", "bank.json"):
            shutil.copyfile(self.bank.folder / name, written / name)
        for digest in shards_of(self.bank.index):
            link(self.bank.shard_file(digest), shard_file(written, digest))
        save_prior(self.prior, folder)
        settings = {"from": self.init_from, "bank": self.settings.model_dump(mode="json")}
        (folder / "personal.json").write_text(json.dumps(settings, indent=2) + "\n")

    @staticmethod
    def erase(folder: Path, user: str) -> bool:
        """See `methods.base.erase_saved` and `shards.erase`."""
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
        fitted = cls(
            method, shared, written["from"], model, Bank(folder / "bank", prior.without_rows()), prior, settings
        )
        fitted.thresholds = thresholds
        return fitted

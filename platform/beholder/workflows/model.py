"""A model as Python callers have it: it predicts users' judgements, however it was fitted and wherever it is kept."""

from __future__ import annotations

import abc
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.evaluation.metrics import decide
from beholder.execution.arm import as_seen
from beholder.methods import Fitted, MethodConfig, config_class, is_personal, load_fitted, save_fitted
from beholder.methods.base import Scores, before_refit
from beholder.models.model_ref import ModelRef
from beholder.registry.bundle import Bundle
from beholder.util.errors import DataError, MethodError, RegistryError, counted
from beholder.util.tables import RowTable
from beholder.workflows.predictions import Perspectives, UserPredictions

SAVED = "model.json"
"""The file of a saved model that names the base it was fitted on."""


class Model(abc.ABC):
    """Something that predicts what users would say of texts.

    Attributes:
        name: a method, or a registered version.
        task: label names and kind.
        personal: whether predictions depend on the user.
    """

    name: str
    task: Task
    personal: bool

    @property
    @abc.abstractmethod
    def users(self) -> list[str]:
        """Users whose own judgements were learned from, sorted. Others are predicted by the global model."""

    @abc.abstractmethod
    def _predict(self, texts: list[str], users: list[str]) -> tuple[Scores, NDArray[np.bool_], list[str]]:
        """Scores and decisions [rows, labels] and the route of each row; there is at least one."""

    @abc.abstractmethod
    def _predict_all(self, texts: list[str], users: list[str]) -> tuple[Scores, NDArray[np.bool_]]:
        """Scores and decisions: [texts, users, labels]; there is at least one of each."""

    def predict(self, texts: str | Sequence[str], users: str | Sequence[str]) -> UserPredictions:
        """Predict what users would say of texts, row by row.

        Args:
            texts: one per row, or one.
            users: one per row, or one for all rows. Users never seen are predicted by the global model.

        Raises:
            DataError: there are not as many users as texts, or one is no string.
        """
        texts, users = _rows(texts, users)
        if texts:
            scores, decisions, routes = self._predict(texts, users)
        else:
            scores, routes = np.empty((0, len(self.task.labels)), dtype=np.float32), []
            decisions = np.empty(scores.shape, dtype=bool)
        there = set(self.users)
        known = np.asarray([user in there for user in users], dtype=bool)
        return UserPredictions(texts, users, self.task, scores, decisions, routes, known)

    def score(self, texts: str | Sequence[str], users: str | Sequence[str]) -> Scores:
        """Probabilities: float32 [rows, labels] in 0..1. See `predict`."""
        return self.predict(texts, users).scores

    def perspectives(self, texts: str | Sequence[str], users: str | Sequence[str] | None = None) -> Perspectives:
        """Predict what each of these users would say of each of these texts. Each text is read once, for all of them.

        Args:
            texts: one, or several.
            users: by default everybody whose own judgements were learned from.

        Raises:
            DataError: no user is given, and the model knows none; or a text or user is no string.
        """
        texts = _strings(texts, "text")
        users = list(self.users) if users is None else _strings(users, "user")
        if not users:
            raise DataError(
                f"{self.name} learned from no single user. Name whose perspectives to predict: users=[...]."
            )
        if texts:
            return Perspectives(texts, users, self.task, *self._predict_all(texts, users))
        nothing = np.empty((0, len(users), len(self.task.labels)), dtype=np.float32)
        return Perspectives([], users, self.task, nothing, nothing.astype(bool))

    @abc.abstractmethod
    def _facts(self) -> dict[str, str]:
        """What a person should know of it."""

    def _table(self) -> RowTable:
        facts = {**_asked(self.task), **self._facts()}
        facts["users"] = counted(len(self.users), "user") if self.personal else "all alike"
        return RowTable(({"": key, " ": value} for key, value in facts.items()), self.name)

    def __repr__(self) -> str:
        facts = "; ".join(f"{key} {value}" for key, value in self._facts().items())
        return f"{type(self).__name__}({': '.join(filter(None, (self.name, facts)))})"

    def _repr_html_(self) -> str:
        """What a notebook shows: no text, and of users only how many there are."""
        return self._table()._repr_html_()


class MethodModel(Model):
    """One fitted method.

    Attributes:
        fitted: the method itself.
        base: the base it stands on.
        config: its settings; None where they are not known.
        seed: of the fit.
        start: the model it started from.
        valid: the validation rows it chose its thresholds on, where it was fitted here.
    """

    def __init__(
        self,
        fitted: Fitted,
        base: ModelRef,
        config: MethodConfig | None = None,
        seed: int = 42,
        start: MethodModel | None = None,
        valid: Annotations | None = None,
    ) -> None:
        self.fitted, self.base, self.config, self.seed = fitted, base, config, seed
        self.start, self.valid = start, valid
        self.name, self.task = fitted.method, fitted.task
        self.personal = is_personal(fitted.method)

    @property
    def users(self) -> list[str]:
        """See `Model.users`."""
        return self.fitted.known

    @property
    def thresholds(self) -> NDArray[np.float32]:
        """A label is predicted where its score reaches its threshold: float32 [labels], chosen on validation rows."""
        return self.fitted.thresholds

    def scores_of(self, rows: Annotations) -> Scores:
        """Scores of the test rows, as a run has them: of a control, under permuted users. float32 [rows, labels]."""
        seen = as_seen(self.config, {"test": rows}, self.seed)["test"] if self.config else rows
        return self.fitted.score(list(seen.texts), list(seen.user_ids))

    def valid_scores(self) -> Scores | None:
        """Scores of its validation rows, by what had not learned from them; None where there are none any more."""
        if self.valid is None or self.config is None:
            return None
        seen = seen_in_fit(self.config, self.valid, self.valid, self.seed)["valid"]
        return before_refit(self.fitted).score(list(seen.texts), list(seen.user_ids))

    def save(self, folder: str | Path) -> Path:
        """Write the model into a folder, for `load_model`: safetensors, Parquet and JSON, without the base's weights.

        Args:
            folder: made; it appears whole or not at all.

        Raises:
            MethodError: there is something in it already.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise MethodError(f"{folder}: there is something already. Name another folder.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            made = Path(temporary) / "model"
            made.mkdir()
            save_fitted(self.fitted, made)
            config = self.config.model_dump(mode="json") if self.config else None
            described = {"format": 1, "base": self.base.to_json(), "seed": self.seed, "config": config}
            (made / SAVED).write_text(json.dumps(described) + "\n")
            os.replace(made, folder)
        return folder

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> MethodModel:
        """Read what `save` wrote.

        Raises:
            MethodError: missing, damaged, or written by a newer version; or the base is another one here.
            BaseModelError: the base is not here at all.
        """
        try:
            described = json.loads((folder / SAVED).read_text())
            base, seed, newer = ModelRef.of(described["base"]), int(described["seed"]), described["format"] > 1
            config = described["config"]
            config = config_class(config["method"]).model_validate(config) if config and not newer else None
        except (OSError, ValueError, KeyError, TypeError, MethodError) as error:
            raise MethodError(
                f"{folder / SAVED}: no readable model ({type(error).__name__}). Save it again."
            ) from error
        if newer:
            raise MethodError(f"{folder / SAVED}: format {described['format']} is newer than this version reads (1).")
        return cls(load_fitted(folder, base, device), base, config, seed)

    def _predict(self, texts: list[str], users: list[str]) -> tuple[Scores, NDArray[np.bool_], list[str]]:
        scores = self.fitted.score(texts, users)
        return scores, decide(scores, self.thresholds, self.task.kind), [self.name] * len(texts)

    def _predict_all(self, texts: list[str], users: list[str]) -> tuple[Scores, NDArray[np.bool_]]:
        scores = self.fitted.score_all(texts, users)
        return scores, _decided(scores, self.thresholds, self.task)

    def _facts(self) -> dict[str, str]:
        base = {"base": self.base.name} if config_class(self.name).bases else {}
        return {**base, **({"starts from": self.start.name} if self.start else {})}


class BundleModel(Model):
    """A bundle: the global method, and one for the users it is better for.

    Attributes:
        bundle: the bundle itself.
    """

    def __init__(self, bundle: Bundle, name: str) -> None:
        self.bundle, self.name, self.task = bundle, name, bundle.task
        self.personal = bundle.personal is not None

    @property
    def users(self) -> list[str]:
        """See `Model.users`."""
        return sorted(self.bundle.users)

    def _predict(self, texts: list[str], users: list[str]) -> tuple[Scores, NDArray[np.bool_], list[str]]:
        found = self.bundle.predict(texts, users)
        return found.scores, found.decisions, found.routes

    def _predict_all(self, texts: list[str], users: list[str]) -> tuple[Scores, NDArray[np.bool_]]:
        scores = np.empty((len(texts), len(users), len(self.task.labels)), dtype=np.float32)
        decisions = np.empty(scores.shape, dtype=bool)
        own = np.asarray([user in self.bundle.on_personal for user in users]) & self.personal
        for fitted, mine in ((self.bundle.shared, np.flatnonzero(~own)), (self.bundle.personal, np.flatnonzero(own))):
            if fitted is not None and len(mine):
                found = fitted.score_all(texts, [users[each] for each in mine])
                scores[:, mine] = found
                flat = self.bundle.decide(found.reshape(-1, found.shape[-1]), fitted)
                decisions[:, mine] = flat.reshape(found.shape)
        return scores, decisions

    def _facts(self) -> dict[str, str]:
        arms = self.bundle.manifest.arms
        return {"base": self.bundle.base.name, **arms}


def seen_in_fit(config: MethodConfig, train: Annotations, valid: Annotations, seed: int) -> dict[str, Annotations]:
    """The rows a method learns from, under permuted users where it is a control: those of a run with the same seed."""
    return as_seen(config, {"test": valid, "train": train, "valid": valid}, seed)


def open_folder(folder: Path, device: str = "cpu") -> Model:
    """A bundle's folder, or one that `MethodModel.save` wrote.

    Raises:
        BeholderError: it is neither, or damaged; or the base is another one here.
    """
    from beholder.registry.bundle import MANIFEST, open_bundle

    if (folder / MANIFEST).is_file():
        return BundleModel(open_bundle(folder, device), folder.name)
    if (folder / SAVED).is_file():
        return MethodModel.load(folder, device)
    raise RegistryError(
        f"{folder}: holds neither a bundle ({MANIFEST}) nor a saved model ({SAVED}). Name a folder that "
        "model.save(folder) wrote, or a registered model: models:/NAME@champion."
    )


def _decided(scores: Scores, thresholds: NDArray[np.float32], task: Task) -> NDArray[np.bool_]:
    """bool [texts, users, labels]"""
    return decide(scores.reshape(-1, scores.shape[-1]), thresholds, task.kind).reshape(scores.shape)


def _asked(task: Task) -> dict[str, str]:
    """Labels and scales of a task, for people."""
    plain = [label for label, scaled in zip(task.labels, task.scaled, strict=True) if not scaled]
    ends = [f"{scale.name}, {scale.shown(0)} to {scale.shown(-1)} ({scale.kind})" for scale in task.scales]
    labels = {"labels": f"{', '.join(plain)} ({task.kind})"} if plain else {}
    return {**labels, **({"scales": "; ".join(ends)} if ends else {})}


def _rows(texts: str | Sequence[str], users: str | Sequence[str]) -> tuple[list[str], list[str]]:
    found = _strings(texts, "text")
    given = [users] * len(found) if isinstance(users, str) else _strings(users, "user")
    if len(given) != len(found):
        raise DataError(
            f"{counted(len(found), 'text')} and {counted(len(given), 'user')}: give a user for each text, or one for "
            "all. Every user on every text: perspectives(texts, users)."
        )
    return found, given


def _strings(values: str | Sequence[str], what: str) -> list[str]:
    found = [values] if isinstance(values, str) else list(values)
    for place, value in enumerate(found):
        if not isinstance(value, str):
            raise DataError(f"{what} {place + 1}: expected a string, got {type(value).__name__}.")
    return [str(value) for value in found]

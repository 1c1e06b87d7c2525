"""User embeddings fitted jointly on the features of a fitted `cls`: `cls-e`; and the same without users: `cls+`.

`cls-e` is what the field compares personalised methods with: HuBi-Medium (Kocoń et al. 2021), annotator embeddings
(Deng et al. 2023). Its features are frozen, so that all users together train in seconds. `cls+` is the same network on
the same features without user input: a `cls` that was trained as long, the reference for personal methods.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from beholder.adapters.bank import BankModel, BankShape
from beholder.data.annotations import Annotations
from beholder.data.controls import Shuffled
from beholder.data.task import Task
from beholder.evaluation.headline import choose_thresholds
from beholder.methods.base import MethodConfig, Scores, erase_saved, load_fitted, save_fitted, start_of
from beholder.methods.classifier_backbone import ClassifierBackbone
from beholder.methods.cls import FittedClassifier
from beholder.methods.embedding_network import (
    NOBODY,
    EmbeddingNetwork,
    JointTraining,
    Judged,
    in_order,
    score_rows,
    train_jointly,
)
from beholder.models.tokenization import length_cut, tokens_at_once
from beholder.training.context import Context, Training
from beholder.training.losses import probabilities
from beholder.util.atomic import atomic_write
from beholder.util.errors import MethodError
from beholder.util.run_folder import RunFolder

FORMAT = 1
SETTINGS, WEIGHTS = "network.json", "network.safetensors"
FEATURES_MB = 1_024
"""Features of all texts up to this size are kept in memory while they are computed, larger ones in a file."""
TEXTS = 256
"""Texts scored at once for all users."""


class NetworkConfig(MethodConfig):
    """A small network on the frozen features of the `cls` named by `init_from`, without users.

    Args:
        init_from: the arm whose features are read; a `cls`.
        tasks: of a source with several, learn from the rows of these only.
        hidden: width of the hidden layer.
        dropout: of the features and of the hidden layer.
        epochs: maximum. patience: epochs without a lower validation log-loss before training stops. The best epoch
            is kept.
        batch_size: judgements per step.
        learning_rate, weight_decay: of AdamW.
    """

    method: Literal["cls+"] = "cls+"
    init_from: str = "cls"
    tasks: tuple[str, ...] | None = Field(default=None, min_length=1)
    hidden: int = Field(default=100, ge=1)
    dropout: float = Field(default=0.4, ge=0, lt=1)
    epochs: int = Field(default=40, ge=1)
    patience: int = Field(default=4, ge=1)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)

    starts_from: ClassVar[tuple[str, ...] | None] = ("cls",)
    """Methods that `init_from` may name."""

    @property
    def start(self) -> str:
        """See `init_from`."""
        return self.init_from

    @property
    def only_tasks(self) -> tuple[str, ...] | None:
        """See `tasks`."""
        return self.tasks

    def fit(self, train: Annotations, valid: Annotations, context: Context) -> FittedNetwork:
        """Compute the features once, train the network on all judgements, choose thresholds on validation.

        Raises:
            MethodError: the arm named by `init_from` is missing, or no `cls`.
        """
        shared = start_of(self.init_from, self.method, context)
        checked = _checked(shared, self.init_from, self.method)
        checked.share_features(context.features)
        return self.fit_on(checked, train, valid, context)

    def fit_on(
        self, shared: FittedClassifier, train: Annotations, valid: Annotations, context: Context
    ) -> FittedNetwork:
        """The same on a `cls` that is loaded already."""
        backbone = ClassifierBackbone(shared, BankModel(shared.network, BankShape()), train, valid)
        place = None
        if context.run_folder is not None:  # as of `cls-u` on the same rows
            place = RunFolder(context.run_folder).unfinished / f"trunk-{backbone.trunk_key[:16]}"
        outputs = backbone.outputs(FEATURES_MB, place)
        features = torch.from_numpy(np.array(outputs.values)).to(context.device)  # [texts, width]
        users = {user: slot for slot, user in enumerate(train.users)} if self.personal else {}
        torch.manual_seed(context.seed)
        shape = self._shape(len(users))
        network = EmbeddingNetwork(features.shape[1], len(train.task.labels), **shape, dropout=self.dropout)
        network.to(context.device)
        fitted = FittedNetwork(self.method, shared, self.init_from, network, users, shape)

        def judged(part: str, rows: Annotations) -> Judged:
            order = in_order(rows)
            names, user = rows.by_user
            return Judged(
                features,
                torch.from_numpy(backbone.index[part][order]).to(context.device),
                fitted.slots(names)[torch.from_numpy(user[order]).to(context.device)],
                torch.from_numpy(rows.labels[order]).to(context.device),
            )

        to_learn, to_check = judged("train", train), judged("valid", valid)
        network.start_from(shared.network.head, features[torch.unique(to_learn.text)])
        fitted.training = train_jointly(
            network,
            to_learn,
            to_check,
            train.task,
            replace(self._training(), known=context.epochs),
            seed=context.seed,
            progress=context.progress,
            after_epoch=context.after_epoch,
        )
        scores = probabilities(score_rows(network, features, to_check.text, to_check.slots), train.task.kind)
        labels, task = to_check.labels.cpu().numpy(), train.task
        fitted.thresholds = choose_thresholds(scores.cpu().numpy(), labels, task)
        return fitted

    def _shape(self, users: int) -> dict[str, int]:
        return {"hidden": self.hidden, "dim": 0, "users": 0}

    def _training(self) -> JointTraining:
        return JointTraining(
            self.epochs, self.patience, self.batch_size, self.learning_rate, self.weight_decay, 0.0, 0.0
        )


class EmbeddingConfig(NetworkConfig):
    """The same with an embedding for each user, and a bias for each user and label, all fitted jointly.

    Args:
        dim: numbers in a user's embedding.
        user_decay: weight decay of what is a user's own, which pulls it toward nobody in particular.
        strangers: weight of the loss of all rows read as a stranger's, against that of the rows read as their users',
            so that users never seen are predicted well.
    """

    method: Literal["cls-e"] = "cls-e"  # type: ignore[assignment]
    dim: int = Field(default=50, ge=1)
    user_decay: float = Field(default=3.0, ge=0)
    strangers: float = Field(default=0.2, ge=0, lt=1)
    shuffle_users: Shuffled = False

    personal: ClassVar[bool] = True

    @property
    def control(self) -> Shuffled:
        """See `shuffle_users`."""
        return self.shuffle_users

    def _shape(self, users: int) -> dict[str, int]:
        return {"hidden": self.hidden, "dim": self.dim, "users": users}

    def _training(self) -> JointTraining:
        return JointTraining(
            self.epochs,
            self.patience,
            self.batch_size,
            self.learning_rate,
            self.weight_decay,
            self.user_decay,
            self.strangers,
        )


class FittedNetwork:
    """A classifier's features and a network on them. See `methods.base.Fitted` for the attributes.

    Attributes:
        shared: the fitted `cls`.
        init_from: its arm.
        network: what was trained.
        users: user -> slot, of those who were trained on.
        shape: `hidden`, `dim`, `users` of the network.
    """

    def __init__(
        self,
        method: str,
        shared: FittedClassifier,
        init_from: str,
        network: EmbeddingNetwork,
        users: dict[str, int],
        shape: dict[str, int],
    ) -> None:
        self.method, self.shared, self.init_from = method, shared, init_from
        self.network, self.users, self.shape = network, users, shape
        self.task: Task = shared.task
        self.device: str = shared.device
        self.thresholds: NDArray[np.float32] = shared.thresholds
        self.training = Training()

    def slots(self, users: Sequence[str] | NDArray[np.object_]) -> Tensor:
        """Each user's slot: int64 [rows]; `NOBODY` for users unseen in training."""
        return torch.tensor([self.users.get(user, NOBODY) for user in users], dtype=torch.int64, device=self.device)

    def features(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features of the distinct texts [texts, width], each computed once, and each row's text: int64 [rows]."""
        inputs, index = self.shared.distinct(texts, [""] * len(texts))
        found = torch.empty(len(inputs.lengths), len(self.network.mean), device=self.device)
        for some in length_cut(inputs.lengths, tokens_at_once(self.device)):
            found[torch.from_numpy(some).to(self.device)] = self.shared.features(inputs, some).float()
        return found, torch.from_numpy(index).to(self.device)

    def score(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [rows, labels]. A user unseen in training is answered as nobody in particular."""
        if not len(texts):
            return np.empty((0, len(self.task.labels)), dtype=np.float32)
        logits = score_rows(self.network, *self.features(texts), self.slots(users))
        return probabilities(logits, self.task.kind).cpu().numpy()

    def score_all(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """Perspectives: float32 [texts, users, labels]. Each distinct text is read once, for all users at once."""
        scores = np.empty((len(texts), len(users), len(self.task.labels)), dtype=np.float32)
        if not scores.size:
            return scores
        features, index = self.features(texts)
        slots = self.slots(users)
        self.network.eval()
        with torch.inference_mode():
            logits, hidden = self.network.read(features)
            for rows in torch.arange(len(texts)).split(TEXTS):
                mine = index[rows.to(self.device)]
                said = self.network.everybody(logits[mine], hidden[mine], slots)
                scores[rows.numpy()] = probabilities(said, self.task.kind).cpu().numpy()
        return scores

    @property
    def known(self) -> list[str]:
        """Users with an embedding, sorted."""
        return sorted(self.users)

    def knows(self, user: str) -> bool:
        """Whether this user has an embedding."""
        return user in self.users

    def save(self, folder: Path) -> None:
        """The `cls` under `from/`, network and embeddings as safetensors, users and settings as JSON."""
        from safetensors.torch import save_file

        (folder / "from").mkdir()
        save_fitted(self.shared, folder / "from")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(tensors, str(folder / WEIGHTS))
        settings = {"format": FORMAT, "from": self.init_from, "shape": self.shape, "users": self.users}
        (folder / SETTINGS).write_text(json.dumps(settings) + "\n")

    @staticmethod
    def erase(folder: Path, user: str) -> bool:
        """See `methods.base.erase_saved`. The user's slot stays, as zeros; all other numbers keep their bytes."""
        from safetensors.torch import load_file, save_file

        below = erase_saved(folder / "from", user)
        settings = _settings(folder)
        slot = settings["users"].pop(user, None)
        if slot is None:
            return below
        tensors = {name: tensor.clone() for name, tensor in load_file(str(folder / WEIGHTS)).items()}
        for name in ("embeddings", "biases"):
            tensors[name][slot] = 0
        with atomic_write(folder / WEIGHTS) as temporary:
            save_file(tensors, str(temporary))
        with atomic_write(folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps(settings) + "\n")
        return True

    @classmethod
    def load(
        cls, folder: Path, method: str, task: Task, thresholds: NDArray[np.float32], base: Any, device: str
    ) -> FittedNetwork:
        """Read `save`'s files onto the base they were trained on.

        Raises:
            MethodError: the base is another one than at training, or a file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        settings = _settings(folder)
        shared = _checked(load_fitted(folder / "from", base, device), settings["from"], method)
        shape = settings["shape"]
        network = EmbeddingNetwork(shared.base.width, len(task.labels), **shape, dropout=0.0)
        try:
            network.load_state_dict(load_file(str(folder / WEIGHTS)))
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise MethodError(
                f"{folder / WEIGHTS}: missing, damaged, or not of this network ({type(error).__name__}). Fit it again."
            ) from error
        fitted = cls(method, shared, settings["from"], network.to(device).eval(), settings["users"], shape)
        fitted.thresholds = thresholds
        return fitted


def _checked(fitted: Any, name: str, method: str) -> FittedClassifier:
    """The fitted method, if its features are those of a text alone."""
    if not isinstance(fitted, FittedClassifier) or fitted.method != "cls":
        raise MethodError(f"methods.{method}.init_from: {name} is a {fitted.method}; {method} starts from a cls.")
    return fitted


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / SETTINGS
    try:
        settings = json.loads(file.read_text())
        found = int(settings["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MethodError(f"{file}: missing or damaged ({type(error).__name__}). Fit it again.") from error
    if found > FORMAT:
        raise MethodError(f"{file}: format {found} is newer than this version reads ({FORMAT}). Upgrade beholder.")
    return settings

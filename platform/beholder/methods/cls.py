"""Fine-tuning with a classification head: `cls`, one global model, and `cls-p`, with the user in the prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from beholder.data.annotations import Annotations
from beholder.data.controls import Shuffled
from beholder.data.task import Task
from beholder.evaluation.headline import choose_thresholds, scored_headline
from beholder.methods.base import MethodConfig, Scores, score_every_pair
from beholder.models import Base, BaseFacts, load_base
from beholder.models.classifier import Classifier
from beholder.models.hosted import Endpoint
from beholder.models.tokenization import Encoded, encode, length_cut, tokens_at_once
from beholder.prompting.wording import with_user
from beholder.training.context import Context, Training
from beholder.training.feature_cache import FeatureCache
from beholder.training.loop import Schedule, UserVectors, fine_tune, nothing_between
from beholder.training.lora import LoraSettings, adapted, check_trainable, fold, load_adapter, save_adapter
from beholder.training.losses import group, judgements, loss, probabilities
from beholder.training.user_effects import UserEffects
from beholder.util.atomic import atomic_write
from beholder.util.errors import MethodError

UserToken = Literal["text", "added"]


class ClassifyConfig(MethodConfig):
    """One global model: the text alone, rows grouped by text.

    `batch_size` counts distinct texts, each with all its judgements. `lora: null` trains every weight (a plain
    fine-tune). `tasks`: of a source with several, learn from the rows of these only. `user_effects`: keep each user's
    tendencies out of the model while it is trained (`user_effects`); it predicts without users either way.
    """

    method: Literal["cls"] = "cls"
    tasks: tuple[str, ...] | None = Field(default=None, min_length=1)
    epochs: int = Field(default=8, ge=1)
    patience: int = Field(default=3, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    max_tokens: int = Field(default=128, ge=4)
    user_effects: bool = False
    lora: LoraSettings | None = LoraSettings()

    trains: ClassVar[bool] = True

    @property
    def only_tasks(self) -> tuple[str, ...] | None:
        """See `tasks`."""
        return self.tasks

    @property
    def user_input(self) -> UserToken | None:
        """How the classifier sees the user; None: not at all."""
        return None

    def check(self, base: BaseFacts | Endpoint, task: Task) -> None:
        """See `MethodConfig.check`."""
        super().check(base, task)
        if isinstance(base, BaseFacts):
            check_trainable(base, self.lora)

    def fit(self, train: Annotations, valid: Annotations, context: Context) -> FittedClassifier:
        """Fine-tune, stop early on validation macro-F1, fit thresholds on validation."""
        users = {user: slot for slot, user in enumerate(train.users)} if self.personal else {}
        base = load_base(context.base_model.local)
        torch.manual_seed(context.seed)
        network = Classifier(base, len(train.task.labels), len(users) if self.user_input == "added" else 0)
        network.model = adapted(base, self.lora)
        _start_at_frequencies(network, train)
        network.to(context.device)
        fitted = FittedClassifier(
            self.method, train.task, base, network, users, self.user_input, self.max_tokens, context.device
        )
        grouped = group(train, by_user=self.personal)
        texts, slots = train.texts[grouped.rows], fitted.slots(train.user_ids[grouped.rows])
        inputs = encode(base.tokenizer, fitted.prompts(texts, slots), fitted.max_tokens)

        def validate() -> float:
            scores = fitted.score(list(valid.texts), list(valid.user_ids))
            fitted.thresholds = choose_thresholds(scores, valid.labels, valid.task)
            return scored_headline(scores, fitted.thresholds, valid.labels, valid.task) or 0.0

        targets, weights = torch.from_numpy(grouped.targets), torch.from_numpy(grouped.weights)
        effects = UserEffects(train, grouped.member, context.device) if self.user_effects else None
        of_users = Inputs(inputs, slots if self.user_input == "added" else None, context.device)

        def losses(batch: NDArray[np.int64], mine: NDArray[np.int64]) -> Iterator[tuple[Tensor, int]]:
            terms = judgements(weights[torch.from_numpy(batch)], train.task.kind)
            for piece in length_cut(inputs.lengths[mine], tokens_at_once(context.device)):
                rows = mine[piece]
                index = torch.from_numpy(rows)
                logits = network(*of_users.batch(rows))
                if effects is not None:
                    value = effects.loss(logits, rows)
                else:
                    asked = weights[index].to(context.device)
                    value = loss(logits, targets[index].to(context.device), asked, train.task.kind)
                yield value / terms, int(inputs.lengths[rows].sum())

        fitted.training = fine_tune(
            network,
            inputs.lengths,
            grouped.text,
            losses,
            Schedule(self.epochs, self.patience, self.batch_size, self.learning_rate, known=context.epochs),
            validate,
            seed=context.seed,
            progress=context.progress,
            after_epoch=context.after_epoch,
            team=context.team,
            users=None if network.users is None else UserVectors(network.users.weight, slots),
            between=nothing_between if effects is None else lambda: effects.fit(context.team),
        )
        network.keep_mean()
        fitted.settle()
        fitted.share_features(context.features)
        validate()
        return fitted


class PersonalisedClassifyConfig(ClassifyConfig):
    """One model with the user in its prompt: the paper's `-p` arm.

    `user_token: text` writes the user's number before the text; `added` puts a trained vector of the user's own there.
    """

    method: Literal["cls-p"] = "cls-p"  # type: ignore[assignment]
    user_token: UserToken = "text"
    shuffle_users: Shuffled = False

    personal: ClassVar[bool] = True

    @property
    def control(self) -> Shuffled:
        """See `shuffle_users`."""
        return self.shuffle_users

    @property
    def user_input(self) -> UserToken:
        """See `user_token`."""
        return self.user_token


@dataclass(frozen=True)
class Inputs:
    """Distinct inputs of a classifier, ready to be cut into batches.

    Attributes:
        encoded: their tokens.
        slots: int64 [inputs], the user slot of each, where users have a vector of their own.
        device: where batches go.
    """

    encoded: Encoded
    slots: NDArray[np.int64] | None
    device: str

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each input: int64 [inputs]."""
        return self.encoded.lengths

    @property
    def positions(self) -> NDArray[np.int64]:
        """Hidden states of each input, the user's own among them: int64 [inputs]."""
        return self.lengths + (self.slots is not None)

    def batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor | None]:
        """What `Classifier.forward` takes."""
        ids, mask = self.encoded.batch(rows)
        slots = None if self.slots is None else torch.from_numpy(self.slots[rows]).to(self.device)
        return ids.to(self.device), mask.to(self.device), slots


class FittedClassifier:
    """A fine-tuned classifier. See `methods.base.Fitted` for the attributes."""

    def __init__(
        self,
        method: str,
        task: Task,
        base: Base,
        network: Classifier,
        users: dict[str, int],
        user_token: UserToken | None,
        max_tokens: int,
        device: str,
    ) -> None:
        self.method = method
        self.task = task
        self.base = base
        self.network = network
        self.users = users
        self.user_token = user_token
        self.max_tokens = min(max_tokens, base.max_tokens - (1 if user_token == "added" else 0))
        self.device = device
        self.thresholds: NDArray[np.float32] = np.full(len(task.labels), 0.5, dtype=np.float32)
        self.training = Training()
        self._cache: tuple[FeatureCache, str] | None = None

    @property
    def adapted(self) -> bool:
        """Whether what was trained is an adapter, and not all weights."""
        return hasattr(self.network.model, "peft_config")

    def settle(self) -> None:
        """Done with training: fold the adapter into the weights, so that a forward pass does not pay for it."""
        fold(self.network.model, self.base)
        self.network.to(self.device).eval()

    def share_features(self, cache: FeatureCache | None) -> None:
        """Read each input once from now on, for all who are given the same place; the model may change no more.

        Not where users have vectors of their own: there an input is more than its tokens.
        """
        if cache is not None and self.user_token != "added":
            self._cache = cache, self.checksum

    def features(self, inputs: Inputs, rows: NDArray[np.int64], afresh: bool = False) -> Tensor:
        """Pooled texts of some inputs: [rows, width]. See `share_features`.

        afresh: compute them, whatever is kept, so that they are the same to the bit whatever was read before.
        """

        @torch.no_grad()
        def compute(some: NDArray[np.int64]) -> Tensor:
            return self.network.features(*inputs.batch(some))

        if self._cache is None:
            return compute(rows)
        cache, checksum = self._cache
        if afresh:
            made = compute(rows)
            cache.keep(checksum, inputs.encoded, rows, made)
            return made
        return cache.rows(checksum, inputs.encoded, rows, compute)

    @property
    def checksum(self) -> str:
        """SHA-256 of what was trained, and of the base: equal checksums mean the same model."""
        digest = hashlib.sha256(self.base.identity.encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            if not self.adapted or not name.startswith("model.") or ".lora_" in name:
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def slots(self, users: Sequence[str] | NDArray[np.object_]) -> NDArray[np.int64]:
        """Each user's slot, -1 for users unseen in training and wherever the method does not look at users."""
        return np.asarray([self.users.get(user, -1) for user in users], dtype=np.int64)

    def prompts(self, texts: Sequence[str] | NDArray[np.object_], slots: NDArray[np.int64]) -> list[str]:
        """What the tokenizer sees: the text, behind the user's number where users are plain text."""
        if self.user_token != "text":
            return list(texts)
        return [text if slot < 0 else with_user(text, int(slot)) for text, slot in zip(texts, slots, strict=True)]

    def distinct(self, texts: Sequence[str], users: Sequence[str]) -> tuple[Inputs, NDArray[np.int64]]:
        """The distinct inputs of (text, user) rows, and the position of each row's: int64 [rows]."""
        position: dict[tuple[str, int], int] = {}
        keys = zip(texts, self.slots(users).tolist(), strict=True)
        index = np.fromiter((position.setdefault(key, len(position)) for key in keys), np.int64, len(texts))
        slots = np.asarray([slot for _, slot in position], dtype=np.int64)
        prompts = self.prompts([text for text, _ in position], slots)
        encoded = encode(self.base.tokenizer, prompts, self.max_tokens)
        return Inputs(encoded, slots if self.user_token == "added" else None, self.device), index

    def score(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [rows, labels]. Each distinct input is run once, however many rows ask for it.

        A user unseen in training is read as no user (`text`) or as the mean of those in training (`added`).
        """
        inputs, index = self.distinct(texts, users)
        scores = np.empty((len(inputs.lengths), len(self.task.labels)), dtype=np.float32)
        was_training = self.network.training
        self.network.eval()
        with torch.inference_mode():
            for rows in length_cut(inputs.lengths, tokens_at_once(self.device)):
                logits = self.network.head(self.features(inputs, rows))
                scores[rows] = probabilities(logits, self.task.kind).float().cpu().numpy()
        self.network.train(was_training)
        return scores[index]

    def score_all(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [texts, users, labels]. A model without users runs once per text."""
        return score_every_pair(self, texts, users)

    @property
    def known(self) -> list[str]:
        """See `base.Fitted`."""
        return sorted(self.users)

    def knows(self, user: str) -> bool:
        """Whether this user was in training, and the method looks at users at all."""
        return user in self.users

    def save(self, folder: Path) -> None:
        """The adapter in PEFT's own format (or all weights), head and user vectors as safetensors, settings as JSON."""
        from safetensors.torch import save_file

        save_adapter(self.network.model, self.base, folder)
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.network.state_dict().items()
            if not name.startswith("model.")
        }
        save_file(tensors, str(folder / "head.safetensors"))
        settings = {
            "base": self.base.name,
            "base_checksum": self.base.checksum,
            "max_tokens": self.max_tokens,
            "user_token": self.user_token,
            "users": self.users,
            "slots": 0 if self.network.users is None else self.network.users.num_embeddings,
        }
        (folder / "classifier.json").write_text(json.dumps(settings))

    @staticmethod
    def erase(folder: Path, user: str) -> bool:
        """See `methods.base.erase_saved`. The user's slot stays empty: others keep their numbers and vectors."""
        from safetensors.torch import load_file, save_file

        file, weights = folder / "classifier.json", folder / "head.safetensors"
        settings = json.loads(file.read_text())
        slot = settings["users"].pop(user, None)
        if slot is None:
            return False
        if settings["slots"]:
            tensors = {name: tensor.clone() for name, tensor in load_file(str(weights)).items()}
            tensors.setdefault("mean_user", tensors["users.weight"].mean(dim=0))  # strangers stay as they are
            tensors["users.weight"][slot] = 0
            with atomic_write(weights) as temporary:
                save_file(tensors, str(temporary))
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps(settings))
        return True

    @classmethod
    def load(
        cls, folder: Path, method: str, task: Task, thresholds: NDArray[np.float32], base: str, device: str
    ) -> FittedClassifier:
        """Read `save`'s files onto the base they were trained on.

        Raises:
            MethodError: the base is another one than at training, or a file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        settings = json.loads((folder / "classifier.json").read_text())
        loaded = load_base(base)
        if loaded.checksum != settings["base_checksum"]:
            raise MethodError(
                f"{folder}: trained on base {settings['base']!r} with other weights than {base!r} has here. "
                "Give the same base, or fit again."
            )
        network = Classifier(loaded, len(task.labels), settings["slots"])
        network.model = load_adapter(loaded.model, folder)
        try:
            head = load_file(str(folder / "head.safetensors"))
            if network.users is not None:
                network.keep_mean()
                if "users.weight" in head:  # earlier versions kept no mean
                    head.setdefault("mean_user", head["users.weight"].mean(dim=0))
            missing, unexpected = network.load_state_dict(head, strict=False)
        except (OSError, SafetensorError, ValueError) as error:
            raise MethodError(f"{folder}: damaged or incomplete weights ({error}). Fit it again.") from error
        if unexpected or any(not name.startswith("model.") for name in missing):
            raise MethodError(f"{folder}/head.safetensors: not the head of this classifier. Fit it again.")
        fitted = cls(
            method, task, loaded, network, settings["users"], settings["user_token"], settings["max_tokens"], device
        )
        fitted.settle()
        fitted.thresholds = thresholds
        return fitted


def _start_at_frequencies(network: Classifier, train: Annotations) -> None:
    """Start the head at each label's frequency, so that rare labels need not be unlearned first.

    A label without judgements (of another task) starts at 0 and stays about there: the model does not claim to know it.
    """
    asked = np.maximum((~np.isnan(train.labels)).sum(axis=0), 1)
    frequency = np.clip(np.nansum(train.labels, axis=0) / asked, 1e-4, 1 - 1e-4)
    start = np.log(frequency) if train.task.kind == "multiclass" else np.log(frequency / (1 - frequency))
    network.head.bias.data.copy_(torch.from_numpy(start))

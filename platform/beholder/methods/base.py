"""What every way to predict has in common: fit, score, save, load.

A method is a pydantic config with `fit`; fitting gives a `Fitted` with `score` and `save`. A new method is a file of
its own and a line in `METHODS`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from beholder.data.annotations import Annotations
from beholder.data.controls import Shuffled
from beholder.data.task import Task
from beholder.data.written_points import written_scale
from beholder.models.hosted import Endpoint, Messages
from beholder.models.info import BaseFacts
from beholder.models.model_ref import AnyBase, ModelRef
from beholder.models.precision import device_for
from beholder.prompting.config import PromptSettings
from beholder.prompting.wording import load_wording
from beholder.training.context import Context, Training
from beholder.util.errors import MethodError, unknown
from beholder.util.run_folder import RunFolder
from beholder.util.strict_model import Section

if TYPE_CHECKING:
    from beholder.adapters.block_training import BankSettings

FORMAT = 2
"""Written where a task has scales; else 1, which earlier versions read."""
Scores = NDArray[np.float32]
BaseKind = Literal["encoder", "decoder", "encoder-decoder", "endpoint"]
READERS: tuple[BaseKind, ...] = ("encoder", "decoder", "encoder-decoder")
WRITERS: tuple[BaseKind, ...] = ("decoder", "encoder-decoder")


class Fitted(Protocol):
    """A method after fitting.

    Attributes:
        method: its name in `METHODS`.
        task: labels and kind of the scores.
        thresholds: float32 [labels]; a label is present where its score reaches its threshold. Fitted on validation.
        training: cost and course of the fit.
    """

    method: str
    task: Task
    thresholds: NDArray[np.float32]
    training: Training

    def score(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """What each user would say of each text: float32 [rows, labels] in 0..1. Users may be unseen in training."""
        ...

    def score_all(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """Perspectives, what each of these users would say of each of these texts: float32 [texts, users, labels]."""
        ...

    @property
    def known(self) -> list[str]:
        """Users whose own judgements were learned from, sorted; none of a method that does not look at users."""
        ...

    def knows(self, user: str) -> bool:
        """Whether this user's own judgements were learned from, so that the score is theirs and not everybody's."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything `load` needs into an existing folder, without the base's weights."""
        ...


@runtime_checkable
class Refitted(Protocol):
    """A fitted method that may have learned from the validation rows in the end.

    `before_refit`: as it was before; None where it did not learn from them.
    """

    before_refit: Fitted | None


def before_refit(fitted: Fitted) -> Fitted:
    """What validation rows are scored by: the method as it was before it learned from them."""
    return (fitted.before_refit if isinstance(fitted, Refitted) else None) or fitted


def score_every_pair(fitted: Fitted, texts: Sequence[str], users: Sequence[str]) -> Scores:
    """`score_all` by way of `score`, for methods that share the work of equal rows there."""
    rows = fitted.score([text for text in texts for _ in users], list(users) * len(texts))
    return rows.reshape(len(texts), len(users), -1)


RENAMED = {"from": "init_from"}
"""Settings of methods that had another name: old -> new."""


class MethodConfig(Section):
    """Settings of one method. Subclasses name themselves in `method` and implement `fit`."""

    personal: ClassVar[bool] = False
    """Whether the score depends on the user."""
    trains: ClassVar[bool] = False
    """Whether a base model is trained: only then it can be the global model of a bundle."""
    writes: ClassVar[bool] = False
    """Whether it writes answers: names of labels, or the points of one ordinal scale."""
    in_blocks: ClassVar[bool] = False
    """Whether users are trained in blocks, which `begin` makes and any process can train; `fit` puts them together."""
    bases: ClassVar[tuple[BaseKind, ...]] = READERS
    """The kinds of base it can work with; none where it needs none."""
    starts_from: ClassVar[tuple[str, ...] | None] = None
    """The methods it can start from; None: any that trains a base. Only where `start` names an arm."""

    @property
    def start(self) -> str | None:
        """The arm whose fitted method it starts from: the setting `init_from`, where a method has it."""
        return self.__dict__.get("init_from")

    @property
    def only_tasks(self) -> tuple[str, ...] | None:
        """Of a source with several tasks, those whose rows it learns from: the setting `tasks`; None: all."""
        return self.__dict__.get("tasks")

    @property
    def control(self) -> Shuffled:
        """How users are shuffled, where it is a control: the setting `shuffle_users`."""
        return self.__dict__.get("shuffle_users", False)

    @property
    def prompting(self) -> PromptSettings | None:
        """The settings of its prompts, where it prompts: `prompt`."""
        return self.__dict__.get("prompt")

    @property
    def adapters(self) -> BankSettings | None:
        """The settings of users' adapters, where every user has their own: `bank`."""
        return self.__dict__.get("bank")

    @property
    def identity(self) -> dict[str, Any]:
        """The settings under the names that keys of finished arms and tracked parameters have: `init_from` as `from_`.

        What was fitted before the setting was renamed is thus found again.
        """
        return {_STORED.get(key, key): value for key, value in self.model_dump(mode="json").items()}

    def check(self, base: BaseFacts | Endpoint, task: Task) -> None:
        """Refuse before anything is fitted what would fail in the middle of it. The base's weights are not read.

        Raises:
            BeholderError: these settings do not go with this base or task.
        """
        kind: BaseKind = "endpoint" if isinstance(base, Endpoint) else base.architecture
        if self.bases and kind not in self.bases:
            name = base.model if isinstance(base, Endpoint) else base.name
            raise MethodError(f"base {name!r} is {_KINDS[kind]} with it, or another base: {', '.join(self.bases)}.")
        if self.writes and task.scales and written_scale(task) is None:
            raise MethodError(
                f"{self.__dict__['method']} writes labels, or the points of one ordinal scale, and not "
                f"{task.described[1]} such as {task.scales[0].name}. Use cls and its relatives, or cut with at_least."
            )

    @property
    def traits(self) -> tuple[str, ...]:
        """Context columns it reads as traits of people."""
        return ()

    def reads(self, annotations: Annotations) -> list[str]:
        """What it depends on besides judgements, split, base and settings, in a form that changes when it changes.

        The columns it reads as traits; where it prompts, the words of its wording file, whose settings name only where
        it is, and the context columns that a user's profile is made of.
        """
        found = [repr(annotations.column(column)) for column in self.traits]
        prompt = self.prompting
        if prompt is not None:
            found.append(load_wording(prompt.wording).digest)
            if self.personal and "profile" in prompt.blocks:
                found += [repr((name, annotations.column(name))) for name in annotations.context_columns]
        return found

    def check_rows(self, train: Annotations) -> None:
        """Refuse before anything is fitted what these training rows cannot give.

        Raises:
            BeholderError: see the method's settings.
        """

    def questions(self, parts: Mapping[str, Annotations], context: Context) -> list[Messages]:
        """The prompts that fitting, and scoring the validation and test rows, would send to an endpoint. Sends none."""
        return []

    def fit(self, train: Annotations, valid: Annotations, context: Context) -> Fitted:
        """Learn from `train`, choose settings and thresholds on `valid`."""
        raise MethodError(f"{type(self).__name__} has no way to fit; implement fit().")


_STORED = {"init_from": "from_"}

_KINDS: dict[BaseKind, str] = {
    "encoder": "an encoder, a base that cannot write. Use cls, cls-p or cls-u",
    "decoder": "a decoder. Use a method that reads it",
    "encoder-decoder": "an encoder-decoder. Use a method that reads it",
    "endpoint": "an endpoint, which can only be prompted. Use query or query-p",
}


@dataclass(frozen=True)
class MethodEntry:
    """Where a method lives. Its module is imported only when it is used."""

    config: str
    fitted: str
    description: str


METHODS: dict[str, MethodEntry] = {
    "prior": MethodEntry(
        "beholder.methods.prior:PriorConfig",
        "beholder.methods.prior:FittedPrior",
        "how often each label is given; neither text nor user",
    ),
    "user-prior": MethodEntry(
        "beholder.methods.prior:UserPriorConfig",
        "beholder.methods.prior:FittedUserPrior",
        "how often each user gives each label, shrunk to everybody's; no text",
    ),
    "query": MethodEntry(
        "beholder.methods.query:QueryConfig",
        "beholder.methods.query:FittedQuery",
        "prompt a pretrained model or an endpoint, with 0 to 64 of other people's judgements as examples",
    ),
    "query-p": MethodEntry(
        "beholder.methods.query:PersonalisedQueryConfig",
        "beholder.methods.query:FittedQuery",
        "the same with the user in the prompt: their number, profile, habits, and own judgements as examples",
    ),
    "cls": MethodEntry(
        "beholder.methods.cls:ClassifyConfig",
        "beholder.methods.cls:FittedClassifier",
        "LoRA (or full) fine-tuning with a classification head; one global model",
    ),
    "cls-p": MethodEntry(
        "beholder.methods.cls:PersonalisedClassifyConfig",
        "beholder.methods.cls:FittedClassifier",
        "the same with the user in the prompt, as plain text or as an added trainable token",
    ),
    "cls+": MethodEntry(
        "beholder.methods.cls_embedding:NetworkConfig",
        "beholder.methods.cls_embedding:FittedNetwork",
        "a small network on the features of a fitted `cls`; one global model, trained as long as `cls-e`",
    ),
    "cls-e": MethodEntry(
        "beholder.methods.cls_embedding:EmbeddingConfig",
        "beholder.methods.cls_embedding:FittedNetwork",
        "the same with an embedding for each user, all fitted jointly (HuBi-Medium, annotator embeddings)",
    ),
    "cls-u": MethodEntry(
        "beholder.methods.cls_user:PersonalConfig",
        "beholder.methods.cls_user:FittedPersonal",
        "an adapter for each user on top of a fitted `cls` or `cls-p`, all trained in one pass",
    ),
    "lm": MethodEntry(
        "beholder.methods.lm:LanguageConfig",
        "beholder.methods.lm:FittedLanguage",
        "LoRA (or full) fine-tuning to write the labels given; one global model",
    ),
    "lm-p": MethodEntry(
        "beholder.methods.lm:PersonalisedLanguageConfig",
        "beholder.methods.lm:FittedLanguage",
        "the same with the user in the prompt",
    ),
    "lm-u": MethodEntry(
        "beholder.methods.lm_user:PersonalLanguageConfig",
        "beholder.methods.lm_user:FittedPersonalLanguage",
        "an adapter for each user on top of a fitted `lm` or `lm-p`, all trained in one pass",
    ),
}


def config_class(method: str) -> type[MethodConfig]:
    """The config class of a method.

    Raises:
        MethodError: no method has that name.
    """
    return _target(_entry(method).config)


def is_personal(method: str) -> bool:
    """Whether a method learns of the reader; a name that is none (a pair that is routed) does not."""
    return method in METHODS and config_class(method).personal


def save_fitted(fitted: Fitted, folder: Path) -> None:
    """Write a fitted method into an existing folder, with `method.json`, from which `load_fitted` knows what it is."""
    fitted.save(folder)
    described = {
        "format": FORMAT if fitted.task.scales else 1,
        "method": fitted.method,
        **fitted.task.to_json(),
        "thresholds": [float(value) for value in fitted.thresholds],
    }
    (folder / "method.json").write_text(json.dumps(described, indent=2) + "\n")


def erase_saved(folder: Path, user: str) -> bool:
    """Take a user out of what `save_fitted` wrote: their id, weights, rates, judgements. What is others' stays.

    A global model that was trained on their judgements, among others', stays, too. Done twice is done once.

    Returns:
        Whether there was anything of theirs.

    Raises:
        MethodError: missing, or written by a newer version.
    """
    return _target(_entry(_described(folder)["method"]).fitted).erase(folder, user)


def load_fitted(folder: Path, base: AnyBase, device: str = "cpu") -> Fitted:
    """Read back what `save_fitted` wrote.

    Args:
        folder: of one fitted method.
        base: the base it was trained on, or prompts.
        device: where to score; 4-bit weights stay on the GPU.

    Raises:
        MethodError: missing, or written by a newer version.
    """
    described = _described(folder)
    task = Task.from_json(described)
    thresholds = np.asarray(described["thresholds"], dtype=np.float32)
    model = ModelRef.of(base)
    if model.endpoint is None:
        device = device_for(model.local, device)
    fitted = _target(_entry(described["method"]).fitted)
    return fitted.load(folder, described["method"], task, thresholds, model.written, device)


def start_of(name: str, method: str, context: Context) -> Any:
    """The fitted method that another one starts from: what the context holds, else that of its run folder.

    Args:
        name: the arm it is of.
        method: the method that starts from it, for messages.
        context: of the fit.

    Raises:
        MethodError: the context has neither, or the saved one is missing or damaged.
    """
    if context.start is not None:
        return context.start
    if context.run_folder is None:
        raise MethodError(
            f"{method} starts from a fitted method: give the context a start, or a run_folder that holds "
            f"methods/{name}."
        )
    return load_fitted(RunFolder(context.run_folder).method(name), context.base, context.device)


def _described(folder: Path) -> dict[str, Any]:
    """`method.json` of a folder."""
    file = folder / "method.json"
    try:
        described = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise MethodError(f"{file}: no readable fitted method ({type(error).__name__}). Fit it again.") from error
    if described["format"] > FORMAT:
        raise MethodError(
            f"{file}: format {described['format']} is newer than this version reads ({FORMAT}). Upgrade beholder."
        )
    return described


def _entry(method: str) -> MethodEntry:
    if method not in METHODS:
        raise MethodError(unknown("method", method, METHODS))
    return METHODS[method]


def _target(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)

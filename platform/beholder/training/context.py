"""What fitting a model needs besides data, and what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from beholder.models.model_ref import AnyBase, ModelRef
from beholder.training.data_parallel import ALONE, Team
from beholder.training.feature_cache import FeatureCache


class Progress(Protocol):
    """Receives the progress of a fit."""

    def __call__(self, done: int, total: int, note: str, unit: str = "steps") -> None:
        """Units done, units in all, and a few words."""
        ...


def no_progress(done: int, total: int, note: str, unit: str = "steps") -> None:
    """A progress sink for those who do not look."""


def no_words(line: str) -> None:
    """The same for notes."""


def no_epochs(epoch: int, score: float) -> None:
    """The same for the course of validation scores."""


@dataclass(frozen=True)
class Context:
    """What a method needs besides data: never Ray, never MLflow.

    Attributes:
        base: name of the base model, see `models.catalog.resolve`; or an endpoint.
        seed: every random draw comes from it.
        device: `cpu`, `cuda` or `cuda:N`.
        progress: called after each step.
        say: receives notes for people, one line each.
        run_folder: holds methods fitted before under `methods/NAME`, for those that build on one, and takes what lets a
            fit that died resume; None where there is no such folder.
        start: the fitted method to start from, where it is at hand; the run folder's is then not read.
        after_epoch: called with (epoch, validation score) by methods that train in epochs; may raise to end the fit.
        team: who fits the same model at the same time.
        epochs: how many to train for, where that was found before (`cross_fitting.refitted`): the last is then kept,
            and validation rows do not choose among them. None: they do.
        features: where features of texts are kept for methods on the same classifier; None: nowhere.
    """

    base: AnyBase
    seed: int = 42
    device: str = "cpu"
    progress: Progress = no_progress
    say: Callable[[str], None] = no_words
    run_folder: Path | None = None
    start: Any = None
    after_epoch: Callable[[int, float], None] = no_epochs
    team: Team = ALONE
    epochs: int | None = None
    features: FeatureCache | None = None

    @property
    def base_model(self) -> ModelRef:
        """The base."""
        return ModelRef.of(self.base)


@dataclass(frozen=True)
class Training:
    """What fitting cost and how it went: reported, never used to predict.

    `elsewhere`: seconds spent before, or in other processes, on parts that were only put together here. `parameters`:
    numbers that were trained; of each user, where each has their own. `epochs`: after how many the model that is kept
    stood, of methods that train in epochs.
    """

    seconds: float = 0.0
    elsewhere: float = 0.0
    tokens_per_second: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    parameters: int | None = None
    epochs: int | None = None

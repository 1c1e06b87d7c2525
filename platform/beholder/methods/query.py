"""Prompting: `query`, with the text alone, and `query-p`, with the user as well. Nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from beholder.data.annotations import Annotations
from beholder.data.controls import Shuffled
from beholder.data.splits import CELLS
from beholder.data.task import Task
from beholder.data.written_points import scores_of_points, written_rows, written_task
from beholder.evaluation.headline import choose_thresholds
from beholder.methods.base import WRITERS, BaseKind, Fitted, MethodConfig, Scores, score_every_pair
from beholder.methods.query_hosted import FittedHosted, require_room
from beholder.models import BaseFacts
from beholder.models.hosted import Endpoint, Messages
from beholder.models.language_model import load_language_model
from beholder.prompting.builder import Prompter
from beholder.prompting.calibration import Calibration, fit_calibration
from beholder.prompting.config import PromptSettings
from beholder.prompting.prompted_model import Prompted, answer_space, erase_prompter, read_prompted, write_prompted
from beholder.prompting.tokenize import Segments
from beholder.training.context import Context, Training

Decode = Literal["likelihood", "constrained"]


class QueryConfig(MethodConfig):
    """Ask a pretrained model, with other people's judgements as examples.

    `decode`: `likelihood` takes how likely each label is as the first word of an answer, calibrated on validation;
    `constrained` lets the model write an answer of label names alone. An endpoint knows neither: it writes freely, and
    what it wrote is read (`hosted`). `max_tokens` of a prompt with its answer.
    """

    method: Literal["query"] = "query"
    prompt: PromptSettings = PromptSettings()
    decode: Decode = "likelihood"
    max_tokens: int = Field(default=1_024, ge=16)

    writes: ClassVar[bool] = True
    bases: ClassVar[tuple[BaseKind, ...]] = (*WRITERS, "endpoint")

    @property
    def prompting(self) -> PromptSettings:
        """See `prompt`."""
        return self.prompt

    def check(self, base: BaseFacts | Endpoint, task: Task) -> None:
        """See `MethodConfig.check`."""
        super().check(base, task)
        if isinstance(base, BaseFacts):
            answer_space(base, Prompter(task, self.prompt, None, self.personal, seed=0), self.max_tokens)
        else:
            require_room(base, Prompter(task, self.prompt, None, self.personal, seed=0), self.max_tokens)

    def questions(self, parts: Mapping[str, Annotations], context: Context) -> list[Messages]:
        """See `MethodConfig.questions`."""
        endpoint = context.base_model.endpoint
        if endpoint is None:
            return []
        prompter = Prompter(parts["train"].task, self.prompt, parts["train"], self.personal, context.seed)
        hosted = FittedHosted(self.method, prompter, endpoint, self.max_tokens)
        rows = [parts[part] for part in ("valid", "test", *CELLS) if part in parts]
        return [prompt for part in rows for prompt in hosted.prompts(list(part.texts), list(part.user_ids))[0]]

    def fit(self, train: Annotations, valid: Annotations, context: Context) -> Fitted:
        """Calibrate on validation; nothing else is learned, and of an endpoint nothing at all."""
        prompter = Prompter(train.task, self.prompt, train, self.personal, context.seed)
        if endpoint := context.base_model.endpoint:
            return FittedHosted(self.method, prompter, endpoint, self.max_tokens, context.progress, context.say)
        language = load_language_model(context.base_model.local)
        language.model.to(context.device)  # type: ignore[arg-type]
        prompted = Prompted(language, prompter, self.max_tokens, context.device)
        fitted = FittedQuery(self.method, prompted, self.decode)
        fitted.calibrate(valid, context)
        return fitted


class PersonalisedQueryConfig(QueryConfig):
    """The same with the user in the prompt: the blocks of `prompt.blocks`; examples are the reader's own judgements."""

    method: Literal["query-p"] = "query-p"  # type: ignore[assignment]
    shuffle_users: Shuffled = False

    personal: ClassVar[bool] = True

    @property
    def control(self) -> Shuffled:
        """See `shuffle_users`."""
        return self.shuffle_users


class FittedQuery:
    """A pretrained model and its prompts. See `methods.base.Fitted` for the attributes."""

    def __init__(self, method: str, prompted: Prompted, decode: Decode, calibration: Calibration | None = None) -> None:
        self.method, self.prompted, self.decode, self.calibration = method, prompted, decode, calibration
        self.task: Task = prompted.prompter.answered
        self.thresholds: NDArray[np.float32] = np.full(len(self.task.labels), 0.5, dtype=np.float32)
        self.training = Training()
        self._known: dict[Segments, NDArray[Any]] = {}  # prompts of validation, which are scored again after fitting

    def calibrate(self, valid: Annotations, context: Context) -> None:
        """Fit calibration and thresholds."""
        prompts, index = self.prompted.distinct(list(valid.texts), list(valid.user_ids))
        done = 0

        def tell(more: int) -> None:
            nonlocal done
            done = min(done + more, len(prompts))
            context.progress(done, len(prompts), "", "prompts")

        evidence = self._evidence(prompts, tell)
        self._known = dict(zip(prompts, evidence, strict=True))
        if self.decode == "likelihood":
            written = written_rows(valid)
            self.calibration = fit_calibration(evidence[index], written.labels, written.task.kind)
        scores = self._scores(evidence)[index]
        self.thresholds = choose_thresholds(scores, valid.labels, self.task)
        for line in self.prompted.notes():
            context.say(f"{self.method}: {line}")

    def score(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [rows, labels]. Each distinct prompt is read once, and what prompts share is read once."""
        prompts, index = self.prompted.distinct(texts, users)
        new = [prompt for prompt in prompts if prompt not in self._known]
        found = dict(zip(new, self._evidence(new), strict=True)) if new else {}
        evidence = np.stack([found[each] if each in found else self._known[each] for each in prompts])
        return self._scores(evidence)[index]

    def score_all(self, texts: Sequence[str], users: Sequence[str]) -> Scores:
        """float32 [texts, users, labels]."""
        return score_every_pair(self, texts, users)

    def answers(self, texts: Sequence[str], users: Sequence[str]) -> list[str]:
        """What the model writes of each row, where it can write nothing but answers."""
        prompts, index = self.prompted.distinct(texts, users)
        named = self.prompted.walk(prompts, in_order=False).named
        return [self.prompted.write(named[place]) for place in index]

    @property
    def known(self) -> list[str]:
        """See `base.Fitted`."""
        return sorted(self.prompted.prompter.users)

    def knows(self, user: str) -> bool:
        """Whether prompts describe this user."""
        return user in self.prompted.prompter.users

    def save(self, folder: Path) -> None:
        """Settings and calibration as JSON; the training rows that prompts are made of as Parquet."""
        calibration = (
            {"slope": self.calibration.slope.tolist(), "offset": self.calibration.offset.tolist()}
            if self.calibration
            else None
        )
        write_prompted(folder, self.prompted, {"decode": self.decode, "calibration": calibration})

    @staticmethod
    def erase(folder: Path, user: str) -> bool:
        """See `prompted_model.erase_prompter`."""
        return erase_prompter(folder, user)

    @classmethod
    def load(
        cls, folder: Path, method: str, task: Task, thresholds: NDArray[np.float32], base: Any, device: str
    ) -> Fitted:
        """Read `save`'s files onto the base they were made with, or the endpoint.

        Raises:
            MethodError: the base is another one, or a file is missing or damaged.
        """
        if isinstance(base, Endpoint):
            return FittedHosted.load(folder, method, task, thresholds, base)
        prompted, settings = read_prompted(folder, task, base, device)
        calibration = settings["calibration"]
        made = (
            Calibration(np.asarray(calibration["slope"]), np.asarray(calibration["offset"]), written_task(task).kind)
            if calibration
            else None
        )
        fitted = cls(method, prompted, settings["decode"], made)
        fitted.thresholds = thresholds
        return fitted

    def _evidence(self, prompts: list[Segments], tell: Callable[[int], None] | None = None) -> NDArray[np.float64]:
        """[prompts, labels]: log-odds of each label against none, or the scores of written answers."""
        if self.decode == "constrained":
            return self.prompted.walk(prompts, in_order=False, tell=tell).scores.astype(np.float64)
        found = self.prompted.first_step(prompts, tell)
        if self.prompted.prompter.task.kind == "multilabel":
            return found[:, :-1] - found[:, -1:]
        return found[:, :-1] - np.logaddexp.reduce(found[:, :-1], axis=1, keepdims=True)

    def _scores(self, evidence: NDArray[np.float64]) -> NDArray[np.float32]:
        scores = self.calibration(evidence) if self.calibration else evidence.astype(np.float32)
        return scores_of_points(self.task, scores)

"""What fine-tuning costs a base elsewhere: how it writes general text, and how it answers about another task.

Measured of the base as it is, and of the base under every arm that trained it: the perplexity of a fixed text, and
macro-F1 of plain prompting (`query`, no examples) on another source's rows. A user's adapters (`-u`) stand on an arm
that is measured, and controls are nobody's model: both are left out.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import Field

from beholder import __version__
from beholder.data.annotations import Annotations
from beholder.data.texts import text_key
from beholder.datasets import SourceConfig, load
from beholder.evaluation.headline import scored_headline
from beholder.execution.arm import ArmJob
from beholder.methods.base import Fitted, load_fitted
from beholder.methods.lm import FittedLanguage
from beholder.methods.prior import PriorConfig
from beholder.methods.query import FittedQuery, QueryConfig
from beholder.models.hosted import Endpoint
from beholder.models.info import BaseFacts
from beholder.models.language_model import LanguageModel, load_language_model
from beholder.models.perplexity import perplexity
from beholder.prompting.builder import Prompter
from beholder.prompting.prompted_model import Prompted
from beholder.training.context import Context, no_words
from beholder.util.atomic import atomic_write, digest_of
from beholder.util.errors import BeholderError, DataError
from beholder.util.run_folder import RunFolder
from beholder.util.strict_model import Section

PartRows = Mapping[str, Annotations]
"""`valid`, on which answers are calibrated, and `test`, on which they count."""
ASKED = QueryConfig()
"""How the other task is prompted, before and after: in the same words."""


class Forgetting(Section):
    """What to measure.

    Args:
        source: another task than the arms learn: its rows are only scored.
        rows: the most judgements to calibrate answers on, and the most to measure, of texts apart.
        window: tokens of general text read at once.
    """

    source: SourceConfig
    rows: int = Field(default=200, ge=10)
    window: int = Field(default=256, ge=8)


@dataclass(frozen=True)
class MeasureJob:
    """What a worker needs to know of one measurement; plain values, so that it travels.

    Attributes:
        arm: the fitted arm whose base is measured; empty for the base as it is.
        window: see `Forgetting`.
        key: hash of all inputs; what was measured with the same key need not be measured again.
    """

    arm: str
    window: int
    key: str


@dataclass(frozen=True)
class ForgettingPlan:
    """What a run measures.

    Attributes:
        settings: of the experiment file.
        rows: see there.
        jobs: the base as it is first, then the arms.
    """

    settings: Forgetting
    rows: PartRows
    jobs: tuple[MeasureJob, ...]

    def write(self, run_folder: Path) -> None:
        """Everything that measuring, and `summary`, read."""
        folder = RunFolder(run_folder).forgetting
        folder.mkdir(parents=True, exist_ok=True)
        for part, rows in self.rows.items():
            rows.write_parquet(folder / f"{part}.parquet")
        described = {"source": self.settings.source.name, "window": self.settings.window}
        keys = {job.arm: job.key for job in self.jobs}
        with atomic_write(folder / "plan.json") as file:
            file.write_text(json.dumps({**described, "keys": keys}, indent=2) + "\n")

    def pending(self, run_folder: Path, fitted: Collection[str]) -> tuple[MeasureJob, ...]:
        """What was not measured with the same inputs yet, or is fitted again now (`fitted`: names of arms)."""
        return tuple(job for job in self.jobs if job.arm in fitted or _found(job.arm, run_folder)["key"] != job.key)


def plan(
    settings: Forgetting,
    base: BaseFacts | Endpoint,
    identity: str,
    arms: Sequence[ArmJob],
    seed: int,
    chosen: Callable[[Annotations], Annotations] = lambda rows: rows,
) -> ForgettingPlan:
    """Load the other task's rows and plan what to measure on them. Nothing is written.

    Args:
        settings: see there.
        base: what is known of the base.
        identity: of the base and its weights.
        arms: all arms of the run.
        seed: of which rows are taken.
        chosen: of the other task's rows those that may be used.

    Raises:
        BeholderError: the rows cannot be used, or the base cannot score them.
    """
    try:
        rows = _rows(settings, seed, chosen)
        ASKED.check(base, rows["test"].task)
    except BeholderError as error:
        raise type(error)(f"forgetting: {error}") from error
    inputs = [settings.window, general_text()[1], *(each.fingerprint for each in rows.values())]

    def job(arm: str, measured: str) -> MeasureJob:
        return MeasureJob(arm, settings.window, digest_of([*inputs, measured]))

    trained = [arm for arm in arms if arm.settings.trains and arm.control_of is None]
    jobs = [job("", f"{identity} {__version__}"), *(job(arm.name, arm.key) for arm in trained)]
    return ForgettingPlan(settings, rows, tuple(jobs))


def measure(job: MeasureJob, run_folder: Path, context: Context) -> None:
    """Measure, and write what was found under `forgetting/` of the run's folder, whole or not at all."""
    started = time.perf_counter()
    rows = {
        part: Annotations.read_parquet(RunFolder(run_folder).forgetting / f"{part}.parquet")
        for part in ("valid", "test")
    }
    if job.arm:
        language = as_language_model(
            load_fitted(RunFolder(run_folder).method(job.arm), context.base, context.device), context
        )
    else:
        language = _language_model(context)
    surprise = perplexity(language, general_text()[0], min(job.window, language.base.max_tokens))
    found = {
        "key": job.key,
        "perplexity": surprise.value,
        "tokens": surprise.tokens,
        "macro_f1": asked(language, rows, context),
        "seconds": time.perf_counter() - started,
    }
    with atomic_write(_file(job.arm, run_folder)) as file:
        file.write_text(json.dumps(found, indent=2) + "\n")


def as_language_model(fitted: Fitted, context: Context) -> LanguageModel:
    """The base as an arm left it, writing again: a classifier's body gets the base's own output projection."""
    if isinstance(fitted, FittedLanguage):
        return fitted.prompted.language
    language = _language_model(context)
    network: Any = fitted.network  # type: ignore[attr-defined]
    language.put_body(network.model.get_base_model() if hasattr(network.model, "peft_config") else network.model)
    return language


def asked(language: LanguageModel, rows: PartRows, context: Context) -> float | None:
    """Macro-F1 of plain prompting about another task; None where no label can be measured.

    Answers of each model are calibrated on the validation rows, so that a model that has become more, or less,
    ready to say yes to everything does not count as having forgotten what it still distinguishes.
    """
    test = rows["test"]
    prompter = Prompter(test.task, ASKED.prompt, None, ASKED.personal, context.seed)
    fitted = FittedQuery(ASKED.method, Prompted(language, prompter, ASKED.max_tokens, context.device), ASKED.decode)
    fitted.calibrate(rows["valid"], replace(context, say=no_words))
    return _macro_f1(fitted, test)


def summary(run_folder: Path) -> dict[str, Any] | None:
    """What a run measured, for its results; None where it did not, or not yet.

    `prior` is what the rows' base rates alone reach: who scores no more knows nothing of the other task.
    """
    folder = RunFolder(run_folder).forgetting
    try:
        planned = json.loads((folder / "plan.json").read_text())
    except (OSError, ValueError):
        return None
    measured = {arm: found for arm, key in planned["keys"].items() if (found := _found(arm, run_folder))["key"] == key}
    before = measured.pop("", None)
    if before is None:
        return None
    valid, test = (Annotations.read_parquet(folder / f"{part}.parquet") for part in ("valid", "test"))
    prior = PriorConfig().fit(valid, valid, Context(base=""))
    text = {"version": _general_text()["version"], "tokens": before["tokens"], "window": planned["window"]}
    return {
        "text": text,
        "source": planned["source"],
        "rows": {"valid": len(valid), "test": len(test)},
        "prior": {"macro_f1": _macro_f1(prior, test)},
        "before": _measures(before),
        "arms": {arm: _measures(found) for arm, found in measured.items()},
    }


def seconds(jobs: Sequence[MeasureJob], run_folder: Path) -> float:
    """What these measurements took."""
    return sum(_found(job.arm, run_folder)["seconds"] for job in jobs)


def general_text() -> tuple[str, str]:
    """The fixed text, its passages one after the other, and SHA-256 of it."""
    text = "\n\n".join(passage.strip() for passage in _general_text()["passages"].values())
    return text, hashlib.sha256(text.encode()).hexdigest()


def _general_text() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("general_text.yaml").read_text(encoding="utf-8"))


def _rows(settings: Forgetting, seed: int, chosen: Callable[[Annotations], Annotations]) -> dict[str, Annotations]:
    """Judgements drawn at random from two halves of the texts."""
    loaded = load(settings.source)
    everything = chosen(loaded.annotations)
    texts, index = everything.distinct_texts
    half = np.asarray([int(text_key(f"{seed} {text}"), 16) % 2 for text in texts])[index]
    drawn = np.random.default_rng(seed).permutation(len(everything))
    rows = {
        part: everything.select(np.sort(drawn[half[drawn] == side][: settings.rows]))
        for side, part in enumerate(("valid", "test"))
    }
    for part, some in rows.items():
        if not np.nansum(some.labels):
            raise DataError(f"{loaded.origin}: no label is ever given in the {len(some)} {part} rows. Raise rows.")
    return rows


def _language_model(context: Context) -> LanguageModel:
    language = load_language_model(context.base_model.local)
    language.model.to(context.device)  # type: ignore[arg-type]
    return language


def _macro_f1(fitted: Fitted, test: Annotations) -> float | None:
    scores = fitted.score(list(test.texts), list(test.user_ids))
    return scored_headline(scores, fitted.thresholds, test.labels, test.task)


def _measures(found: dict[str, Any]) -> dict[str, Any]:
    return {"perplexity": found["perplexity"], "macro_f1": found["macro_f1"]}


def _file(arm: str, run_folder: Path) -> Path:
    return RunFolder(run_folder).forgetting / (f"after-{arm}.json" if arm else "before.json")


def _found(arm: str, run_folder: Path) -> dict[str, Any]:
    """What was measured; nothing where it was not."""
    try:
        return json.loads(_file(arm, run_folder).read_text())
    except (OSError, ValueError):
        return {"key": None, "perplexity": None, "macro_f1": None, "tokens": None, "seconds": 0.0}

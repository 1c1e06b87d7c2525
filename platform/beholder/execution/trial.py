"""One trial of a search: an arm's settings fitted on the training rows, measured on the validation rows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass

from beholder.data.annotations import Annotations
from beholder.evaluation.headline import scored_headline
from beholder.execution.arm import as_seen, to_learn
from beholder.methods.base import MethodConfig, before_refit
from beholder.methods.user_adapters import FittedBank
from beholder.training.context import Context


@dataclass(frozen=True)
class TrialResult:
    """What a setting is worth, and what it costs.

    Attributes:
        valid_macro_f1: as `evaluation.results.Results` reports it: with thresholds fitted on the same rows.
        seconds: of fitting, as measured; without what is shared by all trials.
        parameters: numbers trained, of each user where each has their own; None where nothing is.
    """

    valid_macro_f1: float
    seconds: float
    parameters: int | None


def measure(config: MethodConfig, parts: Mapping[str, Annotations], context: Context) -> TrialResult:
    """Fit and measure. Test rows are not used: `parts` needs `train` and `valid` only.

    What a bank leaves in the context's run folder is deleted, except for the trunk's states: other trials share them.
    """
    started = time.perf_counter()
    train, valid = to_learn(config, as_seen(config, dict(parts), context.seed))
    fitted = config.fit(train, valid, context)
    seconds = fitted.training.seconds or time.perf_counter() - started
    scores = before_refit(fitted).score(list(valid.texts), list(valid.user_ids))
    value = scored_headline(scores, fitted.thresholds, valid.labels, valid.task)
    if isinstance(fitted, FittedBank):
        shutil.rmtree(fitted.bank.folder, ignore_errors=True)
    return TrialResult(value or 0.0, seconds, fitted.training.parameters)

"""A run's results, computed again from what it saved."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from beholder.evaluation.newcomers import measure_newcomers
from beholder.evaluation.results import Curve, Results, evaluate
from beholder.evaluation.run_results import RunResults
from beholder.evaluation.scores_io import ScoresFile, read_newcomers, read_scores
from beholder.util.errors import DataError, unknown
from beholder.util.run_folder import RunFolder

REMEDY = "Run the experiment again."
LEVEL = 0.95
"""Of intervals, by default."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How a run is evaluated: its arms in their order, learning curves, the reference, the level of intervals, and what
    gain is worth having (points).

    `newcomers`: the arms that were measured on newcomers; none but under a split by people. `texts`: of such a split.
    """

    reference: str
    level: float
    worthwhile: float
    arms: list[str]
    curves: dict[str, Curve]
    newcomers: list[str]
    texts: str

    def to_json(self) -> dict[str, Any]:
        """What `evaluation.json` holds."""
        newcomers = {"newcomers": {"arms": self.newcomers, "texts": self.texts}} if self.newcomers else {}
        return {
            "reference": self.reference,
            "worthwhile": self.worthwhile,
            **({"level": self.level} if self.level != LEVEL else {}),
            "arms": self.arms,
            **newcomers,
            "curves": {arm: {"start": curve.start, "arms": curve.arms} for arm, curve in self.curves.items()},
        }


def read_results(run_folder: Path) -> RunResults:
    """The results of a finished run (`results.json`).

    Raises:
        DataError: it did not finish, or its file is damaged.
    """
    file = RunFolder(run_folder).results
    try:
        return RunResults.from_json(json.loads(file.read_text()))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: missing, or not of a run that finished. {REMEDY}") from error


def recompute(run_folder: Path, settings: EvaluationSettings | None = None) -> Results:
    """Evaluate `scores/*.parquet` as settings say, or `evaluation.json`: the reference, what gain is worth having.

    `arms` there gives the arms and their order (every file, by name, where it gives none), `curves` the arms of
    learning curves, `newcomers` those measured on newcomers, `level` that of the intervals (0.95).

    Raises:
        DataError: a file is missing or damaged, or the arms were scored on different rows.
    """
    settings = settings or settings_of(run_folder)
    of_curves = [name for curve in settings.curves.values() for name in curve.arms.values()]
    files = [read_scores(RunFolder(run_folder).scores(name)) for name in [*settings.arms, *of_curves]]
    first = files[0]
    for other in files[1:]:
        if not same_rows(first, other):
            raise DataError(
                f"{run_folder}/scores: {other.arm.name} was scored on other rows than {first.arm.name}. {REMEDY}"
            )
    found = evaluate(
        [each.arm for each in files],
        first.valid,
        first.test,
        first.task,
        settings.reference,
        level=settings.level,
        worthwhile=settings.worthwhile,
        curves=settings.curves,
    )
    if not settings.newcomers:
        return found
    scores = [read_newcomers(RunFolder(run_folder).newcomers(name)) for name in settings.newcomers]
    measured = measure_newcomers(scores, settings.reference, settings.texts, level=settings.level)
    return replace(found, newcomers=measured)


def settings_of(run_folder: Path) -> EvaluationSettings:
    """The settings in `evaluation.json` of a run.

    Raises:
        DataError: it is missing or damaged.
    """
    file = RunFolder(run_folder).evaluation
    try:
        written = json.loads(file.read_text())
        settings = EvaluationSettings(
            str(written["reference"]),
            float(written.get("level", LEVEL)),
            float(written.get("worthwhile", 1.0)),
            written.get("arms") or [each.stem for each in RunFolder(run_folder).all_scores],
            {
                arm: Curve(str(curve["start"]), {int(rows): str(name) for rows, name in curve["arms"].items()})
                for arm, curve in written.get("curves", {}).items()
            },
            [str(name) for name in written.get("newcomers", {}).get("arms", [])],
            str(written.get("newcomers", {}).get("texts", "unseen")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: no readable settings ({type(error).__name__}: {error}). {REMEDY}") from error
    if settings.reference not in settings.arms:
        raise DataError(f"{file}: reference: {unknown('arm', settings.reference, settings.arms)} {REMEDY}")
    return settings


def same_rows(one: ScoresFile, other: ScoresFile) -> bool:
    """Whether two arms scored the same labels of the same judgements."""
    return one.task == other.task and all(
        np.array_equal(mine.text_ids, theirs.text_ids)
        and np.array_equal(mine.user_ids, theirs.user_ids)
        and np.array_equal(mine.labels, theirs.labels, equal_nan=True)
        for mine, theirs in ((one.valid, other.valid), (one.test, other.test))
    )

"""A run's results, computed again from what it saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from beholder.errors import DataError, unknown
from beholder.evaluation.results import Results, evaluate
from beholder.evaluation.scores_file import ScoresFile, read_scores


def recompute(run_folder: Path) -> Results:
    """Evaluate `scores/*.parquet` as `evaluation.json` says: the reference, the draws and their seed.

    `arms` there gives the arms and their order (every file, by name, where it gives none), `level` that of the
    intervals (0.95).

    Raises:
        DataError: a file is missing or damaged, or the arms were scored on different rows.
    """
    file = run_folder / "evaluation.json"
    remedy = "Run the experiment again."
    try:
        settings = json.loads(file.read_text())
        reference, draws, seed = str(settings["reference"]), int(settings["draws"]), int(settings["seed"])
        level = float(settings.get("level", 0.95))
        arms = settings.get("arms") or sorted(each.stem for each in (run_folder / "scores").glob("[!.]*.parquet"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: no readable settings ({type(error).__name__}: {error}). {remedy}") from error
    if reference not in arms:
        raise DataError(f"{file}: reference: {unknown('method', reference, arms)} {remedy}")
    files = [read_scores(run_folder / "scores" / f"{name}.parquet") for name in arms]
    first = files[0]
    for other in files[1:]:
        if not _same_rows(first, other):
            raise DataError(
                f"{run_folder}/scores: {other.arm.name} was scored on other rows than {first.arm.name}. {remedy}"
            )
    return evaluate(
        [each.arm for each in files],
        first.valid,
        first.test,
        first.label_names,
        first.kind,
        reference,
        draws=draws,
        seed=seed,
        level=level,
    )


def _same_rows(one: ScoresFile, other: ScoresFile) -> bool:
    """Whether two arms were asked for the same labels of the same judgements."""
    return (one.label_names, one.kind) == (other.label_names, other.kind) and all(
        np.array_equal(mine.text_ids, theirs.text_ids)
        and np.array_equal(mine.user_ids, theirs.user_ids)
        and np.array_equal(mine.labels, theirs.labels, equal_nan=True)
        for mine, theirs in ((one.valid, other.valid), (one.test, other.test))
    )

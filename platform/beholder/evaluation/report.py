"""A run's results, computed again from what it saved."""

from __future__ import annotations

import json
from pathlib import Path

from beholder.errors import DataError
from beholder.evaluation.results import Results, evaluate
from beholder.evaluation.scores_file import read_scores


def recompute(run_folder: Path) -> Results:
    """Evaluate `scores/*.parquet` as `evaluation.json` says: the arms, the reference, the draws and their seed.

    Raises:
        DataError: a file is missing or damaged, or the arms were scored on different rows.
    """
    file = run_folder / "evaluation.json"
    try:
        settings = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: no readable settings ({type(error).__name__}). Run the experiment again.") from error
    files = [read_scores(run_folder / "scores" / f"{name}.parquet") for name in settings["arms"]]
    first = files[0]
    for other in files[1:]:
        if other.label_names != first.label_names or list(other.test.text_ids) != list(first.test.text_ids):
            raise DataError(
                f"{run_folder}/scores: {other.arm.name} was scored on other rows than {first.arm.name}. "
                "Run the experiment again."
            )
    return evaluate(
        [each.arm for each in files],
        first.valid,
        first.test,
        first.label_names,
        first.kind,
        settings["reference"],
        draws=settings["draws"],
        seed=settings["seed"],
    )

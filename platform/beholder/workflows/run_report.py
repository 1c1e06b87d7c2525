"""From the saved scores of a run to its results, figures and pages, in the run that wrote them or later."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from beholder.data.annotations import Annotations
from beholder.data.folds import scored
from beholder.evaluation.results import plain
from beholder.evaluation.run_results import Provenance, RunResults
from beholder.evaluation.saved_run import EvaluationSettings, read_results, recompute, settings_of
from beholder.evaluation.verdict import verdict
from beholder.execution import forgetting
from beholder.methods import is_personal
from beholder.report import figures
from beholder.report.groups import by_group
from beholder.report.page import write_reports
from beholder.util.atomic import atomic_write
from beholder.util.errors import DataError
from beholder.util.run_folder import RunFolder


def draw_report(
    folder: Path, settings: EvaluationSettings, made_from: Provenance, annotations: Annotations, split_by: str
) -> RunResults:
    """Evaluate a run from its saved scores, and write `users.parquet`, the figures, and the reports for people.

    Args:
        folder: of the run.
        settings: how it is evaluated.
        made_from: what the results begin with. What they hold besides is kept, and what is found here replaces it.
        annotations: all rows; see `folds.with_uses`.
        split_by: `split.by` of the experiment.
    """
    found = recompute(folder, settings)
    with atomic_write(RunFolder(folder).users) as temporary:
        pq.write_table(found.user_table(), temporary, compression="zstd")
    figures.write_figures(RunFolder(folder).figures, RunFolder(folder).user_figures, found)
    said = verdict(found, {arm.name for arm in found.arms if is_personal(arm.method)})
    test = annotations.select(scored(annotations, "test"))
    groups = by_group(found, found.arm(said.arm), test) if said.arm else []
    forgotten = forgetting.summary(folder)
    results = RunResults.from_json(
        {
            **made_from.to_json(),
            **found.to_json(),
            "groups": plain(groups),
            "verdict": said.to_json(),
            **({"forgetting": forgotten} if forgotten else {}),
        }
    )
    write_reports(folder, found, results, annotations, split_by)
    return results


def redraw_report(folder: Path) -> RunResults:
    """The same for a run that came to its end, from its folder alone.

    Raises:
        DataError: it did not, or its folder is damaged.
    """
    before, settings = read_results(folder), settings_of(folder)
    annotations = Annotations.read_parquet(RunFolder(folder).annotations)
    return draw_report(folder, settings, before, annotations, _split_by(folder))


def _split_by(folder: Path) -> str:
    try:
        return str(json.loads(RunFolder(folder).experiment.read_text())["split"]["by"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{RunFolder(folder).experiment}: damaged. Run the experiment again.") from error

"""The report of a run: what was asked, what came out, for whom, at what cost, and what it does not show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beholder.data.annotations import Annotations
from beholder.data.folds import parts_of, scored
from beholder.evaluation.arm_scores import ArmScores
from beholder.evaluation.results import ROUTED, Results
from beholder.evaluation.run_results import RunResults
from beholder.execution.arm import done
from beholder.report import figures, user_figures
from beholder.report.ceiling import Ceiling, best_achievable
from beholder.report.examples import changed_answers
from beholder.report.rendering import chart, write_page
from beholder.util.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = "report.html"
"""In the run's folder: maps numbers to people, so that it is erased with them."""
NAMELESS = "report-nameless.html"
"""For others: users are numbered, and no text is shown."""


def write_reports(
    folder: Path, results: Results, reported: RunResults, annotations: Annotations, split_by: str
) -> None:
    """Write a run's report into its folder, with names and without.

    Args:
        folder: of the run.
        results: of the run, with the scores.
        reported: the same as they are stored.
        annotations: all rows; see `folds.with_uses`.
        split_by: `split.by` of the experiment.
    """
    train = parts_of(annotations)["train"]
    valid, test = (annotations.select(scored(annotations, part)) for part in ("valid", "test"))
    chosen = results.arm(reported.verdict.arm) if reported.verdict.arm else None
    users = sorted(set(results.test.user_ids.astype(str).tolist()))
    ceiling = best_achievable(results, valid, test)
    drawn = {name: chart(figure) for name, figure in _figures(results, chosen, train, users, ceiling).items()}
    values = {
        "facts": reported,
        "results": reported,
        "verdict": reported.verdict,
        "groups": reported.groups,
        "split_by": split_by,
        "ceiling": ceiling,
        "routed": ROUTED,
        "cost_of": _costs(folder, results, train),
    }
    numbered = users if chosen is None else _numbered(users, results.user_log_loss_gains(chosen))
    for file, names, called in ((NAMED, True, users), (NAMELESS, False, numbered)):
        of_users = {name: chart(figure) for name, figure in _figures_of_users(results, chosen, users, called).items()}
        examples = changed_answers(results, chosen, test.texts.tolist()) if names and chosen else []
        write_page(folder / file, "report.html", names=names, charts=drawn | of_users, examples=examples, **values)


def _numbered(users: list[str], gained: np.ndarray) -> list[str]:
    """Names that say nothing but the place by gain."""
    place = np.empty(len(users), dtype=int)
    place[np.argsort(-gained, kind="stable")] = np.arange(1, len(users) + 1)
    return [f"reader {number}" for number in place]


def _figures(
    results: Results, chosen: ArmScores | None, train: Annotations, users: list[str], ceiling: Ceiling | None
) -> dict[str, Figure]:
    """Those in which nobody is named."""
    reference = results.reference_arm
    drawn = {
        "methods": figures.gain_per_method(results),
        "cost": figures.cost(results),
        "calibration-reference": figures.reliability_curve(results, reference),
    }
    if results.newcomers:
        drawn["newcomers"] = figures.adaptation_curve(results.newcomers)
    if chosen is None:
        return drawn
    names, counts = np.unique(train.user_ids.astype(str), return_counts=True)
    rows = dict(zip(names.tolist(), counts.tolist(), strict=True))
    given = np.asarray([rows.get(user, np.nan) for user in users])
    distance = user_figures.distance_from_model(reference, results.valid, users)
    drawn |= {
        "labels": figures.gain_per_label(results, chosen),
        "calibration": figures.reliability_curve(results, chosen),
    }
    if np.isfinite(given).any():  # not of people nothing was fitted on
        drawn["rows"] = user_figures.gain_against(
            results, chosen, given, "training judgements of the user", what="judgements given", logarithmic=True
        )
    if np.isfinite(distance).any():
        drawn["distance"] = user_figures.gain_against(
            results,
            chosen,
            distance,
            f"distance from {reference.name}: mean of |judgement - score|, validation",
            what="distance from the crowd",
        )
    if chosen.name in results.curves:
        drawn["curve"] = figures.learning_curve(results, chosen.name, ceiling and ceiling.points)
    return drawn


def _figures_of_users(
    results: Results, chosen: ArmScores | None, users: list[str], called: list[str]
) -> dict[str, Figure]:
    """Those that call users by some name."""
    if chosen is None:
        return {}
    leaning = user_figures.leanings(results.reference_arm, results, users)
    return {
        "users": figures.gain_per_user(results, chosen, called),
        "map": user_figures.disagreement_map(results, called, leaning),
    }


def _costs(folder: Path, results: Results, train: Annotations) -> dict[str, dict[str, int | None]]:
    """Bytes each arm took in memory (of the process that ended it), and takes on the disk: in all, and per user."""
    users = max(1, len(train.users))
    found: dict[str, dict[str, int | None]] = {}
    for arm in results.arms:
        at = RunFolder(folder).method(arm.name)
        sizes = {file: file.stat().st_size for file in at.rglob("*") if file.is_file()}
        own = sum(size for file, size in sizes.items() if file.is_relative_to(at / "bank"))
        peak = done(arm.name, folder).get("peak_mb")
        found[arm.name] = {
            "memory": peak and int(peak * 2**20),
            "all": sum(sizes.values()) or None,
            "user": own // users if own else None,
        }
    return found

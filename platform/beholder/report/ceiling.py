"""The best that could be reached, where a simulated source knows the chance of every judgement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beholder.data.annotations import Annotations
from beholder.data.task import tasks_of
from beholder.evaluation.headline import answers, headline
from beholder.evaluation.metrics import fit_thresholds
from beholder.evaluation.results import Results


@dataclass(frozen=True)
class Ceiling:
    """Macro-F1, as fractions, of an oracle that knows each reader's true probabilities (`readers`), or only their mean
    (`crowd`).

    `points`: how far `readers` is above the run's reference.
    """

    readers: float
    crowd: float
    points: float


def best_achievable(results: Results, valid: Annotations, test: Annotations) -> Ceiling | None:
    """What the truth itself would reach on the test rows, its thresholds chosen on validation.

    None where the truth is unknown, is of scales, or of several tasks, whose rows have that of their own labels only.

    Args:
        results: of the run.
        valid, test: its rows in the order of the scores, with the context columns `truth` and `truth_global`.
    """
    known = {"truth", "truth_global"} <= set(test.context_columns)
    if results.task.scales or tasks_of(results.label_names) or not known:
        return None

    def reached(column: str) -> float:
        on_valid, on_test = (np.asarray(rows.column(column), dtype=np.float32) for rows in (valid, test))
        thresholds = fit_thresholds(on_valid, results.valid.labels, results.kind)
        return headline(answers(on_test, thresholds, results.task), results.test.labels, results.task)

    readers, crowd = reached("truth"), reached("truth_global")
    reference = results.headline(results.reference_arm)
    return Ceiling(readers, crowd, 100 * (readers - reference))

"""Whether some groups of readers or texts gain, and others pay."""

from __future__ import annotations

from typing import Any

import numpy as np

from beholder.data.annotations import GROUP, Annotations
from beholder.data.folds import USES
from beholder.evaluation.arm_scores import ArmScores
from beholder.evaluation.gains import gains
from beholder.evaluation.headline import headline
from beholder.evaluation.results import Results

MOST = 12
"""A column with more values than this does not tell groups."""
FEWEST_ROWS = 30
"""A group with fewer test rows than this is left out: it is too small to measure."""
OURS = ("part", USES, GROUP, "split", "official_split", "truth", "truth_global")


AGREEMENT = "agreement on the text"
LEVELS = ((1.0, "all agree"), (0.75, "three in four agree"), (0.0, "fewer agree"))
"""Of the judgements of a text, the share that agrees with most: its lower end, and its name."""


def agreement(rows: Annotations) -> list[str]:
    """How far those who judged a row's text agree, of `LEVELS`; "" for texts of one judgement. [rows]

    The share of the commoner answer, a mean over labels. Where labels differ is where a global model has to be wrong
    about somebody (Plank 2022, EMNLP, "The 'problem' of human label variation").
    """
    asked, given = ~np.isnan(rows.labels), rows.labels >= 0.5
    _, text = np.unique(rows.same_texts.astype(str), return_inverse=True)
    counts, yes = (
        np.stack([np.bincount(text, column) for column in each.T], axis=1) for each in (asked, given & asked)
    )
    share = np.where(counts > 0, np.maximum(yes, counts - yes) / np.maximum(counts, 1), np.nan)
    of_text = np.full(len(counts), np.nan)
    several = (counts > 1).any(axis=1)
    of_text[several] = np.nanmean(np.where(counts > 1, share, np.nan)[several], axis=1)
    names = [next((name for least, name in LEVELS if each >= least - 1e-9), "") for each in of_text]
    return [names[each] for each in text]


def by_group(results: Results, arm: ArmScores, test: Annotations) -> list[dict[str, Any]]:
    """Macro-F1 and gain in every group of a context column, and by how far people agree on the text.

    Args:
        results, arm: whose gain.
        test: the test rows, in the order of the scores, with their context columns.

    Returns:
        For each column `column`, `of` (readers, or texts), `groups` (each `name`, `rows`, `users`, `reference`, `score`
        and `points`, `low`, `high`) and `gap`, the largest difference between groups in the method's macro-F1, in
        points. `reference_gap` is the same of the reference.
    """
    found = []
    users = results.test.user_ids.astype(str)
    columns = {name: test.column(name) for name in test.context_columns if name not in OURS}
    for column, written in {AGREEMENT: agreement(test), **columns}.items():
        values = np.asarray([_written(value) for value in written], dtype=object)
        names, counts = np.unique(values[values != ""].astype(str), return_counts=True)
        names = [name for name, count in zip(names.tolist(), counts.tolist(), strict=True) if count >= FEWEST_ROWS]
        if not len(names) >= 2 or len(set(values.tolist())) > MOST:
            continue
        if column == AGREEMENT:
            names.sort(key=[name for _, name in LEVELS].index)
        groups = [_group(results, arm, name, np.flatnonzero(values == name)) for name in names]
        pairs = set(zip(users.tolist(), values.tolist(), strict=True))
        of_readers = len(pairs) == len(set(users.tolist()))
        found.append(
            {
                "column": column,
                "of": "readers" if of_readers else "judgements",
                "groups": groups,
                "gap": _gap(groups, "score"),
                "reference_gap": _gap(groups, "reference"),
            }
        )
    return found


def _group(results: Results, arm: ArmScores, name: str, rows: np.ndarray) -> dict[str, Any]:
    test = results.test
    predicted = {each.name: results.answers(each)[:, rows] for each in (results.reference_arm, arm)}
    labels = test.labels[rows]

    def score(name: str) -> float:
        return float(np.mean([headline(each, labels, results.task) for each in predicted[name]]))

    gain = gains(
        predicted,
        results.reference,
        labels,
        test.texts[rows],
        test.user_ids[rows],
        level=results.level,
        task=results.task,
    )[arm.name]
    return {
        "name": name,
        "rows": len(rows),
        "users": len(set(test.user_ids[rows].tolist())),
        "reference": score(results.reference),
        "score": score(arm.name),
        "points": gain.points,
        "low": gain.low,
        "high": gain.high,
    }


def _gap(groups: list[dict[str, Any]], key: str) -> float:
    scores = [group[key] for group in groups if group[key] == group[key]]  # a group without a positive has none
    return 100 * (max(scores) - min(scores)) if scores else float("nan")


def _written(value: Any) -> str:
    return "" if value is None else str(value).strip() if not isinstance(value, list) else "..."

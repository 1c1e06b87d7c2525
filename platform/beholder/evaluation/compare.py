"""Methods of several runs side by side, on the same rows, with p-values corrected for looking at many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beholder.errors import DataError, unknown
from beholder.evaluation.gains import Gain, gains, holm, user_gains
from beholder.evaluation.metrics import macro_f1
from beholder.evaluation.report import read_results, same_rows, settings_of
from beholder.evaluation.results import ArmScores
from beholder.evaluation.scores_file import ScoresFile, read_scores

PRIORS = ("prior", "user-prior")


@dataclass(frozen=True)
class Row:
    """A method of a run.

    Attributes:
        run, arm, method: which; `control_of` names the arm it is the control of.
        base: of the run.
        macro_f1: a fraction.
        points, low, high, texts_low, texts_high: the gain over the reference and its intervals; see `gains.Interval`.
        p: two-sided; None for the reference. `p_holm`: corrected for the number of methods compared; None for those
            that nobody asks about: priors, which never see the text, controls, and twins of the reference.
        better, worse, same: users, held against the reference.
        seconds: to fit and score.
    """

    run: str
    arm: str
    method: str
    control_of: str | None
    base: str
    macro_f1: float
    points: float
    low: float
    high: float
    texts_low: float
    texts_high: float
    p: float | None
    p_holm: float | None
    better: int
    worse: int
    same: int
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Methods of runs on the same test rows, the reference first, then as in the runs."""

    reference: str
    rows: tuple[Row, ...]
    test_rows: int
    users: int
    texts: int
    split: str
    level: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "reference": self.reference,
            "test_rows": self.test_rows,
            "users": self.users,
            "texts": self.texts,
            "split_hash": self.split,
            "level": self.level,
            "correction": "holm",
            "methods": [
                {
                    key: None if isinstance(value, float) and not math.isfinite(value) else value
                    for key, value in asdict(row).items()
                }
                for row in self.rows
            ],
        }


def compare(folders: Sequence[Path], reference: str | None = None) -> Comparison:
    """Hold all methods of some runs against one of them, on the test rows they share.

    Args:
        folders: of the runs, each once.
        reference: an arm of the first run, or `RUN:ARM`; that of the first run where None.

    The level of intervals is that of the first run; a run compared with itself alone says what its report says.

    Raises:
        DataError: the runs were tested on other rows, labels or kinds of task, or there is no such reference.
    """
    facts = [read_results(folder) for folder in folders]
    for folder, fact in zip(folders[1:], facts[1:], strict=True):
        if fact["split"]["hash"] != facts[0]["split"]["hash"]:
            raise DataError(
                f"{folder.name} cannot be compared with {folders[0].name}: {_why(facts[0]['data'], fact['data'])}. "
                "Compare runs of the same data, labels and split."
            )
    files: dict[tuple[str, str], ScoresFile] = {}
    bases: dict[str, str] = {}
    for folder, fact in zip(folders, facts, strict=True):
        bases[folder.name] = fact["base"]
        for arm in settings_of(folder).arms:
            files[folder.name, arm] = read_scores(folder / "scores" / f"{arm}.parquet")
    first_run, first = folders[0].name, next(iter(files.values()))
    for (run, _), file in files.items():
        if not same_rows(first, file):
            raise DataError(f"{run} cannot be compared with {first_run}: it was scored on other rows or labels.")
    level = settings_of(folders[0]).level
    chosen = _reference(reference, first_run, facts[0]["reference"], list(files))
    test, kind = first.test, first.kind
    decisions = {place: file.arm.test_decisions(kind) for place, file in files.items()}
    named = {":".join(place): decided for place, decided in decisions.items()}
    found = gains(named, ":".join(chosen), test.labels, test.texts, test.user_ids, level=level)
    others = [place for place in files if place != chosen]
    twins = {place for place in others if np.array_equal(decisions[place], decisions[chosen])}
    asked = [place for place in others if _is_asked_about(files[place].arm) and place not in twins]
    corrected = dict(zip(asked, holm([found[":".join(place)].p or 0.0 for place in asked]), strict=True))
    rows = []
    for place in [chosen, *others]:
        gain, arm = found[":".join(place)], files[place].arm
        by_user = user_gains(decisions[place], decisions[chosen], test.labels, test.user_ids)
        better, worse, same = (int(each.sum()) for each in (by_user > 0, by_user < 0, by_user == 0))
        rows.append(
            Row(
                *place,
                arm.method,
                arm.control_of,
                bases[place[0]],
                macro_f1(decisions[place], test.labels),
                gain.points,
                gain.low,
                gain.high,
                gain.texts_low,
                gain.texts_high,
                gain.p,
                corrected.get(place),
                better,
                worse,
                same,
                arm.seconds,
            )
        )
    users = len(np.unique(test.user_ids.astype(str)))
    split = facts[0]["split"]["hash"]
    texts = len(np.unique(test.texts.astype(str)))
    return Comparison(":".join(chosen), tuple(rows), len(test.labels), users, texts, split, level)


def surely_worse(one: Path, other: Path, level: float = 0.95) -> Gain | None:
    """What one file of scores gains over another on their test rows, where that is surely a loss among people at large.

    None where it is not, or where the two are of other rows or labels. Raises DataError: a file cannot be read.
    """
    mine, theirs = read_scores(one), read_scores(other)
    if not same_rows(mine, theirs):
        return None
    decisions = {"mine": mine.arm.test_decisions(mine.kind), "theirs": theirs.arm.test_decisions(mine.kind)}
    test = mine.test
    gain = gains(decisions, "theirs", test.labels, test.texts, test.user_ids, level=level)["mine"]
    return gain if gain.high < 0 else None


def _is_asked_about(arm: ArmScores) -> bool:
    """Whether an arm belongs to the family of comparisons that p-values are corrected for."""
    return arm.control_of is None and arm.method not in PRIORS


def _why(one: dict[str, Any], other: dict[str, Any]) -> str:
    """In which way two runs differ that were not split alike."""
    if one["labels"] != other["labels"]:
        return f"its labels are {', '.join(other['labels'])}, not {', '.join(one['labels'])}"
    if one["kind"] != other["kind"]:
        return f"its task is {other['kind']}, not {one['kind']}"
    if one["fingerprint"] != other["fingerprint"]:
        return "it is of other judgements (other data, limits or label rules)"
    return "the same judgements were split otherwise (split: of the experiment)"


def _reference(asked: str | None, run: str, default: str, known: Sequence[tuple[str, str]]) -> tuple[str, str]:
    if asked is None:
        return run, default
    of_run, colon, arm = asked.rpartition(":")
    place = (of_run if colon else run, arm)
    if place not in known:
        raise DataError(f"--reference: {unknown('method', asked, [':'.join(each) for each in known])}")
    return place

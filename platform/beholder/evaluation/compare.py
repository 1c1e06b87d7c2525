"""Methods of several runs side by side, on the same rows, with p-values corrected for looking at many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from beholder.evaluation.arm_scores import ArmScores
from beholder.evaluation.gains import Gain, gains, holm
from beholder.evaluation.intervals import p_in_words
from beholder.evaluation.results import Results, evaluate
from beholder.evaluation.run_results import DataResult
from beholder.evaluation.saved_run import read_results, same_rows, settings_of
from beholder.evaluation.scores_io import ScoresFile, read_scores
from beholder.evaluation.summary import gain_rows, heading
from beholder.evaluation.verdict import Verdict, verdict
from beholder.util.errors import DataError, unknown
from beholder.util.run_folder import RunFolder
from beholder.util.tables import RowTable

PRIORS = ("prior", "user-prior")


@dataclass(frozen=True)
class ComparedArm:
    """A method of a run: `method` and `control_of` (an arm of the same run) as in its results, and the run's `base`.

    `p_holm`: its p-value corrected for the number of methods compared; None for those that nobody asks about: the
    reference, priors, which never see the text, controls, and twins of the reference.
    """

    run: str
    arm: str
    method: str
    control_of: str | None
    base: str
    p_holm: float | None


@dataclass(frozen=True, repr=False)
class Comparison:
    """Methods of runs on the same test rows, the reference first, then as in the runs.

    Attributes:
        results: of all of them, each called `RUN:ARM`, with everything a run's own results have.
        verdict: what they say of personalisation.
        rows: whose they are.
        split: the hash of the split they share.
    """

    results: Results
    verdict: Verdict
    rows: tuple[ComparedArm, ...]
    split: str

    def to_json(self) -> dict[str, Any]:
        """Plain values; gains of a method beside its name, as `points`, `low`, `high` and so on."""
        whole = self.results.to_json()
        kept = ("reference", "users", "texts", "commonest_text", "level", "worthwhile", "metric", "trainings")
        shared = {key: whole[key] for key in kept if key in whole}
        return {
            **shared,
            "test_rows": whole["rows"],
            "split_hash": self.split,
            "correction": "holm",
            "verdict": self.verdict.to_json(),
            "methods": [_flat(row, whole["methods"][f"{row.run}:{row.arm}"]) for row in self.rows],
        }

    def table(self) -> list[dict[str, Any]]:
        """The methods with a value in each cell: `log_loss.gain` and the like for what is nested."""
        rows = [_columns(method) for method in self.to_json()["methods"]]
        names = dict.fromkeys(name for row in rows for name in row)
        nested = {name.partition(".")[0] for name in names if "." in name}
        empty = {name for name in nested if all(row.get(name) is None for row in rows)}  # of methods without a control
        return [{name: row.get(name) for name in names if name not in empty} for row in rows]

    def _shown(self) -> RowTable:
        found = self.results.summary()
        rows = gain_rows(found)
        for shown, row in zip(rows, self.rows, strict=True):
            shown["p (Holm)"] = "" if row.p_holm is None else p_in_words(row.p_holm)
        return RowTable(rows, heading(found), self.verdict.sentence)

    def __repr__(self) -> str:
        return str(self._shown())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self._shown()._repr_html_()


def compare(
    folders: Sequence[Path], reference: str | None = None, personal: Callable[[str], bool] = lambda _: False
) -> Comparison:
    """Hold all methods of some runs against one of them, on the test rows they share.

    Args:
        folders: of the runs, each once.
        reference: an arm of the first run, or `RUN:ARM`; that of the first run where None.
        personal: whether a method of that name learns of the reader.

    Where one run trained each method more often than another, the first trainings of each are compared, as many as all
    have. The level of intervals is that of the first run, and so is what gain is worth having; a run compared with
    itself alone gives the numbers of its report.

    Raises:
        DataError: the runs were tested on other rows, labels or kinds of task, or there is no such reference.
    """
    facts = [read_results(folder) for folder in folders]
    for folder, fact in zip(folders[1:], facts[1:], strict=True):
        if fact.split.hash != facts[0].split.hash:
            raise DataError(
                f"{folder.name} cannot be compared with {folders[0].name}: {_why(facts[0].data, fact.data)}. "
                "Compare runs of the same data, labels and split."
            )
    files: dict[tuple[str, str], ScoresFile] = {}
    bases: dict[str, str] = {}
    for folder, fact in zip(folders, facts, strict=True):
        bases[folder.name] = fact.base
        for arm in settings_of(folder).arms:
            files[folder.name, arm] = read_scores(RunFolder(folder).scores(arm))
    first_run, first = folders[0].name, next(iter(files.values()))
    for (run, _), file in files.items():
        if not same_rows(first, file):
            raise DataError(f"{run} cannot be compared with {first_run}: it was scored on other rows or labels.")
    settings = settings_of(folders[0])
    chosen = _reference(reference, first_run, facts[0].reference, list(files))
    places = [chosen, *(place for place in files if place != chosen)]
    trainings = min(len(file.arm.trainings) for file in files.values())
    arms = {place: _named(files[place].arm, place[0]).first(trainings) for place in places}
    results = evaluate(
        list(arms.values()),
        first.valid,
        first.test,
        first.task,
        ":".join(chosen),
        level=settings.level,
        worthwhile=settings.worthwhile,
    )
    predicted = results.answers(results.reference_arm)
    twins = {place for place, arm in arms.items() if np.array_equal(results.answers(arm), predicted)}
    p_values = {
        place: p
        for place, arm in arms.items()
        if _is_asked_about(arm) and place not in twins and (p := results.gains[arm.name].p) is not None
    }
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    rows = tuple(
        ComparedArm(*place, file.arm.method, file.arm.control_of, bases[place[0]], corrected.get(place))
        for place, file in ((place, files[place]) for place in places)
    )
    said = verdict(results, {arm.name for arm in arms.values() if personal(arm.method)})
    return Comparison(results, said, rows, facts[0].split.hash)


def surely_worse(one: Path, other: Path, level: float = 0.95) -> Gain | None:
    """What one file of scores gains over another on their test rows, where that is surely a loss among people at large.

    None where it is not, or where the two are of other rows or labels. Raises DataError: a file cannot be read.
    """
    mine, theirs = read_scores(one), read_scores(other)
    if not same_rows(mine, theirs):
        return None
    predicted = {"mine": mine.arm.test_answers(mine.task), "theirs": theirs.arm.test_answers(mine.task)}
    test = mine.test
    gain = gains(predicted, "theirs", test.labels, test.texts, test.user_ids, level=level, task=mine.task)["mine"]
    return gain if gain.high < 0 else None


def _named(arm: ArmScores, run: str) -> ArmScores:
    """The same, called as it is among those of several runs."""
    control_of = f"{run}:{arm.control_of}" if arm.control_of else None
    return replace(arm, name=f"{run}:{arm.name}", control_of=control_of)


def _flat(row: ComparedArm, method: dict[str, Any]) -> dict[str, Any]:
    """A method's results with its gain beside its name, and called as in its run."""
    left_out = ("gain", "users", "per_label", "per_label_gain", "scales", "per_task", "per_task_gain")
    kept = {key: value for key, value in method.items() if key not in left_out}
    return asdict(row) | kept | method["gain"] | method["users"] | asdict(row)


def _columns(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested values as columns, `measures.log_loss.gain` as `log_loss.gain`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        found |= _columns(value, "" if key == "measures" else f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def _is_asked_about(arm: ArmScores) -> bool:
    """Whether an arm belongs to the family of comparisons that p-values are corrected for."""
    return arm.control_of is None and arm.method not in PRIORS


def _why(one: DataResult, other: DataResult) -> str:
    """In which way two runs differ that were not split alike."""
    if one.labels != other.labels:
        return f"its labels are {', '.join(other.labels)}, not {', '.join(one.labels)}"
    if one.kind != other.kind:
        return f"its task is {other.kind}, not {one.kind}"
    if one.fingerprint != other.fingerprint:
        return "it is of other judgements (other data, subsample or label rules)"
    return "the same judgements were split otherwise (split: of the experiment)"


def _reference(asked: str | None, run: str, default: str, known: Sequence[tuple[str, str]]) -> tuple[str, str]:
    if asked is None:
        return run, default
    of_run, colon, arm = asked.rpartition(":")
    place = (of_run if colon else run, arm)
    if place not in known:
        raise DataError(f"--reference: {unknown('arm', asked, [':'.join(each) for each in known])}")
    return place

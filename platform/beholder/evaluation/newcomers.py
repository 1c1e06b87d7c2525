"""What somebody gains from their first judgements: people whom no arm was fitted on, after 0, 1, 2, 5, ... of theirs.

Log-loss per asked label is what is followed, in nats: a proper score, so that it shows every change of a prediction,
where macro-F1 shows those that cross a threshold. Macro-F1 stands beside it, under the arm's own thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beholder.data.task import Task
from beholder.evaluation.gains import gains
from beholder.evaluation.headline import answers, headline
from beholder.evaluation.intervals import Mean, clustered_mean
from beholder.evaluation.metrics import Floats, log_losses
from beholder.util.errors import DataError, unknown

CELL_OF = {
    "unseen": {
        "seen_both": ("seen", "seen"),
        "seen_people": ("seen", "unseen"),
        "seen_texts": ("new", "seen"),
        "test": ("new", "unseen"),
    },
    "seen": {"seen_both": ("seen", "seen"), "test": ("new", "seen"), "unseen_texts": ("new", "unseen")},
}
"""`split.texts` -> part -> whether its people, and its texts, were seen in training."""


@dataclass(frozen=True)
class NewcomerScores:
    """An arm's scores of the rows of a split by people that measure newcomers, every row once for each k.

    Attributes:
        arm, method, control_of, thresholds: see `results.ArmScores`.
        task: whose labels these are.
        part: str [rows].
        k: int64 [rows], how many judgements of each new person the arm was adapted on; 0 for people seen in training,
            and for all rows of an arm that cannot be adapted.
        given: int64 [rows], how many these were of the row's person, who may have fewer.
        text_ids, user_ids: str [rows]; texts that are equal after normalisation have the same id here.
        labels, scores: float32 [rows, labels].
    """

    arm: str
    method: str
    control_of: str | None
    thresholds: NDArray[np.float32]
    task: Task
    part: NDArray[np.object_]
    k: NDArray[np.int64]
    given: NDArray[np.int64]
    text_ids: NDArray[np.object_]
    user_ids: NDArray[np.object_]
    labels: NDArray[np.float32]
    scores: NDArray[np.float32]

    def at(self, part: str, k: int) -> NewcomerScores:
        """The rows of one part at one k."""
        rows = np.flatnonzero((self.part == part) & (self.k == k))
        columns = ("part", "k", "given", "text_ids", "user_ids", "labels", "scores")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def steps(self, part: str) -> list[int]:
        """Every k at which a part was scored, rising."""
        return np.unique(self.k[self.part == part]).tolist()


@dataclass(frozen=True)
class NewcomerScore:
    """An arm on some rows.

    Attributes:
        k: judgements of each person it was adapted on; None for people seen in training.
        people, rows: of the rows.
        with_k: people among them who had k judgements to give; the others gave all they have.
        log_loss: mean per asked label, nats.
        over_global: what it is below the reference's, which is adapted to nobody; None for the reference at 0.
        over_zero: what it is below the arm's own at k = 0; None at 0.
        macro_f1: a fraction.
        macro_f1_gain: over the reference in percentage points, with the interval of `gains.gains`.
    """

    k: int | None
    people: int
    with_k: int
    rows: int
    log_loss: Mean
    over_global: Mean | None
    over_zero: Mean | None
    macro_f1: float
    macro_f1_gain: Mean

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "k": self.k,
            "people": self.people,
            "people_with_k": self.with_k,
            "rows": self.rows,
            "log_loss": self.log_loss.value,
            "low": self.log_loss.low,
            "high": self.log_loss.high,
            "gain_over_global": self.over_global and self.over_global.to_json(),
            "gain_over_zero": self.over_zero and self.over_zero.to_json(),
            "macro_f1": self.macro_f1,
            "macro_f1_gain": {
                "points": self.macro_f1_gain.value,
                "low": self.macro_f1_gain.low,
                "high": self.macro_f1_gain.high,
            },
        }


@dataclass(frozen=True)
class Cell:
    """Arms on rows of one kind: `people` seen in training or new, `texts` seen in training or unseen."""

    people: str
    texts: str
    arms: dict[str, tuple[NewcomerScore, ...]]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        arms = {name: [each.to_json() for each in measured] for name, measured in self.arms.items()}
        return {"people": self.people, "texts": self.texts, "methods": arms}


@dataclass(frozen=True)
class Newcomers:
    """Adaptation curves on the test rows, and the table of seen and unseen.

    Attributes:
        reference: the global model.
        controls: arms that are controls of others.
        curves: arm -> the test rows at each k; one point only for an arm that cannot be adapted.
        cells: seen and unseen people and texts; new people at the first and the last k.
    """

    reference: str
    controls: frozenset[str]
    curves: dict[str, tuple[NewcomerScore, ...]]
    cells: tuple[Cell, ...]

    def to_json(self) -> dict[str, Any]:
        """What results say: `newcomers` and `seen_unseen`."""
        return {
            "newcomers": {name: [each.to_json() for each in curve] for name, curve in self.curves.items()},
            "seen_unseen": [cell.to_json() for cell in self.cells],
        }


def measure_newcomers(
    arms: Sequence[NewcomerScores],
    reference: str,
    texts: str,
    *,
    level: float = 0.95,
) -> Newcomers:
    """Measure every arm on people it was not fitted on, and on the other cells of a split by people.

    Args:
        arms: the scores of each.
        reference: the arm that gains are over, at k = 0.
        texts: `split.texts`, whether test texts were seen in training.
        level: of all intervals.

    Raises:
        DataError: no arm is called `reference`, or the arms were scored on different rows.
    """
    names = [arm.arm for arm in arms]
    if reference not in names:
        raise DataError(f"evaluate.reference: {unknown('arm', reference, names)}")

    def measured(part: str, ends_only: bool, new: bool) -> dict[str, tuple[NewcomerScore, ...]]:
        return _part(arms, reference, part, ends_only, new, level)

    present = set(arms[0].part.tolist())
    cells = {part: cell for part, cell in CELL_OF[texts].items() if part in present}
    return Newcomers(
        reference,
        frozenset(arm.arm for arm in arms if arm.control_of is not None),
        measured("test", ends_only=False, new=True),
        tuple(
            Cell(people, which, measured(part, ends_only=True, new=people == "new"))
            for part, (people, which) in cells.items()
        ),
    )


def _part(
    arms: Sequence[NewcomerScores], reference: str, part: str, ends_only: bool, new: bool, level: float
) -> dict[str, tuple[NewcomerScore, ...]]:
    """Every arm on the rows of one part, at every k or at the first and the last."""
    scored: dict[tuple[str, int], NewcomerScores] = {}
    for arm in arms:
        steps = arm.steps(part)
        for k in sorted({steps[0], steps[-1]}) if ends_only else steps:
            scored[arm.arm, k] = arm.at(part, k)
    first = scored[reference, 0]
    for (name, _), each in scored.items():
        same = all(
            np.array_equal(mine, theirs)
            for mine, theirs in ((each.text_ids, first.text_ids), (each.user_ids, first.user_ids))
        )
        if not same or not np.array_equal(each.labels, first.labels, equal_nan=True):
            raise DataError(f"{name} was scored on other {part} rows than {reference}. Run the experiment again.")
    task = first.task
    predicted = {f"{name}@{k}": answers(each.scores, each.thresholds, task) for (name, k), each in scored.items()}
    over = gains(predicted, f"{reference}@0", first.labels, first.text_ids, first.user_ids, level=level, task=task)
    losses = {key: log_losses(each.scores, each.labels, task.kind) for key, each in scored.items()}

    def mean(sums: Floats, counts: Floats) -> Mean:
        return clustered_mean(sums, counts, first.user_ids, first.text_ids, level)

    found: dict[str, list[NewcomerScore]] = {}
    people = np.unique(first.user_ids.astype(str))
    for (name, k), each in scored.items():
        sums, counts = losses[name, k]
        gain = over[f"{name}@{k}"]
        found.setdefault(name, []).append(
            NewcomerScore(
                k=k if new else None,
                people=len(people),
                with_k=len(set(each.user_ids[each.given >= k].tolist())),
                rows=len(each.labels),
                log_loss=mean(sums, counts),
                over_global=None if (name, k) == (reference, 0) else mean(losses[reference, 0][0] - sums, counts),
                over_zero=None if k == 0 else mean(losses[name, 0][0] - sums, counts),
                macro_f1=headline(predicted[f"{name}@{k}"], each.labels, task),
                macro_f1_gain=Mean(gain.points, gain.low, gain.high),
            )
        )
    return {name: tuple(each) for name, each in found.items()}

"""Predictions for users as Python callers have them: arrays with names, and a data frame where one is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from beholder.data.conversions import require_pandas
from beholder.data.scales import Scale
from beholder.data.task import Task
from beholder.methods.base import Scores
from beholder.util.errors import counted
from beholder.util.tables import RowTable

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20
"""Rows that a notebook or a terminal shows."""
Floats = NDArray[np.float64]


class _OnScales:
    """Answers on the scales of a task, from the scores of its labels."""

    task: Task
    scores: Scores

    @property
    def labels(self) -> tuple[str, ...]:
        """Names, in the order of the last axis of `scores`; an answer on a scale is in several of them."""
        return self.task.labels

    @property
    def values(self) -> dict[str, Floats]:
        """Scale -> the expected answer in the unit of the scale: float64, of the shape of `scores` but for labels."""
        return {scale.name: scale.mean(scores) for scale, scores in self._by_scale()}

    @property
    def intervals(self) -> dict[str, tuple[Floats, Floats]]:
        """Scale -> ends of an interval that holds the answer with a probability of 90 %; shaped like `values`."""
        return {scale.name: scale.interval(scores) for scale, scores in self._by_scale()}

    def _by_scale(self) -> list[tuple[Scale, Scores]]:
        return [
            (question.scale, self.scores[..., list(question.columns)])
            for question in self.task.questions
            if question.scale
        ]

    def _plain(self) -> list[tuple[int, str]]:
        """Position and name of the labels that are of no scale."""
        return [(place, label) for place, label in enumerate(self.labels) if not self.task.scaled[place]]

    def _columns(self, decisions: NDArray[np.bool_]) -> dict[str, Any]:
        """Columns of a data frame with a row for each text and user."""
        columns: dict[str, Any] = {}
        for kind, found in (("score", self.scores), ("given", decisions)):
            columns |= {f"{kind}.{label}": found[..., place].ravel() for place, label in self._plain()}
        intervals = self.intervals
        for name, value in self.values.items():
            ends = zip(("value", "low", "high"), (value, *intervals[name]), strict=True)
            columns |= {f"{kind}.{name}": found.ravel() for kind, found in ends}
        return columns


@dataclass(frozen=True, repr=False)
class UserPredictions(_OnScales):
    """What users would say of texts, a row for each pair.

    Attributes:
        texts, users: of each row.
        task: labels in the order of the columns, and the scales some of them belong to.
        scores: float32 [rows, labels] in 0..1.
        decisions: bool [rows, labels]: the labels predicted.
        routes: the method that answered each row.
        known: bool [rows]: whether the user's own judgements were learned from. Others get the global model's answer.
    """

    texts: list[str]
    users: list[str]
    task: Task
    scores: Scores
    decisions: NDArray[np.bool_]
    routes: list[str]
    known: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.texts)

    def to_pandas(self) -> pd.DataFrame:
        """Columns `text`, `user_id`, `score.LABEL` and `given.LABEL` for each label, `route` and `known`.

        In place of the labels of a scale: `value.SCALE`, and the ends `low.SCALE` and `high.SCALE` of its interval.

        Raises:
            DataError: pandas is not installed.
        """
        require_pandas("scores and decisions")
        import pandas as pd

        columns: dict[str, Any] = {"text": self.texts, "user_id": self.users, **self._columns(self.decisions)}
        return pd.DataFrame({**columns, "route": self.routes, "known": self.known})

    def _table(self) -> RowTable:
        """Without the texts: what is shown in a notebook is kept in it."""
        plain, values, intervals = self._plain(), self.values, self.intervals
        places = [place for place, _ in plain]
        names = np.asarray([label for _, label in plain], dtype=object)
        rows = []
        for row in range(min(len(self), SHOWN)):
            shown: dict[str, Any] = {"row": row, "user": self.users[row]}
            shown |= {label: f"{self.scores[row, place]:.2f}" for place, label in plain}
            for name, (low, high) in intervals.items():
                shown[name] = f"{values[name][row]:.2f} ({low[row]:.4g} to {high[row]:.4g})"
            if plain:
                shown["predicted"] = ", ".join(names[self.decisions[row, places]])
            rows.append({**shown, "route": self.routes[row]})
        more = len(self) - len(rows)
        notes = ["scales: expected answer (90 % interval)"] if values and rows else []
        notes += [f"{more:,} more rows; see .to_pandas()"] if more else []
        return RowTable(rows, note="; ".join(notes))

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


@dataclass(frozen=True, repr=False)
class Perspectives(_OnScales):
    """What each of some users would say of each of some texts.

    Attributes:
        texts, users: along the first two axes.
        task: labels along the third axis, and the scales some of them belong to.
        scores: float32 [texts, users, labels] in 0..1.
        decisions: bool [texts, users, labels].
    """

    texts: list[str]
    users: list[str]
    task: Task
    scores: Scores
    decisions: NDArray[np.bool_]

    def to_pandas(self) -> pd.DataFrame:
        """A row for each text and user: `text`, `user_id`, `score.LABEL` and `given.LABEL` for each label.

        In place of the labels of a scale: `value.SCALE`, and the ends `low.SCALE` and `high.SCALE` of its interval.

        Raises:
            DataError: pandas is not installed.
        """
        require_pandas("scores and decisions")
        import pandas as pd

        columns: dict[str, Any] = {
            "text": [text for text in self.texts for _ in self.users],
            "user_id": self.users * len(self.texts),
        }
        return pd.DataFrame({**columns, **self._columns(self.decisions)})

    def _table(self) -> RowTable:
        """How far users are apart, by label and scale: over all texts, without any of them."""
        questions = [(label, self.scores[..., place], self.decisions[..., place]) for place, label in self._plain()]
        questions += [(name, value, None) for name, value in self.values.items()]
        rows = [
            {
                "label or scale": name,
                "lowest": float(found.min()) if found.size else None,
                "mean": float(found.mean()) if found.size else None,
                "highest": float(found.max()) if found.size else None,
                "given by": f"{100 * given.mean():.0f} %" if given is not None and given.size else "",
            }
            for name, found, given in questions
        ]
        return RowTable(rows, f"{counted(len(self.users), 'user')} on {counted(len(self.texts), 'text')}")

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()

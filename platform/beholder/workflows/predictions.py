"""Predictions for users as Python callers have them: arrays with names, and a data frame where one is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from beholder.data.conversions import require_pandas
from beholder.methods.base import Scores
from beholder.util.errors import counted
from beholder.util.tables import RowTable

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20
"""Rows that a notebook or a terminal shows."""


@dataclass(frozen=True, repr=False)
class RowPredictions:
    """What users would say of texts, a row for each pair.

    Attributes:
        texts, users: of each row.
        labels: names, in the order of the columns.
        scores: float32 [rows, labels] in 0..1.
        decisions: bool [rows, labels]: the labels predicted.
        routes: the method that answered each row.
        known: bool [rows]: whether the user's own judgements were learned from. Others get the global model's answer.
    """

    texts: list[str]
    users: list[str]
    labels: tuple[str, ...]
    scores: Scores
    decisions: NDArray[np.bool_]
    routes: list[str]
    known: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.texts)

    def to_pandas(self) -> pd.DataFrame:
        """Columns `text`, `user_id`, `score.LABEL` and `given.LABEL` for each label, `route` and `known`.

        Raises:
            DataError: pandas is not installed.
        """
        require_pandas("scores and decisions")
        import pandas as pd

        columns: dict[str, Any] = {"text": self.texts, "user_id": self.users}
        for kind, values in (("score", self.scores), ("given", self.decisions)):
            columns |= {f"{kind}.{label}": values[:, place] for place, label in enumerate(self.labels)}
        return pd.DataFrame({**columns, "route": self.routes, "known": self.known})

    def _table(self) -> RowTable:
        """Without the texts: what is shown in a notebook is kept in it."""
        names = np.asarray(self.labels, dtype=object)
        rows = [
            {
                "row": row,
                "user": self.users[row],
                **{label: f"{self.scores[row, place]:.2f}" for place, label in enumerate(self.labels)},
                "predicted": ", ".join(names[self.decisions[row]]),
                "route": self.routes[row],
            }
            for row in range(min(len(self), SHOWN))
        ]
        more = len(self) - len(rows)
        return RowTable(rows, note=f"{more:,} more rows; see .to_pandas()" if more else "")

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


@dataclass(frozen=True, repr=False)
class Perspectives:
    """What each of some users would say of each of some texts.

    Attributes:
        texts, users, labels: along the three axes.
        scores: float32 [texts, users, labels] in 0..1.
        decisions: bool [texts, users, labels].
    """

    texts: list[str]
    users: list[str]
    labels: tuple[str, ...]
    scores: Scores
    decisions: NDArray[np.bool_]

    def to_pandas(self) -> pd.DataFrame:
        """A row for each text and user: `text`, `user_id`, `score.LABEL` and `given.LABEL` for each label.

        Raises:
            DataError: pandas is not installed.
        """
        require_pandas("scores and decisions")
        import pandas as pd

        columns: dict[str, Any] = {
            "text": [text for text in self.texts for _ in self.users],
            "user_id": self.users * len(self.texts),
        }
        for kind, values in (("score", self.scores), ("given", self.decisions)):
            flat = values.reshape(len(columns["text"]), len(self.labels))
            columns |= {f"{kind}.{label}": flat[:, place] for place, label in enumerate(self.labels)}
        return pd.DataFrame(columns)

    def _table(self) -> RowTable:
        """How far users are apart, by label: over all texts, without any of them."""
        rows = [
            {
                "label": label,
                "lowest score": float(self.scores[..., place].min(initial=1.0)),
                "mean": float(self.scores[..., place].mean()) if self.scores.size else None,
                "highest score": float(self.scores[..., place].max(initial=0.0)),
                "given by": f"{100 * self.decisions[..., place].mean():.0f} %" if self.scores.size else "",
            }
            for place, label in enumerate(self.labels)
        ]
        return RowTable(rows, f"{counted(len(self.users), 'user')} on {counted(len(self.texts), 'text')}")

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()

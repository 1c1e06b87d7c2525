"""Annotations cut into training, validation and test rows, for those who call from Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beholder.data import splits
from beholder.data.annotations import Annotations
from beholder.data.splits import SPLITS
from beholder.data.text_splits import PARTS, CutByText
from beholder.util.errors import SplitError, unknown
from beholder.util.strict_model import build
from beholder.util.tables import RowTable


@dataclass(frozen=True, repr=False)
class AnnotationSplit:
    """The parts of a split; unpacks into training, validation and test rows.

    Attributes:
        parts: name -> rows. Besides `train`, `valid` and `test`, a split by new users or people has `enrol`: what
            held-out users may be adapted on.
        hash: SHA-256 of which row is in which part: results are comparable only under equal hashes.
        leaked: the share of test rows whose text is also in training; 0 for a split by text.
    """

    parts: Mapping[str, Annotations]
    hash: str
    leaked: float

    def __iter__(self) -> Iterator[Annotations]:
        return iter([self.parts[name] for name in PARTS])

    def __getitem__(self, part: str) -> Annotations:
        return self.parts[part]

    def _table(self) -> RowTable:
        rows = [
            {
                "part": name,
                "judgements": len(part),
                "texts": len(part.distinct_texts[0]),
                "users": len(part.users),
            }
            for name, part in self.parts.items()
        ]
        return RowTable(rows, f"split {self.hash[:8]}")

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        """What a notebook shows: counts only."""
        return self._table()._repr_html_()


def split(
    annotations: Annotations,
    by: str = "text",
    *,
    fractions: Sequence[float] | None = None,
    seed: int | None = None,
    **settings: Any,
) -> AnnotationSplit:
    """Cut annotations into parts: `train, valid, test = split(annotations)`.

    Args:
        annotations: all rows.
        by: `text` (no text is in two parts), `new-users`, `people`, `column` or `paper`; see `data.splits`.
        fractions: of distinct texts, for training, validation and test; by default 0.8, 0.1 and 0.1 by text.
        seed: of the draw, 42 by default. The same rows, fractions and seed give the same parts, in a run as well.
        settings: further settings of that kind of split, such as `people=0.25` or `column="split"`.

    Raises:
        SplitError: an unknown kind of split, or a part would be empty.
        ExperimentError: a setting that this kind of split does not have.
    """
    if by not in SPLITS:
        raise SplitError(unknown("split", by, SPLITS))
    given = {"fractions": fractions, "seed": seed}
    written = {"by": by, **{key: value for key, value in given.items() if value is not None}, **settings}
    config = build(SPLITS[by], written, f'split(by="{by}")')
    if isinstance(config, CutByText):
        annotations = config.prepared(annotations)
    made = splits.split(annotations, config)
    parts = {name: annotations.select(rows) for name, rows in made.parts.items()}
    return AnnotationSplit(parts, made.hash, made.leaked)

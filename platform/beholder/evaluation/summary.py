"""Models compared on the same rows, as Python callers have it: results, verdict, and a table of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from beholder.evaluation.gains import Gain
from beholder.evaluation.intervals import in_words, percent, signed
from beholder.evaluation.results import Results
from beholder.evaluation.run_results import EvaluationResult
from beholder.evaluation.verdict import Verdict
from beholder.util.tables import RowTable


def gain_rows(found: EvaluationResult, kind: str = "arm") -> list[dict[str, str]]:
    """A row for each arm, or model: the headline, gain over the reference with both intervals, the personal part."""
    rows = []
    for name, method in found.methods.items():
        gain, beyond, is_reference = method.gain, method.beyond_control, name == found.reference
        rows.append(
            {
                kind: name,
                found.metric: percent(method.headline),
                "gain": "ref." if is_reference else signed(gain.points),
                "at large": "" if is_reference else in_words(gain.low, gain.high),
                "these people": "" if is_reference else in_words(gain.texts_low, gain.texts_high),
                "personal": "" if beyond is None else signed(beyond.points),
            }
        )
    return rows


def heading(found: EvaluationResult) -> str:
    """The line above such a table."""
    return (
        f"{found.rows:,} test judgements by {found.users:,} people of {found.texts:,} texts; gain in points of "
        f"{found.metric} over {found.reference}, {100 * found.level:g} % intervals"
    )


@dataclass(frozen=True, repr=False)
class Evaluation:
    """How good some models are on the same judgements, and how much better than one of them.

    Attributes:
        results: scores, gains and intervals of each; see `evaluation.results.Results`.
        verdict: whether personalisation pays.
    """

    results: Results
    verdict: Verdict

    @property
    def names(self) -> Sequence[str]:
        """Of the models."""
        return [arm.name for arm in self.results.arms]

    def macro_f1(self, name: str) -> float:
        """Of a model, a fraction; where there are scales, `Results.metric`."""
        return self.results.headline(self.results.arm(name))

    def gain(self, name: str) -> Gain:
        """Of a model over the reference, in points of `Results.metric`, with both intervals."""
        return self.results.gains[name]

    def table(self) -> RowTable:
        """A row for each model, as it is shown."""
        found = self.results.summary()
        return RowTable(gain_rows(found, "model"), heading(found), self.verdict.sentence)

    def to_json(self) -> dict[str, Any]:
        """Plain values: what `Results.to_json` has, and `verdict`."""
        return {**self.results.to_json(), "verdict": self.verdict.to_json()}

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.table()._repr_html_()

"""Does personalisation pay? One sentence, from the arm that validation prefers, its interval and its control."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from beholder.evaluation.metrics import decide, macro_f1
from beholder.evaluation.results import ArmScores, Results


@dataclass(frozen=True)
class Verdict:
    """What a run says of personalisation.

    Attributes:
        arm: the personal arm that was best on validation; test rows have no say in that. None where there is none.
        pays: whether its interval lies above zero, and that of its control does not.
        sentence: for people.
    """

    arm: str | None
    pays: bool
    sentence: str


def verdict(results: Results, personal: Collection[str]) -> Verdict:
    """Say whether personalisation pays, and how sure that is.

    Args:
        results: of a run.
        personal: names of its arms that learn of the reader.
    """
    candidates = [
        arm for arm in results.arms if arm.name in personal and not arm.control_of and arm.name != results.reference
    ]
    if not candidates:
        return Verdict(None, False, "No method here learns of the reader, so nothing is said of personalisation.")
    arm = max(candidates, key=lambda each: _valid(results, each))
    gain = results.gains[arm.name]
    said = (
        f"{arm.name} is {abs(gain.points):.1f} points of macro-F1 {'above' if gain.points >= 0 else 'below'} "
        f"{results.reference} ({100 * results.level:g} % interval {gain.low:+.1f} to {gain.high:+.1f})"
    )
    seen = f"{len(results.test.labels):,} test judgements by {len(set(results.test.user_ids)):,} people"
    if results.wins(arm):
        sentence = f"{said}{_against_controls(results, arm)}. {_for_whom(results, arm)}"
        return Verdict(arm.name, True, f"Personalisation pays: {sentence}")
    if gain.above_zero:
        sentence = f"{said}, but so is its control, whose users are permuted: the gain is not about who reads."
        return Verdict(arm.name, False, f"Personalisation does not pay here: {sentence}")
    if gain.high < 0:
        return Verdict(arm.name, False, f"Personalisation does not pay here, it costs: {said}.")
    bound = f"; more than {gain.high:.1f} points would be a surprise" if gain.high > 0 else ""
    return Verdict(arm.name, False, f"Personalisation does not pay here, as far as {seen} can show: {said}{bound}.")


def _against_controls(results: Results, arm: ArmScores) -> str:
    controls = results.controls(arm)
    if not controls:
        return "; it has no control to be held against (controls: [shuffled-users])"
    gain = results.gains[controls[0].name]
    return f"; with users permuted it gains nothing sure ({gain.low:+.1f} to {gain.high:+.1f})"


def _for_whom(results: Results, arm: ArmScores) -> str:
    """The gain of all judgements together can hide that most people lose, each taken alone."""
    points = results.user_gains(arm)
    better, worse = int((points > 0).sum()), int((points < 0).sum())
    return f"Taken one by one it is better for {better:,} of {len(points):,} people, worse for {worse:,}."


def _valid(results: Results, arm: ArmScores) -> float:
    score = macro_f1(decide(arm.valid_scores, arm.thresholds, results.kind), results.valid.labels)
    return score if score == score else 0.0

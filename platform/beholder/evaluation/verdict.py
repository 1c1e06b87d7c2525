"""Does personalisation pay? One of three answers, from the arm that validation prefers, and what it rests on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from beholder.evaluation.arm_scores import ArmScores
from beholder.evaluation.gains import Interval
from beholder.evaluation.headline import part_names
from beholder.evaluation.intervals import Spread, degrees, in_words
from beholder.evaluation.results import Results

VerdictAnswer = Literal["pays", "no gain worth having", "cannot tell yet", "nothing personal"]
POWER = 0.8
"""How sure one wants to be of seeing a gain that is there."""


@dataclass(frozen=True)
class Verdict:
    """Whether personalisation pays in a run.

    Attributes:
        arm: the personal arm that was best on validation; test rows have no say in that. None where there is none.
        answer: `pays`: its gain over the reference, and over its controls, is above zero. `no gain worth having`: among
            people at large it gains less than `Results.worthwhile`. `cannot tell yet`: neither is sure.
            `nothing personal`: no arm learns of the reader.
        sentence: for people.
        more: where it is not sure, by how many times as many people and texts a gain of that size would be seen;
            None where that is not known, or no number would do, as too few trainings leave too much to chance.
    """

    arm: str | None
    answer: VerdictAnswer
    sentence: str
    more: float | None = None

    @property
    def pays(self) -> bool:
        """Whether it does."""
        return self.answer == "pays"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"arm": self.arm, "answer": self.answer, "pays": self.pays, "more": self.more, "sentence": self.sentence}


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
        none = "No method here learns of the reader, so personalisation is not judged."
        return Verdict(None, "nothing personal", none)
    arm = max(candidates, key=lambda each: _valid(results, each))
    gain, beyond = results.gains[arm.name], results.beyond.get(arm.name)
    if gain.points != gain.points:
        none = f"{results.metric} is not known, as no test row has a label of " + ", ".join(part_names(results.task))
        return Verdict(arm.name, "cannot tell yet", f"It is not known yet whether personalisation pays: {none}.")
    often = f" (mean of {results.trainings} trainings)" if results.trainings > 1 else ""
    said = (
        f"{arm.name} is {abs(gain.points):.1f} points of {results.metric} {'above' if gain.points >= 0 else 'below'} "
        f"{results.reference}{often}, {_ends(gain)} among people at large, {_ends(gain, texts=True)} for these people"
    )
    if results.wins(arm):
        sentence = f"{said}{_against_controls(beyond)}. {_for_whom(results, arm)}"
        return Verdict(arm.name, "pays", f"Personalisation pays: {sentence}")
    in_doubt = beyond if beyond is not None and gain.above_zero else gain
    least = min((each for each in (gain, beyond) if each is not None), key=lambda each: each.high)
    if least.high < results.worthwhile:
        why = "the gain is not about who reads" if least is beyond else "that is too little"
        if gain.high < 0:
            why = "it costs"
        sentence = f"{said}{_against_controls(beyond)}: {why}. Worth having would be {_points(results.worthwhile)}."
        return Verdict(arm.name, "no gain worth having", f"Personalisation gains nothing worth having here: {sentence}")
    clusters = results.people, results.texts
    more = times_as_many(in_doubt, results.worthwhile, clusters, results.level, trainings=results.trainings)
    seen = f"{len(results.test.labels):,} test judgements by {results.people:,} people of {results.texts:,} texts"
    sentence = f"{said}{_against_controls(beyond)}. Seen were {seen}.{_needed(results, in_doubt, more)}"
    return Verdict(arm.name, "cannot tell yet", f"It is not known yet whether personalisation pays: {sentence}", more)


def times_as_many(
    gain: Interval,
    points: float,
    clusters: tuple[int, int],
    level: float = 0.95,
    power: float = POWER,
    trainings: int = 1,
) -> float | None:
    """How many times as many people and texts it takes to see a gain of some size: at least 1.

    None where unknown, and where the chance of training alone is too much for it, however many there are.

    The error of a gain falls with the square root of people and texts, where each person judges as many texts as now
    and each text is judged as often. A gain of d is found with probability `power` where its error is at most
    d / (t + z), t and z the quantiles of (1 + level) / 2 and of `power` (Cohen 1988, Statistical Power Analysis).

    Args:
        gain: as measured.
        points: d.
        clusters: how many people, and how many texts.
        level: of the interval.
        power: see there.
        trainings: how often each method was trained, and is to be.
    """
    from scipy.stats import norm
    from scipy.stats import t as student

    if not gain.rows_error > 0 or min(clusters) < 2:  # NaN, too
        return None
    training, times = gain.training_error, 1.0
    for _ in range(50):  # the quantile of t falls as people become more
        known = degrees(*(times * count for count in clusters))
        error = Spread(gain.rows_error / times**0.5, known).plus(training, trainings)
        wanted = points / float(student.ppf((1 + level) / 2, error.degrees) + norm.ppf(power))
        left = wanted**2 - training**2
        if left <= 0:
            return None
        times = max(1.0, gain.rows_error**2 / left)
    return times


def _needed(results: Results, gain: Interval, more: float | None) -> str:
    if more is None and gain.rows_error > 0 and gain.training_error > 0:
        seen = _points(results.worthwhile)
        return f" Training alone moves it too much to see a gain of {seen}: train more often (evaluate.seeds)."
    if more is None:
        return ""
    people, texts = (_round(more * each) for each in (results.people, results.texts))
    return (
        f" To see a gain of {_points(results.worthwhile)} four times in five takes about {people:,} people and "
        f"{texts:,} texts, judged as densely."
    )


def _points(value: float) -> str:
    return f"{value:g} point{'' if value == 1 else 's'}"


def _round(count: float) -> int:
    """To two digits: it is an estimate."""
    return int(float(f"{count:.1e}"))


def _ends(interval: Interval, texts: bool = False) -> str:
    return in_words(interval.texts_low, interval.texts_high) if texts else in_words(interval.low, interval.high)


def _against_controls(beyond: Interval | None) -> str:
    if beyond is None:
        return "; it has no control to compare it with"
    return f"; over the same with users permuted it gains {beyond.points:+.1f} ({_ends(beyond)})"


def _for_whom(results: Results, arm: ArmScores) -> str:
    """The gain of all judgements together can hide that most people lose."""
    users = results.users(arm)
    return (
        f"Taken one by one, its log-loss is better for {users.better:,} of {results.people:,} people, worse for "
        f"{users.worse:,}."
    )


def _valid(results: Results, arm: ArmScores) -> float:
    score = results.valid_headline(arm)
    return score if score == score else 0.0

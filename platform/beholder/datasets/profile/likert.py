"""Words that stand in an order: answers from `strongly disagree` to `strongly agree`, from `never` to `always`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache

MOST = 25
"""A scale of words has no more different steps than this, however they are written."""
FIRST_NUMBER = re.compile(r"\s*[(\[]?([+-]?\d+)[)\]]?\s*(?:[-–—:.)=,]\s*|\s+|$)(.*)", re.S)
LAST_NUMBER = re.compile(r"(.*\S)\s*[(\[]\s*([+-]?\d+)\s*[)\]]\s*", re.S)

DEGREES: Mapping[str, float] = {
    "completely": 5, "totally": 5, "entirely": 5, "absolutely": 5, "fully": 5, "extremely": 5, "definitely": 5,
    "strongly": 4, "very strongly": 4.5, "very": 4, "highly": 4, "very much": 4, "a lot": 4,
    "mostly": 3, "quite": 2.6, "generally": 2.4, "": 2.2, "fairly": 2.1, "rather": 2, "probably": 2,
    "moderately": 1.6, "somewhat": 1.4, "partly": 1.3, "partially": 1.3, "tend to": 1.2, "a bit": 1.1,
    "mildly": 1, "a little": 1, "slightly": 0.9, "weakly": 0.8,
}  # fmt: skip
"""How much of something a word before it means; `""` is the word alone. No two that one scale has are equal."""
OPPOSITES = (
    ("disagree", "agree"), ("unlikely", "likely"), ("dissatisfied", "satisfied"), ("unsatisfied", "satisfied"),
    ("bad", "good"), ("negative", "positive"), ("unfavorable", "favorable"), ("unfavourable", "favourable"),
    ("unhappy", "happy"), ("impolite", "polite"), ("rude", "polite"), ("oppose", "support"), ("oppose", "favor"),
    ("disapprove", "approve"), ("unimportant", "important"), ("uncomfortable", "comfortable"), ("unfair", "fair"),
    ("dislike", "like"), ("untrustworthy", "trustworthy"), ("unclear", "clear"), ("difficult", "easy"),
    ("hard", "easy"), ("false", "true"), ("unpleasant", "pleasant"), ("inappropriate", "appropriate"),
    ("unacceptable", "acceptable"), ("sad", "happy"), ("liberal", "conservative"), ("left", "right"),
    ("worse", "better"), ("less", "more"), ("decrease", "increase"), ("incorrect", "correct"),
)  # fmt: skip
_NEUTRAL = (
    "neutral|neither|undecided|no opinion|in between|mixed|unsure|not sure|uncertain|average|ok|okay|fair|the same|"
    "about the same|no difference|middle|moderate|indifferent|no preference|centre|center"
)
NEUTRAL = frozenset(_NEUTRAL.split("|"))
LADDERS = (
    (
        "never|almost never,hardly ever,very rarely|rarely,seldom|once in a while,occasionally,now and then|"
        "sometimes|about half the time,half of the time|regularly|often,frequently|usually,most of the time|"
        "very often,very frequently,almost always,nearly always|always"
    ),
    (
        "not at all,none,none at all,nothing,no|hardly,barely,very little,hardly at all|"
        "a little,a little bit,little,slightly,a bit|some,somewhat,to some extent,partly,partially|"
        "moderately,moderate,a moderate amount,medium|fairly,rather,quite|quite a bit,considerably,quite a lot|"
        "a lot,much,mostly,largely,strongly|very,very much,to a large extent,highly|"
        "a great deal,extremely,completely,entirely,totally,absolutely"
    ),
    (
        "terrible,awful,horrible|very poor,very bad|poor,bad|below average|"
        "fair,average,acceptable,ok,okay,mediocre,neutral,satisfactory|above average|good|very good,great|"
        "excellent,outstanding,perfect"
    ),
    (
        "none,no,zero,absent|minimal,negligible|very low,very weak,very small,very mild|"
        "low,weak,small,mild,minor,slight|medium,moderate,average,middle,intermediate|"
        "high,strong,large,big,severe,major,serious|very high,very strong,very large,very severe,extreme,critical"
    ),
    (
        "definitely not,certainly not,absolutely not|no|probably not,rather no,rather not,mostly no|"
        "maybe,perhaps,possibly,might or might not,partly,unsure,not sure|"
        "probably,rather yes,mostly yes,probably yes|yes|definitely,certainly,definitely yes,absolutely"
    ),
    ("impossible|improbable,very unlikely|unlikely|possible,even chance|likely,probable|very likely|certain"),
)


def in_order(values: Sequence[str]) -> list[str] | None:
    """The values of a scale of words from lowest to highest, as they are written; None where they are no scale.

    At least three different ones. Values that are the same but for case and white space count as one: the one that
    comes first stands for it, see `same_step`.
    """
    distinct = {plain(value): value for value in reversed(values)}
    if not 3 <= len(distinct) <= MOST:
        return None
    for rank in (_by_number, *(_of_ladder(rungs) for rungs in map(_rungs, LADDERS)), _by_opposites, _by_degree):
        ranks = {form: rank(form, tuple(distinct)) for form in distinct}
        known = [each for each in ranks.values() if each is not None]
        if len(known) == len(ranks) == len(set(known)):
            return [distinct[form] for form in sorted(distinct, key=lambda form: ranks[form] or 0)]
    return None


def plain(value: str) -> str:
    """A value without case and with single spaces, hyphens as spaces."""
    return " ".join(value.casefold().replace("_", " ").split())


def number_of(value: str) -> int | None:
    """The number that a step carries before or after its words, as in `1 - strongly disagree` and `agree (4)`."""
    if found := FIRST_NUMBER.fullmatch(value):
        return int(found[1])
    found = LAST_NUMBER.fullmatch(value)
    return int(found[2]) if found else None


def _by_number(form: str, forms: tuple[str, ...]) -> float | None:
    """Steps that carry a number; some of them words as well, or whole numbers alone are a scale of numbers."""
    numbers = [number_of(each) for each in forms]
    known = [each for each in numbers if each is not None]
    if (
        len(known) < len(forms)
        or max(known) - min(known) > 10
        or not any(re.search(r"[^\W\d]", each) for each in forms)
    ):
        return None
    if any(len(each.split()) > 7 for each in forms):  # sentences that begin with a number
        return None
    return number_of(form)


@cache
def _rungs(ladder: str) -> Mapping[str, float]:
    return {word: float(place) for place, words in enumerate(ladder.split("|")) for word in words.split(",")}


def _of_ladder(rungs: Mapping[str, float]):  # noqa: ANN202 - a rank
    return lambda form, forms: rungs.get(form.replace("-", " "))


def _by_opposites(form: str, forms: tuple[str, ...]) -> float | None:
    """From one pole to the other: `strongly disagree`, `disagree`, `neutral`, `agree`."""
    form = form.replace("-", " ")
    for low, high in OPPOSITES:
        if not _all_of(forms, low, high):
            continue
        if form in NEUTRAL or re.match(r"(neither|neutral|equally)\b|both\b|(slightly )?mixed\b", form):
            return 0.0
        for pole, sign in ((low, -1), (high, 1)):
            if form == pole or form.endswith(f" {pole}"):
                before = form.removesuffix(pole).strip()
                if before in ("not", "not at all", "not very", "not so", "not really"):
                    strength = DEGREES["completely"] if before == "not at all" else DEGREES[""]
                    return -sign * (strength + 0.05)
                return sign * DEGREES[before] if before in DEGREES else None
            if form.startswith(f"{pole} "):
                after = form.removeprefix(pole).strip()
                return sign * DEGREES[after] if after in DEGREES else None
    return None


def _all_of(forms: tuple[str, ...], low: str, high: str) -> bool:
    ends = [form.replace("-", " ").split() for form in forms]
    return any(low in words for words in ends) and any(high in words for words in ends)


def _by_degree(form: str, forms: tuple[str, ...]) -> float | None:
    """From nothing of something to all of it: `not at all rude`, `slightly rude`, `very rude`."""
    words = [each.split() for each in forms]
    last = {each[-1] for each in words}
    stem = next((word for word in last if sum(each[-1] == word for each in words) >= len(words) - 1), None)
    if stem is None or len(forms) < 3:
        return None
    before = form.removesuffix(stem).strip()
    if before in ("not at all", "not", "no", "non", "in no way"):
        return -1.0 if before == "not at all" else -0.5
    if before in ("hardly", "barely", "not very", "not so", "not really"):
        return 0.3
    return DEGREES.get(before)

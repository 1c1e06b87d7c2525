"""How the values of a column are read as judgements: given or not, a scale, a slider, classes, several labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from beholder.data.reshape import entries
from beholder.datasets.profile.column import Column
from beholder.datasets.profile.likert import in_order, number_of, plain
from beholder.datasets.profile.value_forms import form_of

Kind = Literal["binary", "ordinal", "continuous", "multiclass", "multiselect"]

YES_NO = (
    ("yes", "no"), ("y", "n"), ("true", "false"), ("t", "f"), ("positive", "negative"), ("pos", "neg"),
    ("accept", "reject"), ("accepted", "rejected"), ("agree", "disagree"), ("on", "off"), ("correct", "incorrect"),
    ("right", "wrong"), ("present", "absent"), ("ja", "nein"), ("oui", "non"), ("sí", "no"), ("si", "no"),
    ("sim", "não"), ("да", "нет"), ("tak", "nie"), ("1", "0"), ("x", ""), ("checked", "unchecked"), ("like", "dislike"),
    ("approve", "disapprove"), ("appropriate", "inappropriate"), ("relevant", "irrelevant"), ("valid", "invalid"),
)  # fmt: skip
TICKS = {"true", "x", "yes", "y", "1", "checked", "on", "✓", "✔", "selected", "t", "ja", "oui"}
NOT_ASKED = {
    "n/a", "na", "n.a.", "n. a.", "#n/a", "nan", "<na>", "null", "-", "--", "---", "—", "–", "?", "??", "don't know",
    "dont know", "do not know", "don’t know", "i don't know", "i don’t know", "i do not know", "dk", "idk",
    "not applicable", "not asked", "not answered", "no answer", "no response", "prefer not to say",
    "prefer not to answer", "cannot say", "can't say", "can't tell", "cannot tell", "can not tell", "unable to answer",
    "skip", "skipped", "ignore", "ignored", "missing", "unanswered", "undefined", "nil", "#null!", "(blank)", "blank",
    "weiß nicht", "k.a.", "k. a.",
}  # fmt: skip
NO_LABEL = {
    "none", "none of these", "none of the above", "no label", "no labels", "nothing", "no emotion", "neither",
    "[]", "0",
    "keine", "aucune",
}  # fmt: skip
CODES = {-99.0, -98.0, -9.0, -8.0, -7.0, -2.0, -1.0, 8.0, 9.0, 66.0, 77.0, 88.0, 98.0, 99.0, 97.0, 96.0, 888.0, 998.0,
         999.0, 9999.0, -999.0, -9999.0, -77.0, -88.0}  # fmt: skip
"""Numbers by which forms code what is no answer."""
MOST_STEPS = 11
"""A scale of whole numbers has no more steps than this; more distinct values are a slider's."""
MOST_CLASSES = 30
MOST_BAD = 0.05
"""A column is a label with bad cells where no larger share of its filled cells is something else."""
FEWEST_GOOD = 10


@dataclass(frozen=True)
class Reading:
    """How a column is read as judgements.

    Attributes:
        kind: `binary`: given or not; `ordinal`: steps in order; `continuous`: a slider; `multiclass`: one of several
            names; `multiselect`: several labels in a cell.
        rule: of a label; see `columns.LabelRule`.
        not_asked: values that are no answer, as written.
        bad: values that cannot be read, each in few cells.
        apart: values that stand apart from the scale, and may be a code for no answer.
        blank_is_no: whether an empty cell is read as "not given", as only ticked boxes are written.
        labels, separator, none: of `multiselect`; see `reshape.Multiselect`.
        sureness: 0..1.
    """

    kind: Kind
    rule: dict[str, Any] = field(default_factory=dict)
    not_asked: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    blank_is_no: bool = False
    labels: tuple[str, ...] = ()
    separator: str | None = None
    none: tuple[str, ...] = ()
    sureness: float = 0.9


def reading_of(column: Column, not_asked: Sequence[str] = ()) -> Reading | None:
    """How a column is read as judgements; None where it cannot be.

    Args:
        column: of a table with one judgement in each row.
        not_asked: values the caller named as no answer.
    """
    if column.nested in ("struct", "binary"):
        return None
    words = NOT_ASKED | {plain(word) for word in not_asked}
    unasked = tuple(value for value in column.distinct if plain(value) in words)
    counts = {value: int(count) for value, count in zip(column.distinct, column.counts, strict=True)}
    rest = {value: count for value, count in counts.items() if value not in unasked}
    if not rest:
        return None
    several = _multiselect(column, rest)
    if several is not None:
        if column.missing and not several.none and column.nested is None:  # the only way to tick none
            several = replace(several, none=("",), blank_is_no=True)
        return _with(several, unasked)
    if column.nested:
        return None
    plain_counts = {value: rest[value] for value in sorted(rest, key=lambda value: -rest[value])}
    for read in (_ticks, _binary, _whole_numbers, _words_in_order, _slider):
        found = read(column, plain_counts)
        if found is not None:
            return _with(found, unasked)
    return _with(_classes(column, plain_counts), unasked)


def _with(found: Reading | None, unasked: tuple[str, ...]) -> Reading | None:
    if found is None or not unasked:
        return found
    return replace(found, not_asked=unasked)


def _few(bad: int, good: int) -> bool:
    return bad == 0 or (good >= FEWEST_GOOD and bad <= max(2 if good >= 40 else 1, MOST_BAD * (good + bad)))


def _ticks(column: Column, counts: dict[str, int]) -> Reading | None:
    """Boxes of which only the ticked ones are written."""
    if not column.missing or {plain(value) for value in counts} - TICKS or len({plain(v) for v in counts}) > 1:
        return None
    return Reading("binary", {"values": {**dict.fromkeys(sorted(counts), 1), "": 0}}, blank_is_no=True, sureness=0.8)


def _binary(column: Column, counts: dict[str, int]) -> Reading | None:
    """0 and 1, true and false; or two words of which one is the other's opposite."""
    digits = [value for value in counts if _bit(value) is not None]
    good = sum(counts[value] for value in digits)
    bad = [value for value in counts if value not in digits]
    if any(_float(value) in CODES for value in bad):  # a code, see `_apart`
        return None
    if len({_bit(value) for value in digits}) == 2 and _few(sum(counts[each] for each in bad), good):
        return Reading("binary", {}, bad=tuple(bad), sureness=0.9)
    forms: dict[str, int] = {}
    for value, count in counts.items():
        forms[plain(value)] = forms.get(plain(value), 0) + count
    total = sum(forms.values())
    for yes, no in _opposites(list(forms)):
        good = forms[yes] + forms[no]
        if _few(total - good, good):
            values = {value: int(plain(value) == yes) for value in sorted(counts) if plain(value) in (yes, no)}
            bad = [value for value in counts if value not in values]
            return Reading("binary", {"values": values}, bad=tuple(bad), sureness=0.9)
    mixed = {value: _yes(value) for value in counts}
    known = {value: given for value, given in mixed.items() if given is not None}
    good = sum(counts[value] for value in known)
    if set(known.values()) == {0, 1} and _few(total - good, good):
        bad = [value for value in counts if value not in known]
        return Reading("binary", {"values": dict(sorted(known.items()))}, bad=tuple(bad), sureness=0.8)
    return None


def _bit(value: str) -> int | None:
    return {"0": 0, "1": 1, "true": 1, "false": 0, "0.0": 0, "1.0": 1}.get(value.strip().lower())


def _yes(value: str) -> int | None:
    """Where several notations are mixed, as `yes`, `1` and `no`."""
    if _bit(value) is not None:
        return _bit(value)
    return next((given for yes, no in YES_NO[:4] for word, given in ((yes, 1), (no, 0)) if plain(value) == word), None)


def _opposites(forms: list[str]) -> list[tuple[str, str]]:
    """(yes, no) among the most frequent values."""
    common = forms[:2]
    known = [pair for pair in YES_NO if pair[0] in common and pair[1] in common]
    negated = [
        (one, other)
        for one in common
        for other in common
        if other in (f"not {one}", f"not_{one}", f"non {one}", f"non-{one}", f"no {one}", f"not-{one}", f"no-{one}")
        or (len(one) > 3 and other in (f"un{one}", f"in{one}", f"im{one}", f"non{one}", f"dis{one}", f"not{one}"))
    ]
    return [*known, *negated]


def _whole_numbers(column: Column, counts: dict[str, int]) -> Reading | None:
    """A scale of at most `MOST_STEPS` whole numbers; a number far from the others stands apart."""
    numbers = {value: _whole(value) for value in counts}
    good = {value: number for value, number in numbers.items() if number is not None}
    bad = [value for value in counts if value not in good]
    total = sum(counts[value] for value in good)
    if len(set(good.values())) < 2 or any(_fraction(value) for value in bad):  # decimals among them: a slider's
        return None
    words: list[str] = []
    if not _few(sum(counts[each] for each in bad), total):
        if any(number_of(each) is not None for each in bad):  # steps of which some have words
            return None
        if len(good) < 3 or len(bad) > 3 or total < sum(counts[each] for each in bad):
            return None
        words, bad = bad, []  # too many to be mistakes: what do they mean?
    share = {number: sum(counts[v] for v, n in good.items() if n == number) / total for number in set(good.values())}
    core, apart = _apart(share)
    if core is None or core[-1] - core[0] >= MOST_STEPS:
        return None
    values_apart = (*(value for value, number in good.items() if number in apart), *words)
    if set(core) == {0, 1}:
        return Reading("binary", {}, bad=tuple(bad), apart=values_apart)
    rule = {"kind": "ordinal", "range": [core[0], core[-1]]}
    return Reading("ordinal", rule, bad=tuple(bad), apart=values_apart, sureness=0.9 if len(core) > 2 else 0.7)


def _whole(value: str) -> int | None:
    found = re.fullmatch(r"\s*([+-]?\d{1,6})(?:\.0+)?\s*", value)
    return int(found[1]) if found else None


def _fraction(value: str) -> bool:
    return re.fullmatch(r"\s*[+-]?\d*[.,]\d+\s*", value) is not None and _whole(value) is None


def _apart(share: dict[int, float]) -> tuple[list[int] | None, set[int]]:
    """The numbers that make up a scale, in order, and those that stand apart from them."""
    steps, apart = sorted(share), set[int]()
    if steps[0] == -steps[-1] and (len(steps) > 3 or share[steps[0]] >= 0.2):  # from -2 to 2
        return steps, apart
    while len(steps) > 2 and steps[-1] - steps[-2] > _gap(steps[-1], steps[:-1], steps[-1] - steps[-2]):
        apart.add(steps.pop())
    while len(steps) > 2 and steps[1] - steps[0] > _gap(steps[0], steps[1:], steps[1] - steps[0]):
        apart.add(steps.pop(0))
    if len(steps) > 2 and steps[0] < 0 <= steps[1] and steps[0] in CODES and -steps[0] != steps[-1]:
        apart.add(steps.pop(0))  # -1 below 0 to 4; -1, 0, 1 is a scale, and so is -2 to 2
    elif steps == [-1, 0, 1]:  # rarely given
        apart.add(steps.pop(0))
    if len(steps) < 2 or (len(apart) > 2):
        return None, apart
    return steps, apart


def _gap(number: int, others: list[int], gap: int) -> float:
    """The largest gap between a number and the scale beside it that is still part of the scale."""
    if number in CODES and (abs(number) >= 66 or number < 0 or (number in (8, 9) and max(others) <= 7 and gap > 1)):
        return 1
    return max(3, others[-1] - others[0])


def _words_in_order(column: Column, counts: dict[str, int]) -> Reading | None:
    if len(counts) > 2 * MOST_CLASSES:
        return None
    steps = in_order(list(counts))
    left = list(counts)
    bad: list[str] = []
    while steps is None and len(left) > 3 and _few(counts[left[-1]] + sum(counts[each] for each in bad),
                                                   sum(counts[each] for each in left[:-1])):  # fmt: skip
        bad.append(left.pop())  # the rarest last
        steps = in_order(left)
    if steps is None:
        return None
    rule: dict[str, Any] = {"kind": "ordinal", "steps": steps}
    place = {plain(step): number for number, step in enumerate(steps)}
    others = {value: place[plain(value)] for value in sorted(counts) if plain(value) in place and value not in steps}
    if others:  # the same step in another case
        rule["values"] = others
    return Reading("ordinal", rule, bad=tuple(bad))


def _slider(column: Column, counts: dict[str, int]) -> Reading | None:
    """Numbers of many distinct values within ends that a slider would have."""
    numbers = {value: _float(value) for value in counts}
    good = {value: number for value, number in numbers.items() if number is not None}
    bad = [value for value in counts if value not in good]
    total = sum(counts[value] for value in good)
    if len(good) < 3 or not _few(sum(counts[each] for each in bad), total):
        return None
    share: dict[float, float] = {}
    for value, number in good.items():
        share[number] = share.get(number, 0) + counts[value] / total
    steps, apart = sorted(share), set[float]()
    while len(steps) > 3 and steps[-1] in CODES and steps[-1] - steps[-2] > max(10.0, steps[-2] - steps[0]):
        apart.add(steps.pop())
    while len(steps) > 3 and steps[0] in CODES and steps[0] < 0 <= steps[1] and -steps[0] < 0.8 * steps[-1]:
        apart.add(steps.pop(0))
    ends = _ends(steps)
    if ends is None:
        return None
    values_apart = tuple(value for value, number in good.items() if number in apart)
    usual = _like_a_slider(steps, ends)
    rule = {"kind": "continuous", "range": ends}
    return Reading("continuous", rule, bad=tuple(bad), apart=values_apart, sureness=0.8 if usual else 0.5)


def _float(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _ends(steps: list[float]) -> Sequence[float] | None:
    """The ends of the slider that numbers lie on: the next usual ones, where numbers come close."""
    low, high = steps[0], steps[-1]
    if high - low > 1_000 or high <= low:
        return None
    for usual_low, usual_high in ((0, 1), (-1, 1), (0, 100), (-100, 100)):
        if usual_low <= low and high <= usual_high and high - low > 0.5 * (usual_high - usual_low):
            return [usual_low, usual_high]
    whole = [int(np.floor(low)), int(np.ceil(high))]
    return whole if whole[1] - whole[0] <= 200 else None


def _like_a_slider(steps: list[float], ends: Sequence[float]) -> bool:
    """Whether answers reach both ends, and the ends are those a slider has: 0 or 1, and a round number."""
    span = ends[1] - ends[0]
    reached = steps[0] - ends[0] <= 0.05 * span and ends[1] - steps[-1] <= 0.05 * span
    whole = all(float(step).is_integer() for step in steps)
    dense = not whole or len(steps) >= 0.25 * span
    round_ends = ends[1] in (1, 3, 4, 7, 9) or ends[1] % 5 == 0
    return reached and dense and round_ends and (ends[0] in (0, 1) or ends[0] == -ends[1])


def _multiselect(column: Column, counts: dict[str, int]) -> Reading | None:
    """Cells that hold several labels: JSON lists, or words between separators."""
    if column.nested == "list" or all(re.fullmatch(r"\s*\[.*\]\s*", value, re.S) for value in counts):
        return _of_cells({value: entries(value, None) for value in counts}, counts, None)
    for separator in ("|", ";", ",", "/", "\n", "+", "&"):
        if not any(separator in value for value in counts):
            continue
        cells = {value: [each.strip() for each in value.split(separator)] for value in counts}
        found = _of_cells({value: list(filter(None, cell)) for value, cell in cells.items()}, counts, separator)
        if found is not None:
            return found
    return None


def _of_cells(cells: dict[str, list[str] | None], counts: dict[str, int], separator: str | None) -> Reading | None:
    if any(cell is None for cell in cells.values()):
        return None
    used: dict[str, int] = {}
    for value, cell in cells.items():
        for entry in cell or ():
            used[entry] = used.get(entry, 0) + counts[value]
    if len(used) > 2 * MOST_CLASSES:
        return None
    several = [cell for cell in cells.values() if cell and len(cell) > 1]
    none = tuple(entry for entry in used if plain(entry) in NO_LABEL and all(entry not in cell for cell in several))
    labels = sorted(entry for entry in used if entry not in none)
    if not labels or len(labels) > MOST_CLASSES or (separator is not None and (len(labels) < 2 or not several)):
        return None
    if form_of(labels) is not None or any(len(label) > 60 or len(label.split()) > 5 for label in labels):
        return None
    alone = sum(len(cell or ()) == 1 and (cell or [""])[0] in labels for cell in cells.values())
    met = sum(used[label] for label in labels) / len(labels)  # how often a label is given
    if separator in (",", "/", "+", "&") and not alone:
        return None
    if (separator is not None and met < 3) or any(len(set(cell or ())) < len(cell or ()) for cell in cells.values()):
        return None
    return Reading("multiselect", labels=tuple(labels), separator=separator, none=none, sureness=0.8)


def _classes(column: Column, counts: dict[str, int]) -> Reading | None:
    """Names without an order, each given several times."""
    if not 2 <= len(counts) <= MOST_CLASSES or not column.recurs:
        return None
    if column.numeric or form_of(list(counts)) in (
        "dates or times",
        "addresses of the web",
        "e-mail addresses",
        "numbers",
    ):
        return None
    if column.words > 6 or max(map(len, counts)) > 100:
        return None
    return Reading("multiclass", sureness=0.7)

"""Tables that do not have one judgement a row: which form they have, as settings of `reshape`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from beholder.data.reshape import entries
from beholder.datasets.profile.column import RECURS, Column, named, pairs_recur
from beholder.datasets.profile.guesses import Guess
from beholder.datasets.profile.names import LABEL_NAME, PAIRS, VALUE, core, is_bookkeeping, text_rank, user_rank
from beholder.datasets.profile.readings import Reading, reading_of
from beholder.datasets.profile.value_forms import form_of, is_prose
from beholder.util.errors import DataError

Columns = Mapping[str, Column]
NUMBERED = re.compile(r"(.*?)(\d+)(\D*)", re.S)
LETTERED = re.compile(r"(.*[ _.\-])([A-Za-z])()", re.S)
JUDGEMENT = "judgement"
"""What the label of a table is called whose columns are named after people."""
PLACES = {"a", "b", "left", "right", "1", "2", "first", "second", "x", "y", "one", "two", "response_a", "response_b"}


@dataclass(frozen=True)
class Shape:
    """The form of a table.

    Attributes:
        reshape: settings, see `reshape.Reshape`.
        what: the form in words, for people.
        text, user, labels: columns of the turned table, where the form decides them.
        guess: which columns it rests on, how sure, and why.
    """

    reshape: dict[str, Any]
    what: str
    guess: Guess
    text: str | None = None
    user: str | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Family:
    """Columns whose names differ in a number or a last letter only, by that number."""

    prefix: str
    suffix: str
    members: dict[str, Column] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What they are called in common; empty where they are called by number only."""
        joined = f"{self.prefix.rstrip(' _.-')}{self.suffix}" if self.suffix else self.prefix
        return joined.strip(" _.-")

    @property
    def cells(self) -> Column:
        """All their cells as one column."""
        return Column(self.name, np.concatenate([each.cells for each in self.members.values()]))

    @property
    def of_people(self) -> bool:
        """Whether they are called after those who judged, as in `rater1` or `rude_coder_2`."""
        return user_rank(self.prefix) >= 0.6

    def differ_in_rows(self) -> bool:
        """Whether their values differ from each other in every row, as ids of several people do."""
        cells = np.stack([each.cells for each in self.members.values()], axis=1)
        rows = [[cell for cell in row if cell is not None] for row in cells[:5_000]]
        several = [row for row in rows if len(row) > 1]
        return bool(several) and sum(len(set(row)) == len(row) for row in several) >= 0.99 * len(several)


def families(columns: Columns) -> list[Family]:
    """The families of a table, each of two columns or more."""
    found: dict[tuple[str, str], Family] = {}
    for column in columns.values():
        match = NUMBERED.fullmatch(column.name) or LETTERED.fullmatch(column.name)
        if match and column.values and not column.nested:
            prefix, number, suffix = match.groups()
            key = (prefix.lower().rstrip(" _.-"), suffix.lower())
            found.setdefault(key, Family(prefix, suffix)).members.setdefault(number.lstrip("0") or "0", column)
    return [each for each in found.values() if len(each.members) > 1]


def refuse_pairs(columns: Columns, where: Path) -> None:
    """Refuse a table of pairs of texts of which somebody prefers one.

    Raises:
        DataError: it is one; pairs cannot be learned from yet.
    """
    sides = [each for each in families(columns) if len(each.members) == 2 and set(each.members) <= PLACES | {"A", "B"}]
    sided = {column.name for each in sides for column in each.members.values()}
    nested = {name for name, column in columns.items() if column.nested and re.search(r"[_. -][ab12]$", name, re.I)}
    for name, column in columns.items():
        words = set(core(name))
        chosen = words & PAIRS and 2 <= len(column.values) <= 8
        values = {
            re.sub(r"^(model|response|answer|text|option|conversation)[ _]?", "", each.lower())
            for each in column.values
        }
        of_sides = len(values & PLACES) == 2
        if chosen and (of_sides or len(nested) >= 2) and (sided - {name} or nested):
            raise DataError(
                f'{where}: pairs of texts, of which "{name}" states the better one (kind pairwise). Pairs cannot be '
                "learned from yet: give one text and its judgement in each row."
            )
    if {"chosen", "rejected"} <= {name.lower() for name in columns}:
        raise DataError(
            f"{where}: pairs of texts, one chosen and one rejected (kind pairwise). Pairs cannot be learned from yet: "
            "give one text and its judgement in each row."
        )


def of_lists(columns: Columns) -> Shape | None:
    """Columns of parallel lists, one of who judged and one or more of what: `w1,w2` beside `1,0`."""
    for separator in (",", ";", "|"):
        lists = {name: found for name, column in columns.items() if (found := _lists(column, separator)) is not None}
        for name in lists:
            counts = [len(each) for each in lists[name]]
            same = [other for other in lists if [len(each) for each in lists[other]] == counts]
            users = [other for other in same if _plural_rank(other) >= 0.6 and _ids_of(lists[other])]
            if not users or len(same) < 2:
                continue
            labels = [each for each in same if each != users[0] and _read(each, lists[each]) is not None]
            if labels:
                return Shape(
                    {"lists": [users[0], *labels], "separator": separator},
                    f"lists of {users[0]} and of {', '.join(labels)} that run in parallel",
                    Guess(users[0], 0.9, "its lists are as long as those of the judgements in every row"),
                    user=users[0],
                    labels=tuple(labels),
                )
    return None


def _lists(column: Column, separator: str) -> list[list[str]] | None:
    """The lists in the cells of a column, empty where the cell is; None where it holds none."""
    if column.nested in ("struct", "binary") or not column.values:
        return None
    found = {value: entries(value, separator) or [] for value in column.distinct}
    several = sum(count for value, count in zip(column.distinct, column.counts, strict=True) if len(found[value]) > 1)
    if several < 0.5 * len(column.filled) or (column.words > 8 and column.nested is None):
        return None
    return [[] if cell is None else found[cell] for cell in column.cells]


def _ids_of(lists: Sequence[Sequence[str]]) -> bool:
    flat = [entry for each in lists for entry in each]
    return len(set(flat)) <= RECURS * len(flat) and all(len(set(each)) == len(each) for each in lists)


def _plural_rank(name: str) -> float:
    return max(user_rank(name), user_rank(re.sub(r"s$", "", name)))


def _read(name: str, lists: Sequence[Sequence[str]]) -> Reading | None:
    flat = [entry or None for each in lists for entry in each]
    return reading_of(Column(name, np.asarray([*flat, None], dtype=object)[:-1]))


def of_slots(columns: Columns, where: Path) -> Shape | None:
    """Numbered columns that belong together by their number: who judged and what, or several texts a row.

    Raises:
        DataError: several texts a row, and their judgements do not have the same numbers.
    """
    found = families(columns)
    texts = [each for each in found if text_rank(each.prefix) >= 0.4 and is_prose(each.cells.distinct)]
    outside = [name for name in columns if text_rank(name) >= 0.8 and not any(name in _names(each) for each in found)]
    if len(texts) == 1 and not outside:
        return _texts_of_rows(texts[0], found, where)
    for people in found:
        if not (people.of_people or user_rank(people.suffix) > 0) or not people.differ_in_rows():
            continue
        reading = reading_of(people.cells)
        slider = reading is not None and reading.kind == "continuous" and "id" not in core(people.name)
        if slider or not people.cells.recurs or any(_fractional(each) for each in people.members.values()):
            continue
        labels = [each for each in found if each is not people and _label_family(each, people)]
        if labels:
            return _slots([people, *labels], user=people, why="its values differ in every row, as people do")
    return None


def _texts_of_rows(texts: Family, found: Sequence[Family], where: Path) -> Shape | None:
    labels = [each for each in found if each is not texts and _label_family(each, texts)]
    if labels:
        return _slots([texts, *labels], text=texts, why="its numbers are those of the judgements")
    others = [each for each in found if each is not texts and reading_of(each.cells) and not is_bookkeeping(each.name)]
    if others:
        raise DataError(
            f"{where}: {len(texts.members)} texts a row ({named(list(texts.members.values()))}), and judgements with "
            f"other numbers ({named(list(others[0].members.values()))}). Number them alike, or give one text a row."
        )
    return None


def _label_family(family: Family, like: Family) -> bool:
    return set(family.members) == set(like.members) and not is_bookkeeping(family.name) and _is_label(family.cells)


def _is_label(column: Column) -> bool:
    return not is_prose(column.distinct) and reading_of(column) is not None


def _slots(chosen: Sequence[Family], why: str, text: Family | None = None, user: Family | None = None) -> Shape:
    names = {each.name or JUDGEMENT: each for each in chosen}
    numbers = list(chosen[0].members)
    slots = {name: [each.members[number].name for number in numbers] for name, each in names.items()}
    labels = tuple(name for name, each in names.items() if each is not text and each is not user)
    first = chosen[0].name
    return Shape(
        {"slots": slots},
        f"{len(numbers)} judgements a row, by number: {', '.join(names)}",
        Guess(named(list(chosen[0].members.values())), 0.9, why),
        text=first if text else None,
        user=first if user else None,
        labels=labels,
    )


def of_people(columns: Columns) -> Shape | None:
    """Columns called after those who judged: `rater1`, `rater2`; or several of each, `rater1_rude`, `rater1_funny`."""
    chosen = [each for each in families(columns) if each.of_people and _is_label(each.cells)]
    chosen = [
        each for each in chosen if set(each.members) == set(chosen[0].members) and not is_bookkeeping(each.suffix)
    ]
    if not chosen:
        return None
    label = _label_name(chosen[0]) if len(chosen) == 1 else ""
    if len(chosen) == 1:
        return people(list(chosen[0].members.values()), columns, label, 0.9, "they are called after those who judged")
    names = {_label_name(each) or each.name: each for each in chosen}
    numbers = list(chosen[0].members)
    who = _free("user", columns)
    return Shape(
        {"slots": {name: [each.members[n].name for n in numbers] for name, each in names.items()}, "slot_as": who},
        f"{len(numbers)} people, a column for each of them and of {', '.join(names)}",
        Guess(named(list(chosen[0].members.values())), 0.85, "they are called after those who judged"),
        user=who,
        labels=tuple(names),
    )


def people(chosen: Sequence[Column], columns: Columns, label: str, sureness: float, why: str) -> Shape:
    """The form of a table whose columns are one for each person."""
    rest = {name: column for name, column in columns.items() if column not in chosen}
    reshape: dict[str, Any] = {"users": [each.name for each in chosen]}
    user, judgement = _free("user", rest), label if label and label not in rest else _free(JUDGEMENT, rest)
    if user != "user":
        reshape["user"] = user
    if judgement != JUDGEMENT:
        reshape["judgement"] = judgement
    guess = Guess(named(chosen), sureness, why)
    return Shape(reshape, "a column for each person", guess, user=user, labels=(judgement,))


def _label_name(family: Family) -> str:
    """What people called `rater1_rude` or `rude_rater1` judged."""
    if family.suffix.strip(" _.-"):
        return family.suffix.strip(" _.-")
    before = re.sub(r"[ _.\-]?[A-Za-z]+[ _.\-]*$", "", family.prefix)
    return before if len(core(family.prefix)) > 1 and user_rank(before) < 0.6 else ""


def _free(name: str, columns: Columns) -> str:
    others = {"user": ("user", "annotator", "rater", "judge", "who_judged"), JUDGEMENT: (JUDGEMENT, "label", "rating")}
    free = [each for each in others[name] if each not in columns]
    return free[0] if free else f"{name}_of_column"


def like_people(columns: Columns, not_asked: Sequence[str] = ()) -> list[Column]:
    """Columns of the same kind of values, of a table without a user: one for each person, or for each label."""
    read = {name: reading_of(column, not_asked) for name, column in columns.items() if not is_bookkeeping(name)}
    groups: dict[str, list[Column]] = {}
    for name, reading in read.items():
        if reading is not None and reading.kind != "multiselect":
            groups.setdefault(reading.kind, []).append(columns[name])
    return [each for each in max(groups.values(), key=len, default=[]) if form_of(each.distinct) != "dates or times"]


def of_pairs(columns: Columns, text: str, user: str) -> Shape | None:
    """Rows of a label's name and its value, several for each text and user."""
    one, other = columns[text], columns[user]
    if pairs_recur(one, other) < 0.3 * len(one.cells):
        return None
    both = Column(
        "", np.asarray([*(f"{a}\0{b}" for a, b in zip(one.cells, other.cells, strict=True)), None], object)[:-1]
    )
    rest = [each for name, each in columns.items() if name not in (text, user) and not each.nested and each.values]
    names = [
        each
        for each in rest
        if not each.numeric and 2 <= len(each.values) <= 30 and each.recurs and not is_bookkeeping(each.name)
        if pairs_recur(both, each) <= 0.02 * len(both.cells) and not is_prose(each.distinct)
    ]
    values = [each for each in rest if each not in names and not is_bookkeeping(each.name) and reading_of(each)]
    names.sort(key=lambda each: not set(core(each.name)) & LABEL_NAME)
    values.sort(key=lambda each: not set(core(each.name)) & VALUE)
    if not names or not values:
        return None
    label, value = names[0], values[0]
    hinted = bool(set(core(label.name)) & LABEL_NAME) + bool(set(core(value.name)) & VALUE)
    return Shape(
        {"label_column": label.name, "value_column": value.name},
        "a row for each label of a judgement",
        Guess(label.name, 0.5 + 0.2 * hinted, "each text and user has one row for each of its values"),
        labels=tuple(label.distinct),
    )


def _names(family: Family) -> set[str]:
    return {column.name for column in family.members.values()}


def _fractional(column: Column) -> bool:
    return column.numeric and bool((column.as_numbers % 1 != 0).any())

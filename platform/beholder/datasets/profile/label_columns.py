"""Which columns hold judgements, how each is read, and why the others are left out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from beholder.datasets.profile.column import Column
from beholder.datasets.profile.guesses import SURE, GivenColumns, Guess, UnsureError
from beholder.datasets.profile.left_out import AUTHORS, reason
from beholder.datasets.profile.names import (
    CLASS,
    VALUE,
    core,
)
from beholder.datasets.profile.readings import MOST_CLASSES, MOST_STEPS, Reading, reading_of
from beholder.datasets.profile.shapes import families
from beholder.datasets.profile.value_forms import form_of
from beholder.util.errors import DataError

Columns = Mapping[str, Column]
LONGEST = 60
"""Letters of a label's name; a longer one, as a form's question, is shortened."""
KEPT = "; kept, to compare groups in the report"
MOST_GROUPS = 12
CODED = {"class", "classes", "category", "type", "code", "target", "label"}
"""Names of columns whose numbers may stand for classes."""
RESERVED = ("text_id", "text", "user_id", "labels")
"""Names that no context column has."""


@dataclass
class Labels:
    """The labels of a table.

    Attributes:
        settings: of the source `table`.
        multiselect: of `reshape`, where a cell holds several labels.
        read: column -> how it is read.
        guesses: label -> why.
        left_out: column -> why.
        context: columns that are kept.
        notes: what a person should know, a line each.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    multiselect: dict[str, Any] | None = None
    read: dict[str, Reading] = field(default_factory=dict)
    guesses: dict[str, Guess] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    context: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def labels_of(
    columns: Columns,
    text: str,
    user: str,
    given: GivenColumns,
    where: Path,
    rows: Sequence[int],
    derived: bool,
) -> Labels:
    """Which of some columns hold judgements.

    Args:
        columns: of a table with one judgement in each row, without a column of parts.
        text, user: columns.
        given: what the caller named; labels that are named are used or refused.
        where: the file, for messages.
        rows: the row of the file (from 0) that each row comes from, for messages.
        derived: whether the table had one row for each text, so that means and majorities are of its judgements.

    Raises:
        DataError: no column holds judgements, or a named one cannot be read.
        UnsureError: values stand apart from a scale.
    """
    made = Labels()
    rest = [each for name, each in columns.items() if name not in (text, user)]
    if given.labels is not None:
        found = _named(columns, given, where)
        for column in rest:
            if column.name not in found:
                _leave_out(
                    made, column, reason(column, columns[text], columns[user], derived) or "not named as a label"
                )
    else:
        found = {}
        for column in rest:
            why = reason(column, columns[text], columns[user], derived)
            reading = reading_of(column, given.not_asked) if why is None else None
            if why is None and reading is not None:
                found[column.name] = reading
            else:
                _leave_out(made, column, why or "neither 0 and 1 nor a scale nor classes")
    chosen = _one_task(found, made, given, where)
    chosen = {name: _on_scale(columns[name], reading, given, where) for name, reading in chosen.items()}
    _refuse_apart(columns, chosen, where, rows)
    made.read = chosen
    _settle(columns, chosen, made, given, where)
    _tell_bad(columns, chosen, made, rows)
    return made


def _named(columns: Columns, given: GivenColumns, where: Path) -> dict[str, Reading]:
    found = {}
    for name in given.labels or ():
        if name not in columns:
            raise DataError(f"{where}: no column {name!r} for --labels. It has: {', '.join(columns)}.")
        column = columns[name]
        reading = reading_of(column, given.not_asked)
        if reading is None and column.numeric and len(column.values) > 2:
            ends = [float(column.as_numbers.min()), float(column.as_numbers.max())]
            reading = Reading("continuous", {"kind": "continuous", "range": ends})
        if reading is None:
            nested = columns[name].nested
            what = f"{nested}s" if nested else form_of(columns[name].distinct) or "free text"
            raise DataError(
                f'{where}: column "{name}" cannot be read as judgements: it holds {what}. Expected 0 and 1, '
                f"yes and no, steps of a scale, or at most {MOST_CLASSES} classes. Leave it out of --labels, "
                "or map its values."
            )
        found[name] = replace(reading, sureness=1.0)
    return found


def _leave_out(made: Labels, column: Column, why: str) -> None:
    groups = why.startswith(("follows", "neither")) and 2 <= len(column.values) <= MOST_GROUPS
    if (groups or why == AUTHORS) and column.name not in RESERVED and not column.nested:
        made.context.append(column.name)
        why += KEPT if groups else "; kept as context"
    made.left_out[column.name] = why


def _one_task(found: dict[str, Reading], made: Labels, given: GivenColumns, where: Path) -> dict[str, Reading]:
    """The labels and scales; or, where there are none, the one column of classes or of several labels a cell."""
    several = {name: each for name, each in found.items() if each.kind in ("multiclass", "multiselect")}
    plain = {name: each for name, each in found.items() if name not in several}
    sure = {name: each for name, each in plain.items() if each.sureness >= SURE}
    named = given.labels is not None
    if named and several and (plain or len(several) > 1):
        raise DataError(
            f"{where}: --labels {','.join(found)}: {' and '.join(several)} {'holds' if len(several) == 1 else 'hold'} "
            "classes, and one experiment has labels and scales, or one column of classes. Name one of them."
        )
    unsure = {name: each for name, each in plain.items() if name not in sure}
    if sure or (plain and not several):
        for name in several:
            made.left_out[name] = "one experiment has labels and scales, or one column of classes; for this: --labels"
        for name in unsure if sure else ():
            made.left_out[name] = "numbers that may be a slider's, but it is not sure; if people judged it: --labels"
        if sure or len(plain) == 1:
            return sure or plain
        raise UnsureError(
            where,
            f"{' and '.join(plain)} hold numbers that may be judgements.",
            "--labels",
            ",".join(plain),
            list(plain),
        )
    if not several:
        raise DataError(
            f"{where}: no column holds judgements: 0 and 1, yes and no, steps of a scale, or at most {MOST_CLASSES} "
            "classes, given otherwise by different people. Name them: --labels A,B."
        )
    ranked = sorted(several, key=lambda name: (several[name].kind == "multiclass", not CLASS.search(name)))
    rivals = [name for name in ranked[1:] if bool(CLASS.search(name)) == bool(CLASS.search(ranked[0]))]
    rivals = [name for name in rivals if several[name].kind == several[ranked[0]].kind]
    if rivals:
        problem = f"{' and '.join([ranked[0], *rivals])} hold classes, and one experiment has one column of them."
        raise UnsureError(where, problem, "--labels", ranked[0], ranked)
    for name in ranked[1:]:
        made.left_out[name] = "not the column of classes; for this: --labels"
    return {ranked[0]: several[ranked[0]]}


def _on_scale(column: Column, reading: Reading, given: GivenColumns, where: Path) -> Reading:
    """A reading with the scale that the caller named."""
    if given.scale is None or reading.kind not in ("ordinal", "continuous", "binary") or "steps" in reading.rule:
        return reading
    low, high = map(float, given.scale)
    outside = [
        value
        for value, number in zip(column.distinct, column.as_numbers, strict=True)
        if not low <= number <= high and value not in reading.not_asked
    ]
    if len(outside) == len(column.distinct):
        raise DataError(
            f'{where}: no value of column "{column.name}" lies on the scale {low:g} to {high:g} of --scale.'
        )
    whole = low.is_integer() and high.is_integer() and high - low <= 50 and reading.kind != "continuous"
    ends = [int(each) if each.is_integer() else each for each in (low, high)]
    rule = {"kind": "ordinal" if whole else "continuous", "range": ends}
    return replace(reading, kind=rule["kind"], rule=rule, bad=tuple(outside), apart=())


def _refuse_apart(columns: Columns, chosen: dict[str, Reading], where: Path, rows: Sequence[int]) -> None:
    for name, reading in chosen.items():
        if not reading.apart:
            continue
        value = reading.apart[0]
        places = columns[name].rows_of({value})
        low, high = reading.rule.get("range", (0, 1))
        problem = (
            f'column "{name}": {value} stands apart from {low:g} to {high:g} ({in_rows(places, rows)}): '
            "a step of the scale, or no answer?"
        )
        remedy = f"If it is no answer: --not-asked={shlex.quote(value)}. "
        number = columns[name].as_numbers[columns[name].distinct.index(value)]
        if not np.isnan(number):
            remedy += f"If it is a step: --scale={min(low, number):g}..{max(high, number):g}. "
        remedy += f"If it is a mistake: --scale={low:g}..{high:g}."
        raise UnsureError(where, problem, "--not-asked", value, [], remedy)


def _settle(columns: Columns, chosen: dict[str, Reading], made: Labels, given: GivenColumns, where: Path) -> None:
    """Settings of the chosen labels."""
    first = next(iter(chosen.values()))
    if first.kind == "multiclass":
        name = next(iter(chosen))
        made.settings = {"kind": "multiclass", "label_column": name}
        made.guesses[name] = Guess(name, first.sureness, f"{len(columns[name].values) - len(first.not_asked)} classes")
    elif first.kind == "multiselect":
        name = next(iter(chosen))
        made.multiselect = {"column": name, "labels": list(first.labels), "separator": first.separator}
        made.multiselect |= {"none": list(first.none)} if first.none else {}
        made.multiselect |= {"not_asked": list(first.not_asked)} if first.not_asked else {}
        made.settings = {"labels": {label: {} for label in first.labels}}
        blank = (columns[name].missing and not first.blank_is_no) or first.not_asked
        made.settings |= {"allow_missing": True} if blank else {}
        why = f"lists of {len(first.labels)} labels in a cell"
        made.guesses |= {label: Guess(name, first.sureness, why) for label in first.labels}
    else:
        shared = _shared_ranges(chosen)
        rules: dict[str, Any] = {}
        for name, reading in chosen.items():
            rule = {**reading.rule, **({"range": shared[name]} if name in shared else {})}
            label = _label_name(name, columns, rules)
            rule = _cut(rule, given.at_least, name, where)
            rules[label] = {**({"column": name} if label != name else {}), **rule}
            made.guesses[label] = Guess(name, reading.sureness, _how(reading))
            if label != name and len(name) > LONGEST:
                made.notes.append(f'the label of column "{name[:40]}..." is called "{label}"')
            if reading.kind == "ordinal" and "range" in rule and set(core(name)) & CODED:
                made.notes.append(
                    f'"{name}": numbers are read as steps of a scale. If they stand for classes without an order: '
                    "kind: multiclass, label_column"
                )
        made.settings = {"labels": rules}
        missing = any(columns[name].missing and not reading.blank_is_no for name, reading in chosen.items())
        made.settings |= {"allow_missing": True} if missing else {}
    _tell_unasked(columns, chosen, made)


def _tell_unasked(columns: Columns, chosen: dict[str, Reading], made: Labels) -> None:
    """Settings of what is no answer: words for that, and empty cells."""
    unasked: dict[str, int] = {}
    for name, reading in chosen.items():
        if reading.blank_is_no:
            made.notes.append(f'"{name}": only what was ticked is written, so an empty cell is read as no')
        for value in reading.not_asked:
            unasked[f'"{value}"'] = unasked.get(f'"{value}"', 0) + len(columns[name].rows_of({value}))
        if columns[name].missing and not reading.blank_is_no:
            unasked["empty"] = unasked.get("empty", 0) + columns[name].missing
    words = {value for reading in chosen.values() for value in reading.not_asked if made.multiselect is None}
    if (made.multiselect is not None and unasked) or (
        "empty" in unasked and not any(each.blank_is_no for each in chosen.values())
    ):
        words.add("")
    if words:
        made.settings["not_asked"] = sorted(words)
    if unasked:
        counted = ", ".join(f"{count:,} {value}" for value, count in unasked.items())
        made.notes.append(f"no answer, so the label counts as not asked there: {counted}")


def _shared_ranges(chosen: dict[str, Reading]) -> dict[str, list[int]]:
    """Questions of one series have one scale: what some of them reach, the others do as well."""
    empty = np.asarray(["x"], dtype=object)
    found: dict[str, list[int]] = {}
    for family in families({name: Column(name, empty) for name in chosen}):
        names = [column.name for column in family.members.values()]
        ranges = [chosen[name].rule.get("range") for name in names]
        if any(chosen[name].kind != "ordinal" or ends is None for name, ends in zip(names, ranges, strict=True)):
            continue
        ends = [min(each[0] for each in ranges if each), max(each[1] for each in ranges if each)]
        if ends[1] - ends[0] < MOST_STEPS:
            found |= dict.fromkeys(names, ends)
    return found


def _cut(rule: dict[str, Any], at_least: float | None, name: str, where: Path) -> dict[str, Any]:
    if at_least is None or rule.get("kind") not in ("ordinal", "continuous"):
        return rule
    if "range" not in rule:
        raise DataError(f'{where}: --at-least cuts numbers, and column "{name}" holds words. Leave it out.')
    low, high = rule["range"]
    if not low < at_least <= high:
        raise DataError(f'{where}: --at-least {at_least:g} is outside the scale {low:g} to {high:g} of "{name}".')
    return {"at_least": int(at_least) if float(at_least).is_integer() else at_least, "range": rule["range"]}


def _label_name(name: str, columns: Columns, taken: Mapping[str, Any]) -> str:
    """The name of a column's label: its own, shortened where it is a whole question; of the one label it is about."""
    constant = [
        each
        for each in columns.values()
        if len(each.values) == 1 and not each.missing and set(core(each.name)) & {"label", "labels", "category"}
    ]
    wanted = name
    if len(constant) == 1 and set(core(name)) & VALUE and len(constant[0].distinct[0]) <= LONGEST:
        wanted = constant[0].distinct[0]  # as in `label: RUDE, answer: accept`
    if len(wanted) > LONGEST:
        wanted = wanted[:LONGEST].rsplit(" ", 1)[0].rstrip(" ,;:-?") or wanted[:LONGEST]
    number, free = 2, wanted
    while free in taken:
        free, number = f"{wanted} {number}", number + 1
    return free


def _how(reading: Reading) -> str:
    if "steps" in reading.rule:
        return f"a scale of words, {reading.rule['steps'][0]} to {reading.rule['steps'][-1]}"
    low, high = reading.rule.get("range", (0, 1))
    if reading.kind == "ordinal":
        return f"a scale of whole numbers, {low:g} to {high:g}"
    return f"a slider, {low:g} to {high:g}" if reading.kind == "continuous" else "given or not"


def _tell_bad(columns: Columns, chosen: dict[str, Reading], made: Labels, rows: Sequence[int]) -> None:
    for name, reading in chosen.items():
        if reading.bad:
            places = columns[name].rows_of(set(reading.bad))
            made.notes.append(
                f'"{name}": {in_rows(places, rows)} cannot be read. Fix {"it" if len(places) == 1 else "them"}, name '
                "the value with --not-asked, map it under source.labels, or run with --on-bad-rows skip"
            )


def in_rows(places: Any, rows: Sequence[int]) -> str:
    """Rows for people: how many, and the numbers of the first."""
    numbers = sorted({int(rows[place]) + 1 for place in places})
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"{'row' if len(numbers) == 1 else f'{len(numbers):,} rows:'} {shown}"

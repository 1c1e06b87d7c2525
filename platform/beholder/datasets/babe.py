"""BABE/MBIC: is a sentence from the news biased? 809 crowd workers who described themselves (Spinde et al. 2021)."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from beholder.data.annotations import Annotations
from beholder.data.label_rules import one_of
from beholder.data.task import Task
from beholder.data.validation import BadRows, Loaded, Raw, UncheckedRows, admit
from beholder.datasets.config import SourceSettings
from beholder.datasets.duplicates import without_repeats
from beholder.datasets.io import read_parquet, require_columns
from beholder.datasets.locate import find
from beholder.datasets.traits import UNKNOWN, Trait, one_answer_each

TRAITS = ("age", "gender", "education", "political_ideology")
COLUMNS = ("text_id", "text", "annotator_id", "biased", *TRAITS)
CLASSES = ("not biased", "biased")
"""Both count in macro-F1: three in five judgements are `biased`, so that its F1 alone would reward saying it always."""
AGE_STARTS, AGE_NAMES = (18, 30, 45, 60), ("18-29", "30-44", "45-59", "60+")
OLDEST = 120
SCALE_END, CENTRE_END = 10, 4
"""Political ideology runs from -10 to 10, centre lies strictly between -4 and 4: three thirds of 7 steps each."""


class Babe(SourceSettings):
    """Settings of `babe`: two classes, `not biased` and `biased`.

    Where a worker judged a text twice, the first judgement is kept. Context columns describe the worker: `gender`,
    `education`, `age` and `political_ideology` as they were answered, and two columns for groups. `age_group` is 18-29,
    30-44, 45-59 or 60+. `ideology_group` cuts the scale from -10 (left) to 10 (right) into equal thirds: left to -4,
    centre from -3 to 3, right from 4.

    A group, a gender or an education is `unknown` where the answer is missing, is no number, or lies outside 18 to 120
    years or the scale. Some workers answered these questions several times, and differently. Each worker has one value
    of each trait: the answer on most of their rows, the earliest in the file among equals. How many workers each rule
    concerns stands in the origin line.
    """

    name: Literal["babe"] = "babe"


def load(config: Babe, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load BABE/MBIC, one row per worker and sentence.

    Raises:
        DataError: not found, damaged, a column is missing, or a row is refused.
    """
    file = find("babe", config.path)
    raw = Raw.of(read_parquet(file), file)
    require_columns(raw.table, COLUMNS, file, "Expected babe_mbic.parquet; name it under source.path.")
    biased = raw.numbers("biased", one_of(range(2)))
    sound = np.flatnonzero(raw.sound)
    rows, repeats = without_repeats(sound, raw, "text_id", "annotator_id")
    # A repeated judgement is left out, but what its row states about the worker still counts.
    users = raw.strings("annotator_id")[sound]
    traits = {name: one_answer_each(raw.strings(name)[sound], users) for name in TRAITS}
    kept = np.isin(sound, rows)
    draft = UncheckedRows(
        raw,
        Task(CLASSES, "multiclass"),
        rows,
        text=raw.strings("text")[rows],
        user_id=users[kept],
        labels=np.stack([biased[rows] == number for number in range(2)], axis=1).astype(np.float32),
        text_id=raw.strings("text_id")[rows],
        context={name: values[kept] for name, values in _context(traits).items()},
        column_of={"user_id": "annotator_id"},
    )
    loaded = admit(draft, "", on_bad_rows)
    return replace(loaded, origin=_origin(file, repeats, traits, loaded.annotations))


def age_group(age: str) -> str:
    """One of `AGE_NAMES`, or `UNKNOWN` for what is no age from 18 to 120."""
    years = _number(age)
    return AGE_NAMES[bisect_right(AGE_STARTS, years) - 1] if AGE_STARTS[0] <= years <= OLDEST else UNKNOWN


def ideology_group(ideology: str) -> str:
    """`left`, `centre` or `right`, or `UNKNOWN` for what is no number from -10 to 10."""
    place = _number(ideology)
    if not -SCALE_END <= place <= SCALE_END:
        return UNKNOWN
    if -CENTRE_END < place < CENTRE_END:
        return "centre"
    return "left" if place < 0 else "right"


def _context(traits: dict[str, Trait]) -> dict[str, NDArray[np.object_]]:
    return {
        "gender": traits["gender"].groups(),
        "education": traits["education"].groups(),
        "age": traits["age"].answers,
        "age_group": traits["age"].groups(age_group),
        "political_ideology": traits["political_ideology"].answers,
        "ideology_group": traits["political_ideology"].groups(ideology_group),
    }


def _origin(file: Path, repeats: int, traits: dict[str, Trait], annotations: Annotations) -> str:
    """What was loaded, and how many of its people the rules about traits concern."""
    parts = [f"BABE/MBIC media bias ({file}, repository AGPL-3.0, sentences are publishers' text)"]
    parts.append(f"{repeats} repeats left out")
    users = annotations.user_ids
    changed = {name: trait.changed.intersection(users) for name, trait in traits.items()}
    people = frozenset().union(*changed.values())
    if people:
        counts = _counts({name: len(of) for name, of in changed.items()})
        parts.append(f"{len(people)} people answered differently at times, most frequent answer kept ({counts})")
    unknown = {
        name: len({user for user, group in zip(users, annotations.column(name), strict=True) if group == UNKNOWN})
        for name in ("gender", "education", "age_group", "ideology_group")
    }
    if any(unknown.values()):
        parts.append(f"people of unknown group: {_counts(unknown)}")
    return "; ".join(parts)


def _counts(of: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in of.items() if count)


def _number(value: str) -> float:
    """NaN for what is no number: it lies in no range."""
    try:
        return float(value)
    except ValueError:
        return float("nan")

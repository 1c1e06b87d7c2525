"""BRIGHTER: six emotions in texts of many languages, judged by native speakers (SemEval-2025 Task 11)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from beholder.data.label_rules import one_of
from beholder.data.scales import Scale
from beholder.data.task import Task
from beholder.data.validation import BadRows, Loaded, Raw, UncheckedRows, admit
from beholder.datasets.config import SourceSettings
from beholder.datasets.io import read_parquet, require_columns
from beholder.datasets.locate import find
from beholder.util.errors import DataError, unknown

EMOTIONS = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
INTENSITIES = (0.0, 1.0, 2.0, 3.0)
# How far an id is one person, by language: the file's `id_status`.
EXPLICIT, LIKELY, UNVERIFIED, SLOT = "explicit", "likely_persistent", "unverified", "slot_not_person"
LANGUAGES = {
    "afr": UNVERIFIED,
    "arq": LIKELY,
    "deu": EXPLICIT,
    "hin": UNVERIFIED,
    "mar": UNVERIFIED,
    "ptbr": EXPLICIT,
    "ron": LIKELY,
    "swe": UNVERIFIED,
    "ukr": SLOT,
}


class Brighter(SourceSettings):
    """Settings of `brighter`.

    An emotion is present where its intensity (0 to 3) is above 0; with `intensities`, each emotion is an ordinal scale.
    Null = not asked. Rows in which every emotion is null
    are no judgements and are left out. `min_rows`: users with fewer judgements are left out. The default languages are
    those whose ids are explicitly persons; a language whose ids are slots is refused, because there is nobody to
    personalise for.
    """

    name: Literal["brighter"] = "brighter"
    languages: tuple[str, ...] = Field(default=("deu", "ptbr"), min_length=1)
    min_rows: int = Field(default=0, ge=0)
    intensities: bool = False

    added: ClassVar[tuple[str, ...]] = ("intensities",)

    @field_validator("languages")
    @classmethod
    def _are_of_persons(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        for language in languages:
            if language not in LANGUAGES:
                raise ValueError(unknown("language", language, LANGUAGES))
            if LANGUAGES[language] == SLOT:
                raise ValueError(f"annotator ids of {language!r} are slots, not persons: nobody to personalise for")
        return languages


def load(config: Brighter, on_bad_rows: BadRows = "refuse") -> Loaded:
    """Load BRIGHTER in the chosen languages.

    Raises:
        DataError: not found, damaged, a row is refused, or none is left.
    """
    file = find("brighter", config.path)
    table = read_parquet(file)
    needed = ("text_id", "text", "annotator_id", *EMOTIONS, "lang", "id_status")
    require_columns(table, needed, file, "Expected brighter_emotions.parquet as described in its README.")
    raw = Raw.of(table, file)
    languages, status = raw.strings("lang"), raw.strings("id_status")
    wanted = np.isin(languages.astype(str), config.languages)
    intensity = np.column_stack([raw.numbers(name, one_of(range(4), missing=True)) for name in EMOTIONS])
    for row in [row for row in raw.problems if not wanted[row]]:
        del raw.problems[row]  # bad rows of languages that are not used do not matter
    rows = np.flatnonzero(wanted & raw.sound & ~np.isnan(intensity).all(axis=1))
    slots = rows[status[rows] == SLOT]
    if len(slots):
        raise DataError(
            f'{file}, row {slots[0] + 1}, column "id_status": ids of {languages[slots[0]]!r} are slots, not persons. '
            "Leave the language out of source.languages."
        )
    users = raw.strings("annotator_id")
    names, user, count = np.unique(users[rows].astype(str), return_inverse=True, return_counts=True)
    rows = rows[count[user] >= config.min_rows]
    if not len(rows) and not raw.problems:
        raise DataError(
            f"{file}: no user with at least {config.min_rows} judgements in {', '.join(config.languages)}"
            f"{f' (the busiest has {count.max()})' if len(names) else ''}. Lower source.min_rows, or add languages."
        )
    values = intensity[rows]
    labels, task = np.where(np.isnan(values), np.nan, values > 0), Task(EMOTIONS)
    if config.intensities:
        scales = [Scale(emotion, INTENSITIES) for emotion in EMOTIONS]
        labels = np.concatenate([scale.encode(of) for scale, of in zip(scales, values.T, strict=True)], axis=1)
        task = Task.of(scales)
    draft = UncheckedRows(
        raw,
        task,
        rows,
        text=raw.strings("text")[rows],
        user_id=users[rows],
        labels=labels.astype(np.float32),
        text_id=raw.strings("text_id")[rows],
        context={"lang": languages[rows]},
        column_of={"user_id": "annotator_id"},
    )
    persons = ", ".join(f"{language} (ids {LANGUAGES[language].replace('_', ' ')})" for language in config.languages)
    return admit(draft, f"BRIGHTER emotions in {persons} ({file}, CC BY 4.0)", on_bad_rows)

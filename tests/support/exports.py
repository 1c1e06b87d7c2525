"""Small invented exports of annotation tools, and the way from an export to the annotations of a run."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from beholder.data.annotations import Annotations
from beholder.datasets import load
from beholder.experiment.config import load_experiment
from beholder.util.errors import DataError
from beholder.workflows.draft_experiment import DraftExperiment, draft, write

NOUNS = ("dog", "train", "garden", "boss", "letter", "song", "lunch", "street", "office", "phone", "rain", "tea")
TEXTS = tuple(f"the {noun} was late again, {number} times" for number, noun in enumerate(NOUNS))
PEOPLE = ("ann", "bob", "cleo", "dan")


def rude(text: int, person: int) -> int:
    """Whether a person finds a text rude: they agree half of the time."""
    return int((text * 7 + person * 3) % 5 < 2 + person % 2)


def stars(text: int, person: int) -> int:
    """What a person gives a text, 1 to 5."""
    return 1 + (text * 3 + person * 2) % 5


def pairs() -> list[tuple[int, int]]:
    """(text, person): everybody judges most texts."""
    return [(text, person) for person in range(len(PEOPLE)) for text in range(len(TEXTS)) if (text + person) % 6]


def table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as CSV, or TSV by the name."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Way:
    """The draft that `init` makes of an export, and what a run of its file loads."""

    made: DraftExperiment
    annotations: Annotations

    @property
    def source(self) -> dict[str, Any]:
        return self.made.source

    def labels_of(self, text: str, user: str) -> dict[str, float]:
        """Label -> value of one judgement."""
        rows = zip(self.annotations.texts, self.annotations.user_ids, self.annotations.labels, strict=True)
        found = [row for each, person, row in rows if each == text and person == user]
        assert len(found) == 1, f"{len(found)} judgements"
        return dict(zip(self.annotations.task.labels, found[0].tolist(), strict=True))


def way(folder: Path, where: Any, format: str = "auto", **named: Any) -> Way:
    """From an export to annotations, as `init` and `run` do it."""
    from beholder.datasets.profile.guesses import GivenColumns

    made = draft(where, GivenColumns(**named), format)
    before = sorted(folder.rglob("*"))
    file = folder / "experiment.yaml"
    write(made, file)
    annotations = load(load_experiment(file).source).annotations
    assert sorted(each for each in folder.rglob("*") if each != file) == before  # no copy of the data lies beside it
    return Way(made, annotations)


def refusal(where: Any, format: str = "auto") -> str:
    """The one line by which an export is refused."""
    with pytest.raises(DataError) as error:
        draft(where, format=format)
    assert "\n" not in str(error.value) and not any(text in str(error.value) for text in TEXTS)
    return str(error.value)

"""Small tables of judgements in many shapes, for tests of what is read from them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beholder.datasets.profile.guesses import GivenColumns
from beholder.workflows.draft_experiment import DraftExperiment, draft

WORDS = [
    "sun",
    "rain",
    "tea",
    "train",
    "office",
    "dog",
    "song",
    "letter",
    "street",
    "garden",
    "boss",
    "lunch",
    "night",
    "phone",
    "rail",
]
Cells = Sequence[Any] | Callable[[str, str, int], Any]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Different sentences of seven words."""
    rng = np.random.default_rng(seed)
    return [f"{WORDS[number % 15]} {' '.join(rng.choice(WORDS, 6))} {number}." for number in range(count)]


def pairs(texts: int = 25, users: int = 6, seed: int = 0, share: float = 0.7) -> list[tuple[str, str]]:
    """Who judged which text, in no order."""
    rng = np.random.default_rng(seed)
    every = [(text, f"w{user}") for text in sentences(texts, seed) for user in range(users) if rng.random() < share]
    return [every[place] for place in rng.permutation(len(every))]


def drawn(values: Sequence[Any], seed: int = 1) -> Callable[[str, str, int], Any]:
    """A column of values drawn at random, the same whatever order the rows have."""

    def cell(text: str, user: str, row: int) -> Any:
        return values[sum(map(ord, f"{text}{user}{seed}")) * 7919 % 104_729 % len(values)]

    return cell


def written(file: Path, columns: Mapping[str, Sequence[Any]], delimiter: str = ",") -> Path:
    """A CSV of columns."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return file


def long(judged: Sequence[tuple[str, str]], **columns: Cells) -> dict[str, list[Any]]:
    """One judgement a row: `text`, `annotator`, and columns given or made of text, user and row."""
    table: dict[str, list[Any]] = {"text": [text for text, _ in judged], "annotator": [user for _, user in judged]}
    for name, cells in columns.items():
        made = [cells(*pair, row) for row, pair in enumerate(judged)] if callable(cells) else list(cells)
        table[name] = made
    return table


def renamed(table: Mapping[str, list[Any]], **names: str) -> dict[str, list[Any]]:
    """The same with other names of columns."""
    return {names.get(name, name): cells for name, cells in table.items()}


def drafted(folder: Path, table: Mapping[str, Sequence[Any]], **given: Any) -> DraftExperiment:
    """What `init` makes of a table."""
    return draft(written(folder / "mine.csv", table), GivenColumns(**given))

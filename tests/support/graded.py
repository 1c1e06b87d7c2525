"""A table of graded judgements: readers who use scales in their own ways, on sentences of known strength."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from house import settings

from beholder.datasets.templates import COUNT, sentences

WORDS = ("not at all", "somewhat", "very")


def graded_table(file: Path, users: int = 6, rows: int = 60) -> Path:
    """A CSV: `post`, `reply`, `who`, an ordinal scale with numbers and one with words, a slider, and a label."""
    random = np.random.default_rng(5)
    replies, strength, _ = sentences(random.choice(COUNT, 90, replace=False), ("anger",))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["post", "reply", "who", "angry", "how", "slider", "rude"])
        for user in range(users):
            for text in random.choice(90, rows, replace=False):
                latent = 2 * strength[text, 0] + (user - users / 2) + random.normal(0, 0.2)
                angry = int(np.clip(np.rint(3 + latent), 1, 5))
                slider = "" if random.random() < 0.1 else f"{np.clip(50 + 20 * latent, 0, 100):.1f}"
                words = WORDS[int(np.clip(np.rint(1 + latent), 0, 2))]
                writer.writerow(
                    [f"post {text % 7}", replies[text], f"reader{user}", angry, words, slider, int(latent > 0)]
                )
    return file


def graded_settings(file: Path, **more: Any) -> dict[str, Any]:
    """An experiment on such a table, of the sizes of `house`."""
    source = {
        "name": "table",
        "path": str(file),
        "text": "{post} [SEP] {reply}",
        "user": "who",
        "allow_missing": True,
        "labels": {
            "angry": {"kind": "ordinal", "range": [1, 5]},
            "how": {"kind": "ordinal", "steps": list(WORDS)},
            "slider": {"kind": "continuous", "range": [0, 100]},
            "rude": {},
        },
    }
    made = settings(source=source, **more)
    made["methods"]["cls-u"]["controls"] = ["shuffled-users"]
    return made

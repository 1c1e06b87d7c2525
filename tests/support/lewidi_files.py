"""Small folders in the exact form of the LeWiDi files, with invented texts and people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXTS = {
    "CSC": ("context", "response"),
    "MP": ("post", "reply"),
    "Par": ("Question1", "Question2"),
    "VariErrNLI": ("context", "statement"),
}
POINTS = {"CSC": [str(point) for point in range(7)], "Par": [str(point) for point in range(-5, 6)]}
NLI = ("contradiction", "entailment", "neutral")
ANSWERS = {
    "ArMIS": ["0", "1"],
    "HS-Brexit": ["0", "1"],
    "MD-Agreement": ["1", "0"],
    "ConvAbuse": ["-2", "1"],
    "CSC": ["2", "5"],
    "MP": ["0", "1"],
    "Par": ["-4", "3"],
    "VariErrNLI": ["contradiction", "contradiction,neutral"],
}
"""Set -> what the first and the second annotator give in the invented files."""
ANNOTATORS = ["Ann1", "Ann2"]


def item(data: str, number: int, answers: list[str] | None, names: list[str] | None = None, **more: Any) -> dict:
    """One item of a set's file; `answers` None: without annotations, as in `*_test_clear.json`."""
    names = names or ANNOTATORS[: len(answers or ANNOTATORS)]
    fields = {
        "annotation task": "invented",
        "text": _text(data, number),
        "number of annotators": len(names),
        "annotators": ",".join(names),
        "number of annotations": len(names),
        "annotations": _annotations(data, names, answers),
        "soft_label": {} if answers is None else soft_label(data, answers),
        "split": "train",
        "lang": "en",
        "other_info": {},
    }
    return fields | more


def soft_label(data: str, answers: list[str]) -> dict:
    """Shares as in the files: rounded to two decimals in 2025."""
    shares = len(answers)
    if data == "VariErrNLI":
        given = [[label in answer.split(",") for answer in answers] for label in NLI]
        return {
            label: {"0": round(1 - sum(each) / shares, 2), "1": round(sum(each) / shares, 2)}
            for label, each in zip(NLI, given, strict=True)
        }
    if data in POINTS:
        return {point: round(answers.count(point) / shares, 2) for point in POINTS[data]}
    values = [str(int(int(answer) < 0)) for answer in answers] if data == "ConvAbuse" else answers
    yes = values.count("1") / shares
    return {"0.0": 1 - yes, "1.0": yes} if data == "MP" else {"0": 1 - yes, "1": yes}


def write(folder: Path, data: str, parts: dict[str, dict[str, dict]], meta: str | None = None) -> Path:
    """A folder with a file of each part; `parts`: train, dev, test or test_clear -> items."""
    stem = "Paraphrase" if data == "Par" else data
    folder.mkdir(parents=True, exist_ok=True)
    for part, items in parts.items():
        (folder / f"{stem}_{part}.json").write_text(json.dumps(items, indent=2, ensure_ascii=False))
    if meta is not None:
        (folder / f"{stem}_annotators_meta.json").write_text(meta)
    return folder


def small(folder: Path, data: str, **parts: Any) -> Path:
    """Two training items, a development and a test item, each judged by two people."""
    made = {
        "train": {"11": item(data, 11, ANSWERS[data]), "12": item(data, 12, ANSWERS[data])},
        "dev": {"21": item(data, 21, ANSWERS[data])},
        "test": {"31": item(data, 31, ANSWERS[data])},
    }
    return write(folder, data, {key: value for key, value in {**made, **parts}.items() if value is not None})


def _text(data: str, number: int) -> Any:
    if data in TEXTS:
        first, second = TEXTS[data]
        return {first: f"what was before {number}", second: f"what was answered {number}"}
    if data == "ConvAbuse":
        turns = {"prev_agent": "hello", "prev_user": "", "agent": "how are you?", "user": f'it\'s "{number}"'}
        return json.dumps(turns)
    return f"an invented text, number {number}"


def _annotations(data: str, names: list[str], answers: list[str] | None) -> Any:
    if data in TEXTS:
        people = list(dict.fromkeys(names))
        return dict(zip(people, answers, strict=True)) if answers is not None else dict.fromkeys(people, "")
    return ",".join(answers) if answers is not None else ""

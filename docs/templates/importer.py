"""Template of an importer: a JSON export of Label Studio with one `choices` control, as a row per judgement.

The result is an ordinary table, which `beholder init` and `source: {name: table}` read:

    python importer.py export.json ratings.parquet
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beholder.util.errors import DataError


def read_label_studio(file: Path, text: str = "text") -> pa.Table:
    """Read an export: columns `text`, `user_id`, and one of 0 and 1 for each choice.

    Args:
        file: exported as JSON, with annotations.
        text: the key of a task's data that holds the text.

    Raises:
        DataError: not such an export; names the file and the task.
    """
    try:
        tasks = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = type(error).__name__
        raise DataError(f"{file}: not readable JSON ({what}). Export as JSON, with annotations.") from error
    judged: list[tuple[str, str, set[str]]] = []
    for task in tasks:
        try:
            answers = [each for each in task["annotations"] if not each.get("was_cancelled")]
            judged += [(task["data"][text], _annotator(each), _choices(each)) for each in answers]
        except (KeyError, TypeError) as error:
            number = task.get("id") if isinstance(task, dict) else task
            what = f"{type(error).__name__}: {error}"
            raise DataError(f"{file}, task {number}: {what}. Export as JSON, with annotations.") from error
    labels = sorted({choice for _, _, choices in judged for choice in choices})
    columns: dict[str, list[Any]] = {"text": [row[0] for row in judged], "user_id": [row[1] for row in judged]}
    columns |= {label: [int(label in row[2]) for row in judged] for label in labels}
    return pa.table(columns)


def _annotator(answer: dict[str, Any]) -> str:
    """Who judged: Label Studio exports a number, or an object with one."""
    person = answer["completed_by"]
    return str(person["id"] if isinstance(person, dict) else person)


def _choices(answer: dict[str, Any]) -> set[str]:
    return {choice for result in answer["result"] for choice in result["value"].get("choices", ())}


if __name__ == "__main__":
    pq.write_table(read_label_studio(Path(sys.argv[1])), sys.argv[2])

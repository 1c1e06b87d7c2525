"""An arm's scores as Parquet: everything evaluation needs, so that every number can be computed again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.evaluation.arm_scores import ArmScores, Judgements
from beholder.evaluation.newcomers import NewcomerScores
from beholder.util.atomic import atomic_write
from beholder.util.errors import DataError, first_line

FORMAT = 4
"""Written where a task has scales; else 3 where an arm was trained several times, 2 with folds, or 1, as before."""
COLUMNS = ("part", "text_id", "user_id", "labels", "scores")
KEYS = "text_key"
"""A further column, which earlier versions did not write: equal texts have equal keys, whatever their ids."""
FOLD = "fold"
"""A further column where each fold has a model of its own: which fold, from 0. Thresholds are then a list a fold."""
AGAIN = "scores_"
"""Further columns, `scores_2` and so on: of the same arm trained again. Their thresholds and seconds are `repeats`."""
STEPS = ("k", "given")
"""Further columns of the scores of newcomers."""
_KEY = b"beholder_scores"
_SEAL = b"beholder_scores_sha256"
Found = TypeVar("Found")


@dataclass(frozen=True)
class ScoresFile:
    """What a file holds: an arm's scores, and the rows they are held against."""

    arm: ArmScores
    task: Task
    valid: Judgements
    test: Judgements


def write_scores(file: Path, arm: ArmScores, valid: Annotations, test: Annotations) -> None:
    """Write validation and test rows with their scores; the file appears whole or not at all."""
    described: dict[str, Any] = {
        "format": FORMAT if valid.task.scales else 3 if arm.repeats else 1 if arm.test_fold is None else 2,
        "arm": arm.name,
        "method": arm.method,
        "control_of": arm.control_of,
        "seconds": arm.seconds,
        "thresholds": arm.thresholds.astype(float).tolist(),
        **valid.task.to_json(),
    }
    columns = {
        "part": ["valid"] * len(valid) + ["test"] * len(test),
        "text_id": [*valid.text_ids, *test.text_ids],
        "user_id": [*valid.user_ids, *test.user_ids],
        KEYS: [*valid.text_keys, *test.text_keys],
        "labels": _lists(np.concatenate([valid.labels, test.labels])),
        "scores": _lists(np.concatenate([arm.valid_scores, arm.test_scores])),
    }
    if arm.valid_fold is not None and arm.test_fold is not None:
        columns[FOLD] = pa.array(np.concatenate([arm.valid_fold, arm.test_fold]), pa.int64())
    if arm.repeats:
        described["repeats"] = [
            {"thresholds": each.thresholds.astype(float).tolist(), "seconds": each.seconds} for each in arm.repeats
        ]
    for number, each in enumerate(arm.repeats, 2):
        columns[f"{AGAIN}{number}"] = _lists(np.concatenate([each.valid_scores, each.test_scores]))
    _write(file, described, columns)


def write_newcomers(file: Path, scores: NewcomerScores) -> None:
    """Write scores at every k; the file appears whole or not at all."""
    described: dict[str, Any] = {
        "format": FORMAT if scores.task.scales else 1,
        "arm": scores.arm,
        "method": scores.method,
        "control_of": scores.control_of,
        "seconds": 0.0,
        "thresholds": [float(value) for value in scores.thresholds],
        **scores.task.to_json(),
    }
    columns = {
        "part": scores.part.tolist(),
        "text_id": scores.text_ids.tolist(),
        "user_id": scores.user_ids.tolist(),
        "labels": _lists(scores.labels),
        "scores": _lists(scores.scores),
        "k": pa.array(scores.k, pa.int64()),
        "given": pa.array(scores.given, pa.int64()),
    }
    _write(file, described, columns)


def _lists(values: NDArray[np.float32]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _write(file: Path, described: dict[str, Any], columns: dict[str, Any]) -> None:
    settings, table = json.dumps(described).encode(), pa.table(columns)
    table = table.replace_schema_metadata({_KEY: settings, _SEAL: _seal(settings, table)})
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_scores(file: Path) -> ScoresFile:
    """Read what `write_scores` wrote.

    Raises:
        DataError: missing, damaged (a checksum covers rows and settings), without a column, or of a newer version.
    """
    return _read(file, COLUMNS, _scores_file)


def read_newcomers(file: Path) -> NewcomerScores:
    """Read what `write_newcomers` wrote. See `read_scores` for the errors."""
    return _read(file, (*COLUMNS, *STEPS), _newcomer_scores)


def _read(file: Path, columns: tuple[str, ...], build: Callable[[pa.Table, dict[str, Any]], Found]) -> Found:
    remedy = "Run the experiment again with --fresh."
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        reason = first_line(error)
        raise DataError(f"{file}: no readable scores ({reason}). {remedy}") from error
    try:
        metadata = table.schema.metadata or {}
        described, seal = json.loads(metadata[_KEY]), metadata[_SEAL]
        newer = described["format"] > FORMAT
        absent = [column for column in columns if column not in table.column_names]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not a scores file of beholder. {remedy}") from error
    if newer:
        raise DataError(f"{file}: format {described['format']} is newer than this version reads ({FORMAT}). Upgrade.")
    if absent:
        raise DataError(f"{file}: column {absent[0]!r} is missing. {remedy}")
    try:
        intact = seal == _seal(metadata[_KEY], table)
        found = build(table, described)
    except (AttributeError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{file}: damaged ({type(error).__name__}: {error}). {remedy}") from error
    if not intact:
        raise DataError(f"{file}: damaged (its rows do not match their checksum). {remedy}")
    return found


def without_user(file: Path, user: str) -> None:
    """Take a user's rows out of a scores file; it is sealed again. See `read_scores` for the errors."""
    read_scores(file)
    table = pq.read_table(file)
    settings = table.schema.metadata[_KEY]
    table = table.filter(pc.field("user_id") != user)
    with atomic_write(file) as temporary:
        pq.write_table(
            table.replace_schema_metadata({_KEY: settings, _SEAL: _seal(settings, table)}),
            temporary,
            compression="zstd",
        )


def _seal(settings: bytes, table: pa.Table) -> bytes:
    """SHA-256 over the contents, not over the file: settings, ids, labels and scores."""
    digest = hashlib.sha256(settings)
    repeats = sorted(name for name in table.column_names if name.startswith(AGAIN))
    for column in (*COLUMNS, *(name for name in (KEYS, FOLD, *STEPS) if name in table.column_names), *repeats):
        if column in (FOLD, *STEPS):
            digest.update(table[column].to_numpy().astype(np.int64).tobytes())
        elif column in ("labels", "scores", *repeats):
            digest.update(table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False).tobytes())
        else:
            digest.update("\0".join(table[column].to_pylist()).encode())
    return digest.hexdigest().encode()


def _scores_file(table: pa.Table, described: dict[str, Any]) -> ScoresFile:
    part, labels, scores = _strings(table, "part"), _matrix(table, "labels"), _matrix(table, "scores")
    keys = KEYS if KEYS in table.column_names else "text_id"
    ids = [_strings(table, column) for column in ("text_id", "user_id", keys)]
    rows = {name: Judgements(labels[part == name], *(each[part == name] for each in ids)) for name in ("valid", "test")}
    fold = table[FOLD].to_numpy().astype(np.int64) if FOLD in table.column_names else None
    arm = ArmScores(
        name=described["arm"],
        method=described["method"],
        thresholds=np.asarray(described["thresholds"], dtype=np.float32),
        valid_scores=scores[part == "valid"],
        test_scores=scores[part == "test"],
        seconds=described["seconds"],
        control_of=described["control_of"],
        valid_fold=None if fold is None else fold[part == "valid"],
        test_fold=None if fold is None else fold[part == "test"],
    )
    again = []
    for number, each in enumerate(described.get("repeats", []), 2):
        scores = _matrix(table, f"{AGAIN}{number}")
        again.append(
            replace(
                arm,
                thresholds=np.asarray(each["thresholds"], dtype=np.float32),
                valid_scores=scores[part == "valid"],
                test_scores=scores[part == "test"],
                seconds=each["seconds"],
            )
        )
    arm = replace(arm, repeats=tuple(again))
    return ScoresFile(arm, Task.from_json(described), rows["valid"], rows["test"])


def _newcomer_scores(table: pa.Table, described: dict[str, Any]) -> NewcomerScores:
    return NewcomerScores(
        arm=described["arm"],
        method=described["method"],
        control_of=described["control_of"],
        thresholds=np.asarray(described["thresholds"], dtype=np.float32),
        task=Task.from_json(described),
        part=_strings(table, "part"),
        k=table["k"].to_numpy().astype(np.int64),
        given=table["given"].to_numpy().astype(np.int64),
        text_ids=_strings(table, "text_id"),
        user_ids=_strings(table, "user_id"),
        labels=_matrix(table, "labels"),
        scores=_matrix(table, "scores"),
    )


def _strings(table: pa.Table, column: str) -> NDArray[np.object_]:
    return np.asarray([*table[column].to_pylist(), None], dtype=object)[:-1]


def _matrix(table: pa.Table, column: str) -> NDArray[np.float32]:
    """float32 [rows, labels]"""
    chunks = table[column].combine_chunks()
    flat = chunks.flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.float32, copy=False).reshape(len(table), chunks.type.list_size)

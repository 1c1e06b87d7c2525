"""An arm's scores as Parquet: everything evaluation needs, so that every number can be computed again."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beholder.annotations import Annotations
from beholder.errors import DataError
from beholder.evaluation.metrics import Kind
from beholder.evaluation.results import ArmScores, Rows
from beholder.files import whole

FORMAT = 1
COLUMNS = ("part", "text_id", "user_id", "labels", "scores")
_KEY = b"beholder_scores"
_SEAL = b"beholder_scores_sha256"


@dataclass(frozen=True)
class ScoresFile:
    """What a file holds: an arm's scores, and the rows they are held against."""

    arm: ArmScores
    label_names: tuple[str, ...]
    kind: Kind
    valid: Rows
    test: Rows


def write_scores(file: Path, arm: ArmScores, valid: Annotations, test: Annotations) -> None:
    """Write validation and test rows with their scores; the file appears whole or not at all."""
    count = len(valid.task.labels)
    described: dict[str, Any] = {
        "format": FORMAT,
        "arm": arm.name,
        "method": arm.method,
        "control_of": arm.control_of,
        "seconds": arm.seconds,
        "thresholds": [float(value) for value in arm.thresholds],
        "labels": list(valid.task.labels),
        "kind": valid.task.kind,
    }

    def lists(values: NDArray[np.float32]) -> pa.Array:
        flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, count)

    settings = json.dumps(described).encode()
    table = pa.table(
        {
            "part": ["valid"] * len(valid) + ["test"] * len(test),
            "text_id": [*valid.text_ids, *test.text_ids],
            "user_id": [*valid.user_ids, *test.user_ids],
            "labels": lists(np.concatenate([valid.labels, test.labels])),
            "scores": lists(np.concatenate([arm.valid_scores, arm.test_scores])),
        }
    )
    table = table.replace_schema_metadata({_KEY: settings, _SEAL: _seal(settings, table)})
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, file)


def read_scores(file: Path) -> ScoresFile:
    """Read what `write_scores` wrote.

    Raises:
        DataError: missing, damaged (a checksum covers rows and settings), without a column, or of a newer version.
    """
    remedy = "Run the experiment again with --fresh."
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{file}: no readable scores ({reason}). {remedy}") from error
    try:
        metadata = table.schema.metadata or {}
        described, seal = json.loads(metadata[_KEY]), metadata[_SEAL]
        newer = described["format"] > FORMAT
        absent = [column for column in COLUMNS if column not in table.column_names]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not a scores file of beholder. {remedy}") from error
    if newer:
        raise DataError(f"{file}: format {described['format']} is newer than this version reads ({FORMAT}). Upgrade.")
    if absent:
        raise DataError(f"{file}: column {absent[0]!r} is missing. {remedy}")
    try:
        intact = seal == _seal(metadata[_KEY], table)
        found = _scores_file(table, described)
    except (AttributeError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{file}: damaged ({type(error).__name__}: {error}). {remedy}") from error
    if not intact:
        raise DataError(f"{file}: damaged (its rows do not match their checksum). {remedy}")
    return found


def without_user(file: Path, user: str) -> None:
    """Take a user's rows out of a scores file; it is sealed anew. See `read_scores` for the errors."""
    read_scores(file)
    table = pq.read_table(file)
    settings = table.schema.metadata[_KEY]
    table = table.filter(pc.field("user_id") != user)
    with whole(file) as temporary:
        pq.write_table(
            table.replace_schema_metadata({_KEY: settings, _SEAL: _seal(settings, table)}),
            temporary,
            compression="zstd",
        )


def _seal(settings: bytes, table: pa.Table) -> bytes:
    """SHA-256 over what is said, not over the file: settings, ids, labels and scores."""
    digest = hashlib.sha256(settings)
    for column in COLUMNS:
        if column in ("labels", "scores"):
            digest.update(table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False).tobytes())
        else:
            digest.update("\0".join(table[column].to_pylist()).encode())
    return digest.hexdigest().encode()


def _scores_file(table: pa.Table, described: dict[str, Any]) -> ScoresFile:
    names = tuple(described["labels"])
    part = np.asarray(table["part"].to_pylist(), dtype=object)

    def matrix(column: str) -> NDArray[np.float32]:
        flat = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.astype(np.float32, copy=False).reshape(len(part), len(names))

    labels, scores = matrix("labels"), matrix("scores")
    ids = {column: np.asarray(table[column].to_pylist(), dtype=object) for column in ("text_id", "user_id")}
    rows = {
        name: Rows(labels[part == name], ids["text_id"][part == name], ids["user_id"][part == name])
        for name in ("valid", "test")
    }
    arm = ArmScores(
        name=described["arm"],
        method=described["method"],
        thresholds=np.asarray(described["thresholds"], dtype=np.float32),
        valid_scores=scores[part == "valid"],
        test_scores=scores[part == "test"],
        seconds=described["seconds"],
        control_of=described["control_of"],
    )
    return ScoresFile(arm, names, described["kind"], rows["valid"], rows["test"])

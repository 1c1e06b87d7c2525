"""What a version remembers besides its models, so that a refresh of it forgets nothing.

```
told.parquet        judgements that refreshes learned from tables (what users gave a served model stays in `feedback`)
taken_in.parquet    user and stamp of each enrolment whose judgements a refresh learned from
texts.parquet       in which part of the run's split each of its texts was, where the split is not drawn by text alone
```

Judgements and stamps are of people, and are erased with them; a text is here under a hash of it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beholder.data.annotations import Annotations
from beholder.registry.blob_store import Store
from beholder.registry.manifest import Manifest
from beholder.util.atomic import atomic_write

TOLD, TAKEN_IN, TEXTS = "told.parquet", "taken_in.parquet", "texts.parquet"


def write_told(folder: Path, rows: Annotations) -> None:
    """Keep judgements in a bundle's folder, in the place of those that are there."""
    rows.write_parquet(folder / TOLD)


def read_told(manifest: Manifest, store: Store) -> Annotations | None:
    """What `write_told` wrote into a bundle; None where there is nothing."""
    entry = manifest.files.get(TOLD)
    return Annotations.read_parquet(store.checked(entry["sha256"])) if entry else None


def write_taken_in(folder: Path, stamps: Mapping[str, str]) -> None:
    """Note enrolments in a bundle's folder, those that are there already but for new ones of the same users."""
    known = {**read_taken_in(folder / TAKEN_IN), **stamps}
    with atomic_write(folder / TAKEN_IN) as temporary:
        pq.write_table(pa.table({"user_id": list(known), "stamp": list(known.values())}), temporary)


def read_taken_in(file: Path) -> dict[str, str]:
    """User -> stamp of the enrolment that was taken in."""
    if not file.is_file():
        return {}
    table = pq.read_table(file)
    return dict(zip(table["user_id"].to_pylist(), table["stamp"].to_pylist(), strict=True))


def took_in(manifest: Manifest, store: Store, user: str, stamp: str) -> bool:
    """Whether a bundle has learned from the judgements of an enrolment of this stamp."""
    entry = manifest.files.get(TAKEN_IN)
    return entry is not None and read_taken_in(store.checked(entry["sha256"])).get(user) == stamp


def texts_table(rows: Annotations, part: NDArray[np.object_]) -> pa.Table:
    """`texts.parquet`. A text some of whose rows are for testing is for testing, in whatever parts its others are.

    part: str [rows].
    """
    found: dict[str, str] = {}
    for name in ("train", "valid", "test"):
        found |= dict.fromkeys(rows.same_texts[part == name].tolist(), name)
    return pa.table({"key": list(found), "part": list(found.values())}, schema=_TEXTS)


def read_texts(manifest: Manifest, store: Store) -> dict[str, str] | None:
    """Text key (`Annotations.same_texts`) -> part; None where a bundle has no such table."""
    entry = manifest.files.get(TEXTS)
    if not entry:
        return None
    table = pq.read_table(store.checked(entry["sha256"]))
    return dict(zip(table["key"].to_pylist(), table["part"].to_pylist(), strict=True))


def forget(folder: Path, user: str) -> bool:
    """Take a person out of a bundle's folder; returns whether there was anything."""
    found = False
    for file in (folder / TOLD, folder / TAKEN_IN):
        if not file.is_file():
            continue
        table = pq.read_table(file)
        others = table.filter(pc.field("user_id") != user)
        if len(others) < len(table):
            with atomic_write(file) as temporary:
                pq.write_table(others, temporary, compression="zstd")
            found = True
    return found


_TEXTS = pa.schema([("key", pa.string()), ("part", pa.string())])

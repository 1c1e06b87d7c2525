"""Official split files beside a data set: which text belongs to which part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beholder.util.errors import DataError


def official_parts(
    files: Mapping[str, Path], read_ids: Callable[[Path], pa.ChunkedArray], text_ids: NDArray[np.object_]
) -> dict[str, NDArray[np.object_]]:
    """The context column `official_split`, or no column where there are no split files.

    Args:
        files: part (`train`, `valid`, `test`) -> its file.
        read_ids: the text ids a split file lists.
        text_ids: str [rows].

    Returns:
        `official_split`: the part of each row's text, "" where no file lists it.

    Raises:
        DataError: only some of the files are there, or a text stands in two.
    """
    missing = [str(file) for file in files.values() if not file.is_file()]
    if len(missing) == len(files):
        return {}
    if missing:
        raise DataError(f"{', '.join(missing)}: missing beside the other split files. Add it, or remove the others.")
    part_of: dict[str, str] = {}
    for part, file in files.items():
        for text_id in read_ids(file).to_pylist():
            if part_of.setdefault(text_id, part) != part:
                raise DataError(
                    f'{file}: text "{text_id}" also stands in {files[part_of[text_id]].name}. Fetch both files again.'
                )
    return {"official_split": np.asarray([part_of.get(text_id, "") for text_id in text_ids], dtype=object)}

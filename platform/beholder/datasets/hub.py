"""Data sets of the Hugging Face hub, by name: `hf://owner/name[/configuration][:split]`."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

from beholder.data.conversions import arrow_of
from beholder.util.errors import DataError, first_line

HUB = re.compile(r"hf:/{1,2}(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<part>[\w.-]+))?(?::(?P<split>[\w.-]+))?")
"""One slash is what is left of two in a path."""


def is_hub_name(where: Path | str) -> bool:
    """Whether a path names a data set of the hub."""
    return str(where).startswith("hf:/")


def read_hub(where: str) -> pa.Table:
    """Load a data set of the hub, or its copy in the cache of `datasets`.

    Raises:
        DataError: not such a name, unreachable, unknown, or one of several splits.
    """
    from datasets import Dataset, DatasetDict, load_dataset

    match = HUB.fullmatch(where)
    if match is None:
        raise DataError(f"{where}: expected hf://OWNER/NAME, hf://OWNER/NAME:SPLIT, or hf://OWNER/NAME/CONFIG:SPLIT.")
    try:
        found = load_dataset(match["name"], match["part"], split=match["split"])
    except Exception as error:  # whatever its HTTP client, its cache and its parsers raise
        raise DataError(
            f"{where}: cannot be loaded from the hub ({type(error).__name__}: {first_line(error).rstrip('.')[:200]}). "
            "Check the name and the connection, or download its file and name that."
        ) from error
    if isinstance(found, DatasetDict):
        if len(found) > 1:
            raise DataError(
                f"{where}: holds several splits ({', '.join(map(str, found))}). Name one, as in {where}:test."
            )
        found = next(iter(found.values()))
    if not isinstance(found, Dataset):
        raise DataError(f"{where}: is streamed, which is not supported. Download its file and name that.")
    return arrow_of(found)

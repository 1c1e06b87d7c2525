"""What a prior still holds of an erased person: the rows of theirs it was learned from.

Mean and basis of a prior are sums over many people, out of which nobody can be taken without learning it again
(`retrain`). What can be stated is how many of the rows were theirs: `prior_rows` of a bank's index, and `people` and
`rows` of `prior.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder.adapters.prior import FILES
from beholder.adapters.shards import completed
from beholder.util.errors import RegistryError

STILL_HOLDS = "prior_still_holds"
"""Entry of a manifest: `people` who were erased and are still in the prior, and their `rows` (None: not recorded)."""


@dataclass(frozen=True)
class Share:
    """What of a prior one person's rows are.

    Attributes:
        rows: of theirs that it was learned from; None in a bundle that does not record it.
        of_rows, of_people: all it was learned from.
    """

    rows: int | None
    of_rows: int
    of_people: int


def share_of(folder: Path, user: str) -> Share | None:
    """What the prior of a saved `cls-u` or `lm-u` holds of a user; None where it holds nothing of theirs.

    That is so where there is no prior, the user is not in the bank, or came after the prior was learned.

    Args:
        folder: of the saved method.
        user: who.

    Raises:
        RegistryError: a file is damaged.
    """
    described, index = folder / FILES[1], folder / "bank" / "index.parquet"
    if not described.is_file() or not index.is_file():
        return None
    try:
        prior: dict[str, Any] = json.loads(described.read_text())
        of_rows, of_people = int(prior.get("rows", 0)), int(prior.get("people", 0))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RegistryError(
            f"{described}: no readable prior ({type(error).__name__}). Fit the method again."
        ) from error
    found = completed(pq.read_table(index)).filter(pc.field("user_id") == user)["prior_rows"].to_pylist()
    if not found or found[0] == 0 or of_rows == 0:
        return None
    return Share(found[0], of_rows, of_people)


def add(held: Mapping[str, Any] | None, share: Share) -> dict[str, int | None]:
    """What a manifest counts under `STILL_HOLDS`, after one more person was erased."""
    before: Mapping[str, Any] = held or {"people": 0, "rows": 0}
    rows = None if before["rows"] is None or share.rows is None else before["rows"] + share.rows
    return {"people": before["people"] + 1, "rows": rows}

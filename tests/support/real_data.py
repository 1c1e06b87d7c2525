"""The real data sets, where this machine has them: in `BEHOLDER_DATA`, else beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

from needs import missing

BESIDE = Path(__file__).parents[3] / "shared" / "data"


def real(file: str) -> Path:
    """A real file, in one of these folders or in a folder of its own there; skips the test where it is missing."""
    named = os.environ.get("BEHOLDER_DATA")
    for root in (*([Path(named).expanduser()] if named else []), BESIDE):
        for place in (root / file, *sorted(root.glob(f"*/{file}"))):
            if place.is_file():
                return place
    missing("data", file)  # a small file of the same form covers the behaviour

"""Where beholder keeps what it makes: `BEHOLDER_HOME`, by default `.beholder/` in the current folder."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The home folder, absolute; made on first use by the first writer."""
    return Path(os.environ.get("BEHOLDER_HOME") or ".beholder").expanduser().absolute()

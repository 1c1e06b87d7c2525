"""Where beholder keeps what it makes: `BEHOLDER_HOME`, by default `.beholder/` in the current folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from beholder.util.errors import BeholderError


def home() -> Path:
    """The home folder, absolute; made on first use by the first writer."""
    return Path(os.environ.get("BEHOLDER_HOME") or ".beholder").expanduser().absolute()


def require_home() -> Path:
    """The home folder, made where it is missing.

    Raises:
        BeholderError: nothing can be written there.
    """
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise unusable(folder, error) from error


def unusable(place: Path | str, error: OSError) -> BeholderError:
    """One line for a place in the home folder that cannot be written."""
    return BeholderError(
        f"{place}: cannot be written ({error.strerror or type(error).__name__}). "
        "Set BEHOLDER_HOME to a folder that can."
    )

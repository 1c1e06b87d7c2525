"""The runs of this home folder, found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from beholder.errors import DataError
from beholder.evaluation.compare import split_of
from beholder.home import home


def find_run(name: str) -> Path:
    """A run's folder by path, name, or beginning of its name (the newest of several).

    Raises:
        DataError: there is none; lists those there are.
    """
    for folder in (Path(name), home() / "runs" / name):
        if (folder / "evaluation.json").is_file():
            return folder
    runs = newest_first()
    for folder in runs:
        if folder.name.startswith(name):
            return folder
    known = ", ".join(folder.name for folder in runs[:5]) or "none yet; make one with: beholder run EXPERIMENT"
    raise DataError(f"no run {name!r} in {home() / 'runs'}. There are: {known}")


def facts_of(folder: Path) -> dict[str, Any]:
    """Everything that was said of a run when it came to its end.

    Raises:
        DataError: it did not, or its file is damaged.
    """
    file = folder / "results.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not there, or damaged. Run the experiment again.") from error


def runs_split_alike() -> tuple[list[Path], int]:
    """The newest run that came to its end, with all others of the same split; and how many were split otherwise.

    Raises:
        DataError: there is none.
    """
    splits = {folder: split for folder in newest_first() if (split := split_of(folder))}
    if not splits:
        raise DataError(f"no run in {home() / 'runs'}. Make one with: beholder run EXPERIMENT")
    newest = next(iter(splits.values()))
    alike = [folder for folder, split in splits.items() if split == newest]
    return alike, len(splits) - len(alike)


def newest_first() -> list[Path]:
    """Folders of all runs that were evaluated."""
    files = sorted((home() / "runs").glob("*/evaluation.json"), key=lambda file: -file.stat().st_mtime)
    return [file.parent for file in files]

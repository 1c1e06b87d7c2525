"""The runs of this home folder, found again."""

from __future__ import annotations

import contextlib
from pathlib import Path

from beholder.evaluation.saved_run import read_results
from beholder.util.errors import DataError
from beholder.util.paths import home
from beholder.util.run_folder import RunFolder


def find_run(name: str) -> Path:
    """A run's folder by path, name, or beginning of its name (the newest of several).

    Raises:
        DataError: there is none; lists those there are.
    """
    for folder in (Path(name), home() / "runs" / name):
        if RunFolder(folder).evaluation.is_file():
            return folder
    runs = newest_first()
    for folder in runs:
        if folder.name.startswith(name):
            return folder
    known = ", ".join(folder.name for folder in runs[:5]) or "none yet; make one with: beholder run EXPERIMENT"
    raise DataError(f"no run {name!r} in {home() / 'runs'}. There are: {known}")


def runs_split_alike() -> tuple[list[Path], int]:
    """The newest run that came to its end, with all others of the same split; and how many were split otherwise.

    Raises:
        DataError: there is none.
    """
    splits: dict[Path, str] = {}
    for folder in newest_first():
        with contextlib.suppress(DataError):  # one that did not come to its end
            splits[folder] = read_results(folder).split.hash
    if not splits:
        raise DataError(f"no run in {home() / 'runs'}. Make one with: beholder run EXPERIMENT")
    newest = next(iter(splits.values()))
    alike = [folder for folder, split in splits.items() if split == newest]
    return alike, len(splits) - len(alike)


def newest_first() -> list[Path]:
    """Folders of all runs that were evaluated."""
    files = sorted((home() / "runs").glob("*/evaluation.json"), key=lambda file: -file.stat().st_mtime)
    return [file.parent for file in files]

"""Which files a path means: itself, those that fit a pattern, or those of a folder."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from beholder.datasets.hub import is_hub_name
from beholder.util.errors import DataError

REFUSED = ".refused.csv"
"""What a run writes beside a table is no part of it."""
SAVED_DATASET = ("dataset_info.json", "state.json", "dataset_dict.json")


def expanded(where: Path | str | Sequence[Path | str], known: Sequence[str]) -> list[Path | str]:
    """The files and saved folders that a path, a pattern, or a list of them means, in the order of their names.

    Args:
        where: see `io.read_rows`.
        known: extensions of tables, for folders.

    Raises:
        DataError: nothing is there, or files of two formats.
    """
    given = [where] if isinstance(where, str | Path) else list(where)
    if not given:
        raise DataError("no file was named. Name one.")
    found = [file for each in given for file in _expanded(each, known)]
    twice = next((file for place, file in enumerate(found) if file in found[:place]), None)
    if twice is not None:
        raise DataError(f"{twice}: named twice. Name it once.")
    return found


def is_pattern(where: Path | str) -> bool:
    """Whether a path is a pattern for several files."""
    return not is_hub_name(where) and glob.has_magic(str(where)) and not Path(where).expanduser().exists()


def _expanded(where: Path | str, known: Sequence[str]) -> list[Path | str]:
    if is_hub_name(where):
        return [str(where)]
    path = Path(where).expanduser()
    if is_pattern(where):
        files = [file for file in map(Path, glob.glob(str(path), recursive=True)) if not _passed_over(file)]
        if not files:
            raise DataError(f"{path}: no file fits this pattern. Fix it, or name a file.")
        return _of_one_format(path, files)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder. Fix its path.")
    if path.is_dir() and not any((path / name).is_file() for name in SAVED_DATASET):
        files = [file for file in path.iterdir() if _format(file).endswith(tuple(known)) and not _passed_over(file)]
        return _of_one_format(path, files) if files else [path]
    return [path]


def _of_one_format(where: Path, files: list[Path]) -> list[Path | str]:
    files = sorted(files)
    other = next((file for file in files if _format(file) != _format(files[0])), None)
    if other is not None:
        raise DataError(
            f"{where}: files of two formats ({files[0].name}, {other.name}). Name those that belong together, such as "
            f"{(where if where.is_dir() else where.parent) / ('*' + _format(files[0]))}."
        )
    return list(files)


def _format(file: Path) -> str:
    """The extension of a file, with that of the compressed one."""
    suffix = file.suffix.lower()
    return Path(file.stem).suffix.lower() + suffix if suffix == ".gz" else suffix


def _passed_over(file: Path) -> bool:
    return file.name.startswith(".") or file.name.endswith(REFUSED) or (file.is_dir() and _format(file) != "")

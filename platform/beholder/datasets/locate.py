"""Where data sets lie on this machine: an explicit path, `BEHOLDER_DATA`, `../shared/data`, the cache.

The first place that holds all files of a data set is used. An explicit path is the only place looked at: a misspelt one
must never run on other data.
"""

from __future__ import annotations

import os
from pathlib import Path

from beholder.util.errors import DataError
from beholder.util.paths import home

FILES: dict[str, tuple[str, ...]] = {
    "convabuse": ("convabuse.parquet",),
    "brighter": ("brighter_emotions.parquet",),
    "rottger": ("rottger_two_paradigms_g3.parquet",),
    "babe": ("babe_mbic.parquet",),
    "hatexplain": ("hatexplain_valtest.parquet",),
    "goemotions": ("goemotions_1.csv", "goemotions_2.csv", "goemotions_3.csv"),
    "unhealthy": ("unhealthy_full.csv",),
    "goemotions_texts": ("goemotions_texts.parquet",),
}
"""Every data set's files, all of which must be there."""

DOWNLOADABLE = ("goemotions", "unhealthy")


class DataNotFound(DataError):  # noqa: N818 - named for what happened: the demo falls back from it
    """A data set is in none of the usual places."""


def cache_folder(name: str) -> Path:
    """Where `beholder data prepare` keeps a data set: `$BEHOLDER_HOME/data/NAME`."""
    return home() / "data" / name


def find(name: str, path: Path | None = None) -> Path:
    """Find a data set: its file where it is one file, the folder of its files where it is several.

    Args:
        name: a key of `FILES`.
        path: the file itself, or the folder it lies in; nowhere else is looked then.

    Raises:
        DataNotFound: in none of the usual places.
        DataError: `path` was given and does not hold it.
    """
    if path is not None:
        return _explicit(name, path.expanduser())
    found = locate(name)
    if found is None:
        files = ", ".join(FILES[name])
        places = ", ".join(str(place) for place in _places(name))
        raise DataNotFound(f"{name} data not found. Looked for {files} in {places}. {_remedy(name)}")
    return found


def locate(name: str) -> Path | None:
    """Where a data set is, or None: also for a source that needs none (`table`, `simulated`)."""
    if name not in FILES:
        return None
    for folder in _places(name):
        if all((folder / file).is_file() for file in FILES[name]):
            return _whole(name, folder)
    return None


def _explicit(name: str, path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(
            f"{path}: no such file or folder. Fix source.path, or leave it out to look in the usual places."
        )
    missing = [file for file in FILES[name] if not (path / file).is_file()]
    if missing:
        raise DataError(f"{path}: this folder has no {', '.join(missing)}. {_remedy(name)}")
    return _whole(name, path)


def _whole(name: str, folder: Path) -> Path:
    return folder / FILES[name][0] if len(FILES[name]) == 1 else folder


def _places(name: str) -> list[Path]:
    roots = [Path("..") / "shared" / "data"]
    if os.environ.get("BEHOLDER_DATA"):
        roots.insert(0, Path(os.environ["BEHOLDER_DATA"]).expanduser())
    return [place for root in roots for place in (root, root / name)] + [home() / "data", cache_folder(name)]


def _remedy(name: str) -> str:
    fetch = f", or fetch it with: beholder data prepare {name} --download" if name in DOWNLOADABLE else ""
    return f"Name its place under source.path, or set BEHOLDER_DATA to its folder{fetch}."

"""Keys of experiment files that had another name: `limits` is `subsample`, a method's `from` is `init_from`.

Files with the old names are read as before. Digests hold the old names, so that a run stays the run it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beholder.methods.base import RENAMED
from beholder.util.errors import ExperimentError

TOP = {"limits": "subsample"}
"""Old key -> new key, at the top of a file. Those of methods: `methods.base.RENAMED`."""


def with_new_keys(written: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """An experiment under the new names, and what was renamed, each as `section.old is now new`.

    Args:
        written: an experiment as plain dicts, which stay as they are.
        where: the file, for messages.

    Raises:
        ExperimentError: a section has both names of a key.
    """
    found, notices = _renamed(written, TOP, f"{where}: ", "")
    methods = found.get("methods")
    if isinstance(methods, dict):
        found["methods"] = {}
        for name, settings in methods.items():
            if isinstance(settings, dict):
                settings, more = _renamed(settings, RENAMED, f"{where}: ", f"methods.{name}.")
                notices += more
            found["methods"][name] = settings
    return found, notices


def with_new_name(setting: str) -> tuple[str, list[str]]:
    """The same for a dotted setting of an experiment, as in `--set limits.rows=100`."""
    first, *rest = setting.split(".")
    if first in TOP:
        return ".".join([TOP[first], *rest]), [f"{first} is now {TOP[first]}"]
    if first == "methods" and len(rest) == 2 and rest[1] in RENAMED:
        return ".".join([first, rest[0], RENAMED[rest[1]]]), [f"{setting} is now {RENAMED[rest[1]]}"]
    return setting, []


def with_old_keys(written: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment under the names that digests are computed with."""
    tops, of_methods = ({new: old for old, new in names.items()} for names in (TOP, RENAMED))
    methods = {
        name: {of_methods.get(key, key): value for key, value in settings.items()}
        for name, settings in written["methods"].items()
    }
    return {tops.get(key, key): value for key, value in {**written, "methods": methods}.items()}


def _renamed(
    written: Mapping[str, Any], names: Mapping[str, str], where: str, section: str
) -> tuple[dict[str, Any], list[str]]:
    notices: list[str] = []
    for old, new in names.items():
        if old in written:
            if new in written:
                raise ExperimentError(f"{where}{section}{old} is the old name of {new}. Keep only {new}.")
            notices.append(f"{section}{old} is now {new}")
    return {names.get(key, key): value for key, value in written.items()}, notices

"""The methods there are, as a table: `beholder.methods()`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beholder.methods.base import METHODS, config_class
from beholder.util.tables import RowTable


def methods(name: str | None = None) -> RowTable:
    """The ways to predict, or the settings of one of them with their defaults.

    Args:
        name: of a method; None: all of them.

    Returns:
        A list of dicts that is shown as a table. Of all: `method`, `personal` (whether users matter to it), `starts
        from` (the method that is fitted before it), `bases` (the kinds it works with), `description`, `settings`
        (setting -> default). Of one: `setting`, `default`; what is nested is dotted, as in `lora.rank`.

    Raises:
        MethodError: no method has that name.
    """
    if name is not None:
        rows = [{"setting": key, "default": _plain(value)} for key, value in _flat(_settings(name)).items()]
        return RowTable(rows, f"{name}: {METHODS[name].description}")
    return RowTable(
        {
            "method": each,
            "personal": config_class(each).personal,
            "starts from": _settings(each).get("init_from", ""),
            "bases": ", ".join(config_class(each).bases) or "none needed",
            "description": entry.description,
            "settings": _settings(each),
        }
        for each, entry in METHODS.items()
    )


def _settings(name: str) -> dict[str, Any]:
    """Of a method by its defaults, plain values."""
    written = config_class(name)().model_dump(mode="json", by_alias=True)
    return {key: value for key, value in written.items() if key != "method"}


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

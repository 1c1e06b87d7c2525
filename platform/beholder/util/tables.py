"""Rows as a table: plain text for terminals, HTML for notebooks. Values are shown as they are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any


class RowTable(list[dict[str, Any]]):
    """Rows with the same keys: a list of dicts that is shown as a table.

    Values that are dicts or lists are kept, and not shown.

    Attributes:
        title: a line above the table.
        note: a line below it.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], title: str = "", note: str = "") -> None:
        super().__init__(dict(row) for row in rows)
        self.title, self.note = title, note

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(self._aligned(row, widths)).rstrip() for row in cells]
        lines[1:1] = ["  ".join("-" * width for width in widths)] if lines else []
        return "\n".join(filter(None, [self.title, *lines, self.note]))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        head, *body = self._cells() or [[]]
        rows = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>"]
        rows += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body]
        title = f"<p><b>{escape(self.title)}</b></p>" if self.title else ""
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return f"<div>{title}<table>{''.join(rows)}</table>{note}</div>"

    def _cells(self) -> list[list[str]]:
        """The head and every row as text; no row, no cell."""
        if not self:
            return []
        return [self._shown, *([_as_text(row[name]) for name in self._shown] for row in self)]

    @property
    def _shown(self) -> list[str]:
        return [name for name, value in self[0].items() if not isinstance(value, dict | list)]

    def _aligned(self, row: list[str], widths: list[int]) -> list[str]:
        """Numbers to the right, words to the left."""
        values = [self[0][name] for name in self._shown]
        numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in values]
        return [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numbers, strict=True)
        ]


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)

"""See `worlds`."""

from __future__ import annotations

from worlds import outcome, world

__all__ = ["outcome", "world"]

"""The most memory this process held for a while."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """From its making on. Linux keeps the peak itself; elsewhere nothing is known.

    GPU memory is not in it.
    """

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            RESET.write_text("5")  # the peak starts again at what is held now; see proc(5)

    @property
    def megabytes(self) -> float | None:
        """Resident memory at its highest, in MB of 2^20 bytes."""
        try:
            found = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.M)
        except OSError:
            return None
        return int(found[1]) / 1024 if found else None

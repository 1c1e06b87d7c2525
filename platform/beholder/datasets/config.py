"""What every source's settings have in common."""

from __future__ import annotations

from pathlib import Path

from beholder.util.strict_model import Section


class SourceSettings(Section):
    """Settings of one source. `path`: the file or folder, where it is not to be looked for in the usual places."""

    # A misspelt option must not be ignored: the run would quietly answer another question.
    path: Path | None = None

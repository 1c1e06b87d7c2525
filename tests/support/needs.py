"""Programs, packages and data that some tests need. Where one is missing, the test is skipped, and counted at the end.

In CI (`CI` is set) a test fails instead where `.ci/run` installs what it needs.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable
from glob import glob
from typing import NoReturn

import pytest

REMEDY = {
    "PostgreSQL": "apt-get install postgresql",
    "Chromium": "apt-get install chromium",
    "curl": "apt-get install curl",
    "bitsandbytes": "pip install -e '.[gpu]'",
    "data": "beholder data ls",
}
IN_CI = ("PostgreSQL", "Chromium", "curl")
"""What `.ci/run` installs."""


def missing(what: str, which: str = "") -> NoReturn:
    """Skip this test, or fail it in CI where CI has what it needs.

    Args:
        what: it needs, a key of `REMEDY` where there is one.
        which: of several, as in `data: convabuse`.
    """
    if what in IN_CI and os.environ.get("CI"):
        pytest.fail(f"{reason(what, which)}. Run: {REMEDY[what]}", pytrace=False)
    pytest.skip(reason(what, which))


def reason(what: str, which: str = "") -> str:
    """Why a test is skipped, in the form that `skipped_line` counts."""
    return f"needs {what}" + (f": {which}" if which else "")


def program(what: str, *names: str, beside: str = "") -> str:
    """The path of a program that is called one of some names.

    Args:
        what: it belongs to, see `missing`.
        names: that are looked for on the path.
        beside: a pattern of paths beside those; the last in order counts.
    """
    places = [*map(shutil.which, names), *sorted(glob(beside), reverse=True)]
    return next(filter(None, places), None) or missing(what)


def package(name: str) -> None:
    """Require an installed package."""
    if importlib.util.find_spec(name) is None:
        missing(name)


def skipped_line(reasons: Iterable[str]) -> str:
    """How many tests were skipped for want of what, in one line; empty where none was.

    Args:
        reasons: of each skipped test.
    """
    tests: defaultdict[str, list[str]] = defaultdict(list)
    for each in reasons:
        found = re.search(r"needs ([^:]+)(?:: (.+))?$", each)
        tests[found[1] if found else ""].append((found[2] or "") if found else "")
    parts = []
    for what, which in sorted(tests.items(), key=lambda each: -len(each[1])):
        names = ", ".join(sorted({each for each in which if each}))
        remedy = "; ".join(filter(None, (names, REMEDY.get(what, ""))))
        needed = f"need{'s' * (len(which) == 1)} {what}" if what else "for other reasons"
        parts.append(f"{len(which)} {needed}" + (f" ({remedy})" if remedy else ""))
    return f"skipped: {', '.join(parts)}" if parts else ""

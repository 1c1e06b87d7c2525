"""The commands that README, docs and the READMEs of infra print."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("infra/**/README.md")])


def printed_lines() -> list[tuple[str, str]]:
    """(file, line) of every line in a code block, without its comment; a command over several lines is one."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```(?:\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            lines = re.sub(r"\\\n\s*", " ", block).splitlines()
            name = str(page.relative_to(ROOT))
            found += [(name, re.split(r"\s#\s|\s{3,}#|(?<=\S)\s{4,}(?=\S)", line)[0].strip()) for line in lines]
    return found


def printed_commands() -> list[tuple[str, str]]:
    """(file, the words after `beholder`) of every `beholder` command line."""
    found = []
    for page, line in printed_lines():
        for command in line.split(";"):
            match = re.match(r"\s*(?:\w+=\S+ )*(?:\.venv/bin/)?beholder (.*)", command)
            if match:
                found += [(page, each) for each in _alternatives(match[1])]
    return found


def _alternatives(written: str) -> list[str]:
    """`registry ls | show MODEL` are two commands of `registry`; what stands in brackets may be left out."""
    written = re.sub(r"\[[A-Z]+\]", "", re.split(r" > | 2> ", written)[0])
    first, *others = written.split(" | ")
    group = first.split()[0]
    return [first.strip(), *(f"{group} {other}".strip() for other in others)]

"""The site builds without a warning, its references are complete, and every command that is printed anywhere exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import hooks
import pytest
from pydantic import BaseModel
from typer.main import get_command

from beholder.cli.main import app
from beholder.configuration import models_in
from beholder.experiment import Experiment
from beholder.methods import METHODS, config_class
from beholder.sources import SOURCES, source_class

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("infra/**/README.md"), *ROOT.glob("platform/README.md")]
)


def printed_commands() -> list[tuple[str, str]]:
    """(file, command line) of every `beholder ...` in a code block."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```(?:\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                written = re.split(r"\s#\s|\s{3,}#|(?<=\S)\s{4,}(?=\S)", line)[0]
                for command in written.split(";"):
                    match = re.match(r"\s*(?:\w+=\S+ )*(?:\.venv/bin/)?beholder (.*)", command)
                    if match:
                        found += [(page.name, each) for each in alternatives(match[1])]
    return found


def alternatives(written: str) -> list[str]:
    """`registry ls | show MODEL` are two commands of `registry`; what stands in brackets may be left out."""
    written = re.sub(r"\[[A-Z]+\]", "", re.split(r" > | 2> ", written)[0])
    first, *others = written.split(" | ")
    group = first.split()[0]
    return [first, *(f"{group} {other}" for other in others)]


COMMANDS = printed_commands()


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 40 and {"README.md", "own-table.md"} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize(("page", "written"), COMMANDS, ids=[f"{page}: {written}"[:70] for page, written in COMMANDS])
def test_a_printed_command_exists_with_its_options(page, written):
    words = [re.sub(r"^(VERSION|N)$", "1", word) for word in shlex.split(written)]
    command: click.Command = get_command(app)
    context = click.Context(command, info_name="beholder")
    while getattr(command, "commands", None):
        name = words.pop(0)
        assert name in command.commands, f"{page}: beholder {written}"  # type: ignore[attr-defined]
        command = command.commands[name]  # type: ignore[attr-defined]
    try:
        command.make_context(command.name, words, parent=context)
    except Exception as error:
        if type(error).__name__ != "MissingParameter":  # what a line shares with those it stands beside
            raise


def configs() -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = [Experiment]
    found += [source_class(name) for name in SOURCES] + [config_class(name) for name in METHODS]

    for model in found:  # grows while it is walked
        for field in model.model_fields.values():
            found += [each for each in models_in(field.annotation) if each not in found]
    return found


def test_the_configuration_reference_tells_every_key():
    written = hooks.configuration()
    rows = set(re.findall(r"^\| `([\w]+)` \|", written, re.M))
    keys = {field.alias or name for model in configs() for name, field in model.model_fields.items()}
    assert len(keys) > 80 and keys <= rows
    for name in METHODS:
        assert f"## `method: {name}`" in written
    assert "at most so many annotations" in written


def test_a_section_is_taken_whole_and_no_more():
    section = hooks.included("README.md", "Start")
    assert section.startswith("## Start") and "make demo" in section and "\n## " not in section[3:]
    with pytest.raises(ValueError, match="no heading"):
        hooks.included("README.md", "There is no such heading")


def test_the_site_builds_without_a_warning(tmp_path):
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    done = subprocess.run(
        [*line, "--site-dir", str(tmp_path / "site")], capture_output=True, text=True, timeout=240, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    for page in ("index", "how-to/own-table", "reference/commands", "reference/library"):
        html = (tmp_path / "site" / f"{page}.html").read_text(encoding="utf-8")
        assert "{{" not in html and "fonts.googleapis" not in html
    library = (tmp_path / "site" / "reference" / "library.html").read_text(encoding="utf-8")
    assert "Which rows" in library or "annotations" in library

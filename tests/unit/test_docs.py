"""The site builds without a warning, its references are complete, and every command that is printed anywhere exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import click
import hooks
import pytest
from printed import ROOT, printed_commands
from pydantic import BaseModel
from typer.main import get_command

from beholder.cli.main import app
from beholder.datasets import SOURCES, source_class
from beholder.experiment.config import Experiment
from beholder.methods import METHODS, config_class
from beholder.util.strict_model import models_in

COMMANDS = printed_commands()


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 40 and {"README.md", "docs/how-to/own-table.md"} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize(("page", "written"), COMMANDS, ids=[f"{page}: {written}"[:70] for page, written in COMMANDS])
def test_a_printed_command_exists_with_its_options(page, written):
    words = [re.sub(r"^(VERSION|N)$", "1", word) for word in shlex.split(written)]
    command: click.Command = get_command(app)
    context = click.Context(command, info_name="beholder")
    while getattr(command, "commands", None):
        alone = getattr(command, "invoke_without_command", False)
        if alone and (not words or words[0].startswith("-")):  # `serve`, which has `serve check` below it
            break
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
    for name in (
        "workflows.prepare.prepare",
        "data.annotations.Annotations",
        "evaluation.gains.gains",
        "evaluation.measures.MEASURES",
    ):
        assert f'id="beholder.{name}"' in library, name
    assert "An immutable table of judgements" in library

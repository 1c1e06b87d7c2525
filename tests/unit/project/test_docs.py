"""README, docs and site: every printed command exists, links lead somewhere, references are complete, no warning."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys

import click
import hooks
import pytest
from printed import ROOT, printed_commands, printed_lines
from pydantic import BaseModel
from typer.main import get_command

from beholder.cli.main import app
from beholder.datasets import SOURCES, source_class
from beholder.experiment.config import Experiment
from beholder.methods import METHODS, config_class
from beholder.util.strict_model import models_in

COMMANDS = printed_commands()


def test_there_are_commands_to_check():
    pages = {page for page, _ in COMMANDS}
    assert len(COMMANDS) > 60
    assert {"README.md", "docs/how-to/own-table.md", "docs/how-to/registry.md", "docs/how-to/serve.md"} <= pages
    assert {"docs/how-to/experiments.md", "docs/demo.md", "infra/README.md"} <= pages


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
    assert "`rows`: most annotations, whole texts" in written


def test_readme_is_short_and_has_python_early():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 170 and lines.index("```python") < 60
    assert {"make demo", "make test"} <= {line for page, line in printed_lines() if page == "README.md"}


def test_docs_own_their_text():
    """No page includes README, whose text would then have two readers; what both have is the six lines of Python."""
    pages = {file: file.read_text(encoding="utf-8") for file in ROOT.glob("docs/**/*.md")}
    included = {what for text in pages.values() for what in hooks.INCLUDE.findall(text)}
    assert "README.md" not in included and {"commands", "configuration", "modules", "CONTRIBUTING.md"} <= included
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"```python.*?```", readme, re.S) == re.findall(
        r"```python.*?```", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.S
    )


def test_links_of_files_outside_the_site_lead_somewhere():
    """mkdocs checks those of pages."""
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/benchmarks/README.md", "infra/README.md"):
        for words, target, anchor in hooks.LINK.findall((ROOT / name).read_text(encoding="utf-8")):
            file = (ROOT / name).parent / target
            assert file.exists(), f"{name}: {words}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
                slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
                assert anchor[1:] in slugs, f"{name}: {words}: {target}{anchor}"


def test_an_included_file_has_links_of_the_site():
    text = hooks.included("CONTRIBUTING.md", "contributing.md")
    assert "](how-to/own-method.md)" in text and "](changelog.md)" in text and "](docs/" not in text
    assert "[docker]" not in hooks.included("infra/README.md", "how-to/cluster.md")  # the site does not have it
    assert "](../benchmarks.md#on-a-gpu)" in hooks.included("infra/README.md", "how-to/cluster.md")


def test_the_module_reference_has_every_module():
    written = hooks.modules()
    for file in [*ROOT.glob("platform/beholder/*/*.py"), *ROOT.glob("serve/beholder_serve/**/*.py")]:
        if file.stem != "__init__":
            assert f"| `{file.stem}` | " in written, file
    assert "| `atomic` | " in written and "## beholder.data" in written


def test_the_library_page_names_what_there_is():
    """mkdocstrings leaves out without a warning what a module does not have."""
    page = (ROOT / "docs" / "reference" / "library.md").read_text(encoding="utf-8")
    found = re.findall(r"^::: ([\w.]+)\n    options: \{members: \[(.*?)\]\}", page, re.M)
    assert len(found) > 10
    for module, members in found:
        for name in members.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_modules_that_pages_name_exist():
    """`room/file.py` in a page is a file of the library; so are `tests/unit/...` of the project."""
    for page in ROOT.glob("docs/**/*.md"):
        for name in re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|yaml))`", page.read_text(encoding="utf-8")):
            places = (ROOT / name, ROOT / "platform" / "beholder" / name, ROOT / "serve" / name)
            assert any(place.exists() for place in places), f"{page.name}: {name}"


def test_the_citation_file_is_valid():
    line = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format"]
    done = subprocess.run([*line, str(ROOT / "CITATION.cff")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "2402.09269" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path):
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    done = subprocess.run(
        [*line, "--site-dir", str(tmp_path / "site")], capture_output=True, text=True, timeout=240, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    pages = (
        "index",
        "contributing",
        "how-to/own-table",
        "how-to/own-method",
        "reference/commands",
        "reference/library",
    )
    for page in pages:
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

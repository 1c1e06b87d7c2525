"""Help, messages, pages, docs and docstrings avoid the words that CONTRIBUTING.md rules out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from beholder.cli.main import app

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "platform" / "beholder"
SOURCES = sorted([*LIBRARY.rglob("*.py"), *ROOT.glob("docs/**/*.py")])

BANNED = {
    r"says|said": "predicts, reports, states, shows",
    r"tells|told": "shows, distinguishes; given",
    r"(is|are|be|been|being) ((not|only|first|never|ever|also) )?asked|(as|when|first|once) asked|"
    r"asked (for|to|about|over|once|again|at)": "requested, queried, prompted, called; of a label: asked of the user",
    r"mend(s|ed|ing)?": "fix, repair",
    r"anew": "again, from the start",
    r"go(es|ing)? on|went on|gone on": "resume, continue",
    r"whoever": "the user who, anyone who",
    r"so many": "that many, at most N",
    r"nothing there": "missing, empty",
    r"puts? back|putting back": "restore",
    r"to be had": "available; failed",
    r"doors?": "validation",
    r"ground(?! truth)|grounds": "backbone",
    r"foundations?": "backbone",
    r"desks?": "user service",
    r"shared model|(model|method) for (all|everybody|everyone)|model of all|model everybody|"
    r"same for everybody": "global model",
}
"""Words that do not occur -> what to write instead."""

DATA = ("datasets/templates.py",)
"""Modules whose strings are texts of a data set, not prose."""

TERSE = re.compile(r"^(Whose( \w+)?|Who|Another's)\.$")
"""Help that does not name what is wanted."""


def found_in(text: str) -> list[str]:
    """What is wrong in a text, each with a few words around it."""
    found = []
    flat = " ".join(text.split())
    for words, instead in BANNED.items():
        for match in re.finditer(rf"(?<![\w./`-])({words})(?![\w`-]|[.]\w)", flat, re.I):
            around = flat[max(0, match.start() - 40) : match.end() + 40]
            found.append(f"{match[0]!r} (write: {instead}) in ...{around}...")
    return found


def strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every string below a node; what an f-string inserts reads as X."""
    if isinstance(node, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        yield node.lineno, "".join(parts)
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from strings(part.value)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.lineno, node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


def messages(file: Path) -> Iterator[tuple[str, str]]:
    """(place, text) of a module's strings of three words or more: errors, reports, help, pages. No docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    described = set(docstrings(file))
    for line, text in strings(tree):
        place = f"{file.relative_to(ROOT)}:{line}"
        if len(text.split()) >= 3 and (place, text) not in described:
            yield place, text


def docstrings(file: Path) -> Iterator[tuple[str, str]]:
    """(place, text) of a module's docstrings, those of attributes included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield f"{file.relative_to(ROOT)}:{node.lineno}", node.value.value


def comments(file: Path, mark: str = "#") -> Iterator[tuple[str, str]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        _, found, words = line.partition(f"{mark} ")
        if found:
            yield f"{file.relative_to(ROOT)}:{number}", words


def helps() -> Iterator[tuple[str, str]]:
    """(command, text) of every help text of the command line."""

    def walk(command: Any, path: str) -> Iterator[tuple[str, str]]:
        yield path, command.help or ""
        for parameter in command.params:
            yield f"{path} {parameter.name}", getattr(parameter, "help", None) or ""
        for name, each in sorted(getattr(command, "commands", {}).items()):
            yield from walk(each, f"{path} {name}")

    yield from walk(get_command(app), "beholder")


def pages() -> Iterator[tuple[str, str]]:
    """(place, paragraph) of the Markdown of the project; `code` reads as x, blocks of code as they are."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("infra/**/*.md")]
    for file in [*files, *ROOT.glob("experiments/**/*.md")]:
        paragraph, start = [], 1
        for number, line in enumerate([*file.read_text(encoding="utf-8").splitlines(), ""], 1):
            if not line.strip() or line.lstrip().startswith("```"):
                yield f"{file.relative_to(ROOT)}:{start}", re.sub(r"`[^`]*`", "`x`", " ".join(paragraph))
                paragraph, start = [], number + 1
            else:
                paragraph.append(line)


def templates() -> Iterator[tuple[str, str]]:
    """(place, line) of the templates that pages are made from."""
    for file in sorted(each for kind in ("html", "js", "j2", "md") for each in LIBRARY.rglob(f"*.{kind}")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            yield f"{file.relative_to(ROOT)}:{number}", line


def yaml_comments() -> Iterator[tuple[str, str]]:
    for file in sorted([*ROOT.glob("experiments/**/*.yaml"), *ROOT.glob("infra/**/*.yaml")]):
        yield from comments(file)


SETS = {
    "help": helps,
    "messages": lambda: (each for file in SOURCES if not file.as_posix().endswith(DATA) for each in messages(file)),
    "templates": templates,
    "pages": pages,
    "experiments": yaml_comments,
    "docstrings": lambda: (each for file in SOURCES for each in docstrings(file)),
    "comments": lambda: (each for file in SOURCES for each in comments(file)),
}


@pytest.mark.parametrize("texts", SETS.values(), ids=SETS)
def test_the_prose_avoids_words_that_are_not_the_fields(texts):
    read = list(texts())
    wrong = [f"{place}: {each}" for place, text in read for each in found_in(text)]
    wrong += [f"{place}: {text!r}: name what is wanted" for place, text in read if TERSE.match(text)]
    assert len(read) > 50
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("The server says which user was asked for.", 2),
        ("Run again to go\non; nothing there.", 2),
        ("one model for everybody", 1),
        ("the ground truth, the background, a label not asked of the user", 0),
        ("`door`", 0),
    ],
)
def test_the_check_can_fail(text, wrong):
    assert len(found_in(text)) == wrong

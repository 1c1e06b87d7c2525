"""What is imported is declared in pyproject.toml, what is declared is used, and both are pinned."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from project import ROOT

FILES = sorted([*(ROOT / "platform").rglob("*.py"), *(ROOT / "serve").rglob("*.py")])
OURS = {"beholder", "beholder_serve"}
NOT_IMPORTED = {
    "gguf": "transformers reads GGUF files with it",
    "bitsandbytes": "transformers loads models in 8 and 4 bits with it",
    "psycopg": "SQLAlchemy's driver for PostgreSQL",
}


def plain(requirement: str) -> str:
    """The name of a requirement, as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {name: set(map(plain, needed)) for name, needed in PROJECT["optional-dependencies"].items()}
NEEDED = set(map(plain, PROJECT["dependencies"]))
OPTIONAL = EXTRAS["cluster"] | EXTRAS["gpu"]
OF_MODULE = metadata.packages_distributions()


def modules(tree: ast.AST) -> dict[str, int]:
    """Top-level module -> the line that imports it, for modules of others."""
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        else:
            continue
        for name in names:
            found.setdefault(name.partition(".")[0], node.lineno)
    return {name: line for name, line in found.items() if name not in OURS | sys.stdlib_module_names}


def lazy(tree: ast.Module) -> set[str]:
    """Modules that are imported inside functions only."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {name for each in functions for name in modules(each)}
    kept = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return inside - set(modules(ast.Module(kept, [])))


def undeclared(file: Path) -> list[str]:
    """Complaints about the imports of a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = []
    for module, line in modules(tree).items():
        packages = {plain(each) for each in OF_MODULE.get(module, [module])}
        if not packages & NEEDED and not (packages & OPTIONAL and module in lazy(tree)):
            found.append(f"{file.name}:{line}: {module} ({', '.join(packages)}) is not in pyproject.toml")
    return found


def test_what_is_imported_is_declared():
    assert [complaint for file in FILES for complaint in undeclared(file)] == []


@pytest.mark.parametrize(
    "line", ["import requests", "from aiohttp.web import Response", "import boto3", "import nothing"]
)
def test_the_check_can_fail(line, tmp_path):
    file = tmp_path / "room.py"
    file.write_text(line)
    assert len(undeclared(file)) == 1
    file.write_text(f"def f():\n    {line}")
    assert len(undeclared(file)) == ("boto3" not in line)  # an extra may be missing until it is needed


def test_what_is_declared_is_imported():
    imported = {
        plain(package)
        for file in FILES
        for module in modules(ast.parse(file.read_text(encoding="utf-8")))
        for package in OF_MODULE.get(module, [])
    }
    assert (NEEDED | OPTIONAL) - imported == set(NOT_IMPORTED)


def test_every_dependency_is_pinned():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {plain(line) for line in pins if "==" in line}
    assert NEEDED | set[str]().union(*EXTRAS.values()) <= pinned

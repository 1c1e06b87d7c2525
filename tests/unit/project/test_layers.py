"""The house stands: imports go down only, two rooms know Ray, two know MLflow, and `platform` is still Python's."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

LIBRARY, SERVER = ROOT / "platform" / "beholder", ROOT / "serve" / "beholder_serve"

# From top to bottom. A module imports from its own room and from rooms on lower floors, never from one beside it.
FLOORS = (
    {"cli"},
    {"beholder_serve"},
    {"lifecycle"},
    {"workflows"},
    {"experiment"},
    {"cluster"},
    {"report"},
    {"search", "execution", "registry"},
    {"tracking"},
    {"methods"},
    {"adapters"},
    {"prompting", "training"},
    {"datasets", "models", "evaluation"},
    {"data"},
    {"util"},
    {"beholder"},
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def room_of(file: Path) -> str:
    if SERVER in file.parents:
        return "beholder_serve"
    first = file.relative_to(LIBRARY).parts[0].removesuffix(".py")
    return "beholder" if first == "__init__" else first


def imported(file: Path) -> list[tuple[int, str]]:
    """(line, dotted module) for every import, wherever in the file it stands."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(node.lineno, name) for name in names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # what is imported by its name
            found += [(node.lineno, name) for name in re.findall(r"^(beholder\.[\w.]+):\w+$", node.value)]
    return found


FILES = sorted([*LIBRARY.rglob("*.py"), *SERVER.rglob("*.py")])


def violations(files: list[Path]) -> list[str]:
    found = []
    for file in files:
        room = room_of(file)
        for line, module in imported(file):
            parts = module.split(".")
            if parts[0] == "beholder_serve":
                target = "beholder_serve"
            elif parts[0] == "beholder":
                target = parts[1] if len(parts) > 1 and parts[1] in LEVEL else "beholder"
            else:
                target = ""
            place = f"{file.relative_to(ROOT)}:{line}"
            if target and target != room and LEVEL[target] <= LEVEL[room] and room != "beholder":
                found.append(f"{place}: {room} imports {target}, which is not below it")
            if parts[0] == "ray" and room not in ("cluster", "beholder_serve"):
                found.append(f"{place}: only cluster and beholder_serve may import ray")
            if parts[0] == "mlflow" and room not in ("tracking", "registry"):
                found.append(f"{place}: only tracking and registry may import mlflow")
    return found


def test_every_module_is_in_a_room_and_every_room_has_a_floor():
    assert {room_of(file) for file in FILES} == set(LEVEL)
    assert len(LEVEL) <= 22  # twenty rooms of the library, the library itself, and what serves
    assert [file.name for file in LIBRARY.glob("*.py")] == ["__init__.py"]
    assert len(FILES) > 150


def test_imports_go_down_only():
    assert violations(FILES) == []


@pytest.mark.parametrize(
    ("room", "line", "complaint"),
    [
        ("data/splits.py", "from beholder.methods import METHODS", "not below it"),
        ("methods/prior.py", "import ray.train", "may import ray"),
        ("methods/base.py", 'ENTRY = "beholder.workflows.run:run"', "not below it"),
        ("evaluation/metrics.py", "from mlflow import MlflowClient", "may import mlflow"),
        ("models/catalog.py", "def f():\n    import beholder.workflows.run", "not below it"),
        ("models/catalog.py", "from beholder.datasets import load", "not below it"),
    ],
)
def test_the_check_can_fail(room, line, complaint, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "LIBRARY", tmp_path)
    file = tmp_path / room
    file.parent.mkdir(exist_ok=True)
    file.write_text(line)
    assert any(complaint in each for each in violations([file]))


def test_the_core_runs_without_ray_or_mlflow():
    code = (
        "import sys; import beholder.execution.arm, beholder.experiment.config, beholder.report.figures;"
        "print([name for name in ('ray', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_platform_is_still_pythons_own():
    code = "import platform; print(platform.python_version(), platform.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    version, file = done.stdout.split(maxsplit=1)
    assert version == sys.version.split()[0]
    assert not Path(file.strip()).is_relative_to(ROOT / "platform")


def test_names_of_a_runs_files_stand_in_one_place():
    names = {"annotations.parquet", "evaluation.json", "experiment.json", "results.json", "tracked.json"}
    spelled = {
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in FILES
        if file != LIBRARY / "util" / "run_folder.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert not spelled


def test_no_function_is_too_long():
    long = {
        f"{file.relative_to(ROOT)}: {node.name}": node.end_lineno - node.lineno + 1
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
        if node.end_lineno - node.lineno >= 80
    }
    assert not long


def test_no_file_is_too_long():
    long = {str(file.relative_to(ROOT)): n for file in FILES if (n := len(file.read_text().splitlines())) > 400}
    assert not long


def test_no_two_classes_have_one_name():
    places: dict[str, list[str]] = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not {name: found for name, found in places.items() if len(found) > 1}

"""The wheel in an empty environment, outside the checkout: nothing is missing from it, and what README shows runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import httpx
import pytest
from first_lines import cells, check_notebook, check_readme, first_python
from printed import ROOT
from servers import free_port, running

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(2400)]

PACKAGES = {"beholder": ROOT / "platform", "beholder_serve": ROOT / "serve"}
SMALL = (
    "base=tiny-bert",
    "source.texts=templates",
    "source.users=8",
    "source.rows_per_user=60",
    "methods.cls.epochs=1",
)


def called(*command: object, cwd: Path, words: str = "") -> str:
    """What a command prints, run in a folder; nothing of the checkout is on its path."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "BEHOLDER_DATA")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=kept, input=words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2_000:]}\n{done.stderr[-4_000:]}"
    return done.stdout


def needs_an_index(folder: Path) -> None:
    """Skip the test where pip reaches no package index, unless everything has to run (CI)."""
    asked = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1", "--timeout", "20"]
    if subprocess.run([*asked, "--dest", str(folder), "hatchling"], capture_output=True).returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "needs a package index that pip can fetch hatchling from"
        )


def tracked() -> list[str]:
    """Files of the checkout that git knows, relative to its root."""
    names = called("git", "ls-files", "-z", cwd=ROOT).split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what git tracks, so that nothing else leaks into it."""
    folder = tmp_path_factory.mktemp("built")
    needs_an_index(folder / "index")
    for name in tracked():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "source" / name)
    called(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, folder / "source", cwd=folder)
    (built,) = folder.glob("beholder-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new virtual environment's folder of programs: the wheel and its dependencies are installed, no test tools."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    pip = (folder / "bin" / "python", "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    called(*pip, "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    yield folder / "bin"
    shutil.rmtree(folder)


def ran(environment: Path, folder: Path, written: list[str]) -> list[dict[str, str]]:
    """What cells print and show, run in that environment."""
    script = shutil.copy(ROOT / "tests" / "support" / "cells.py", folder)
    return json.loads(called(environment / "python", "-I", script, cwd=folder, words=json.dumps(written)))


def test_it_holds_every_file_of_both_packages_and_nothing_else(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = set()
    for package, root in PACKAGES.items():
        below = (root / package).relative_to(ROOT).as_posix()
        expected |= {
            Path(name).relative_to(root.relative_to(ROOT)).as_posix()
            for name in tracked()
            if name.startswith(f"{below}/")
        }
    assert inside == expected
    for name in (
        "beholder/py.typed",
        "beholder_serve/py.typed",
        "beholder/cli/demo/simulated.yaml",
        "beholder/execution/general_text.yaml",
        "beholder/prompting/wordings/plain.yaml",
        "beholder/report/templates/report.html",
        "beholder_serve/web/index.html",
    ):
        assert name in inside


def test_what_runs_is_the_wheel(environment, tmp_path):
    lines = "import beholder, beholder_serve\n[beholder.__file__, beholder_serve.__file__]"
    (found,) = ran(environment, tmp_path, [lines])
    assert found["shows"].count(f"{environment.parent}/lib/") == 2
    called(environment / "python", "-I", "-m", "pip", "check", cwd=tmp_path)


def test_the_lines_of_readme_run(environment, tmp_path):
    lines = first_python((ROOT / "README.md").read_text(encoding="utf-8"))
    check_readme(*ran(environment, tmp_path, [lines]))


def test_the_notebook_runs(environment, tmp_path):
    written = cells()
    found = ran(environment, tmp_path, list(written.values()))
    check_notebook(dict(zip(written, found, strict=True)))


def is_ready(address: str) -> bool:
    """Whether a model is served there."""
    try:
        return httpx.get(f"{address}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_a_run_is_reported_and_served(environment, tmp_path, home, monkeypatch):
    """The demo's experiments, templates, MLflow, Ray Serve and the playground's files come along."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    command = environment / "beholder"
    (file,) = environment.parent.glob("lib/*/site-packages/beholder/cli/demo/simulated.yaml")
    settings = [part for each in SMALL for part in ("--set", each)]
    found = json.loads(called(command, "run", file, *settings, "--json", cwd=tmp_path))
    assert found["registered"]["model"] == "simulated-minilm" and 0 < found["methods"]["cls-u"]["macro_f1"] < 1
    (page,) = (home / "runs").glob("simulated-*/report.html")
    assert "simulated: does personalisation pay?" in page.read_text(encoding="utf-8")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    serve = [str(command), "serve", "--port", str(port)]
    with running(serve, tmp_path / "serve.log", lambda: is_ready(address)):
        assert "<title>beholder" in httpx.get(address).text
        assert httpx.get(f"{address}/web/app.js").status_code == 200
        asked = httpx.post(f"{address}/v1/perspectives", json={"text": "you are a robot", "users": "all"}).json()
        assert len(asked["readers"]) == 8

"""`beholder doctor`: what this installation is and has."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

from beholder import __version__
from beholder.cli.console import AsJson, console, print_json
from beholder.cluster.runtime import ADDRESS
from beholder.util.errors import BeholderError

PACKAGES = (
    "ray",
    "torch",
    "transformers",
    "peft",
    "mlflow",
    "datasets",
    "optuna",
    "numpy",
    "pyarrow",
    "pydantic",
    "fastapi",
)


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("doctor")(doctor_command)


def doctor_command(as_json: AsJson = False) -> None:
    """Versions, settings, folders, data, models, free disk and memory.

    The exit code is 1 where something essential is missing.
    """
    facts = examine()
    if as_json:
        print_json(facts)
    else:
        for section, values in facts.items():
            if not isinstance(values, dict):
                console.print(f"{section}: {values}", markup=False)
                continue
            console.print(f"{section}:", markup=False)
            for key, value in values.items():
                console.print(f"  {key:<26} {value}", markup=False)
    if facts["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Everything `beholder doctor` prints."""
    import psutil

    from beholder.datasets import SOURCES, locate
    from beholder.models.catalog import installed
    from beholder.models.packaged import EMBEDDED
    from beholder.models.precision import computes_bfloat16
    from beholder.tracking.client import client, tracking_uri
    from beholder.util.paths import home

    problems: list[str] = []
    packages: dict[str, str] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "missing"
            problems.append(f"{name} is not installed: pip install beholder")
    bases: dict[str, str] = {}
    for name in EMBEDDED:
        try:
            bases[name] = str(installed(name))
        except BeholderError as error:
            bases[name] = f"missing: {error}"
            problems.append(str(error))
    try:
        client()
        store = "reachable"
    except BeholderError as error:
        store = str(error)
        problems.append(store)
    existing = next(folder for folder in (home(), *home().parents) if folder.exists())
    disk, memory = shutil.disk_usage(existing), psutil.virtual_memory()
    return {
        "beholder": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "ray": {
            "auth mode": os.environ.get("RAY_AUTH_MODE", "as the cluster has it"),
            "address": os.environ.get(ADDRESS, "embedded, on loopback"),
        },
        "home": {"folder": str(home()), "writable": os.access(existing, os.W_OK)},
        "mlflow": {"store": tracking_uri(), "state": store},
        "data": {
            name: str(locate(name) or "not found")
            for name in SOURCES
            if name not in ("table", "simulated", "several", "lewidi")
        },
        "bases": bases,
        "machine": {
            "cores": os.cpu_count(),
            "free memory, GB": round(memory.available / 1e9, 1),
            "free disk, GB": round(disk.free / 1e9, 1),
            "gpu": _gpu(),
            "bfloat16": "computed" if computes_bfloat16() else "emulated, and slow",
        },
        "problems": problems,
    }


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"

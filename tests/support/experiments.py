"""Experiments that ship, and the smallest that is valid."""

from __future__ import annotations

from pathlib import Path

SHIPPED = sorted((Path(__file__).parents[2] / "experiments").rglob("*.yaml"))


def written(**more) -> dict:
    return {
        "name": "trial",
        "source": {"name": "simulated"},
        "methods": {"prior": {}, "cls": {"epochs": 2}, "cls-p": {"extends": "cls", "controls": ["shuffled-users"]}},
        "evaluate": {"reference": "cls"},
        **more,
    }

"""Experiments that ship, and the smallest that is valid."""

from __future__ import annotations

from project import ROOT

from beholder.cli.run import DEMO

EXPERIMENTS = ROOT / "experiments"
SHORT = "methods.cls-u.curve=[5]"
"""A setting that leaves out most of a learning curve."""
SHIPPED = sorted([*EXPERIMENTS.rglob("*.yaml"), *DEMO.glob("*.yaml")])


def written(**more) -> dict:
    return {
        "name": "trial",
        "source": {"name": "simulated"},
        "methods": {"prior": {}, "cls": {"epochs": 2}, "cls-p": {"extends": "cls", "controls": ["shuffled-users"]}},
        "evaluate": {"reference": "cls"},
        **more,
    }

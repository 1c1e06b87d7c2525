"""Small fits of methods that stand on a classifier."""

from __future__ import annotations

from beholder.methods import config_class, save_fitted
from beholder.training.context import Context

SMALL = {"epochs": 1, "batch_size": 16, "max_tokens": 32, "lora": {"rank": 2, "targets": "all-linear"}}


BANK = {"epochs": 3, "batch_size": 4, "prior": {"rank": 2, "steps": 10}}


def start_from(folder, rows, base="tiny-bert", method="cls", **more):
    """Fit a global method into a run folder; returns it, and the context for methods that start from it."""
    context = Context(base=base, seed=1, run_folder=folder)
    fitted = config_class(method)(**{**SMALL, **more}).fit(rows, rows, context)
    written = folder / "methods" / method
    written.mkdir(parents=True)
    save_fitted(fitted, written)
    return fitted, context


def personal(init_from="cls", shuffle_users=False, **bank):
    return config_class("cls-u")(init_from=init_from, bank={**BANK, **bank}, shuffle_users=shuffle_users)


FAST = {"epochs": 30, "patience": 30, "batch_size": 32, "learning_rate": 1e-2, "hidden": 16}


def embedded(method="cls-e", **more):
    small = {**FAST, **({"dim": 8} if method == "cls-e" else {})}
    return config_class(method)(**{**small, **more})

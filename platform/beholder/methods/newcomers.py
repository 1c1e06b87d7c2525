"""People who come after a bank was fitted, estimated given its prior."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from beholder.annotations import Annotations
from beholder.bank.overlay import Overlay
from beholder.bank.traits import Traits
from beholder.methods.method import Context

if TYPE_CHECKING:
    from beholder.methods.personal import FittedBank


def bank_of_newcomers(fitted: FittedBank, rows: Annotations, seed: int, traits: Mapping[str, Traits]) -> Overlay:
    """Users estimated from these rows alone; those with traits and no rows are the mean of their group.

    Everybody else is the prior's mean. See `FittedBank.adapt`.
    """
    prior, shapes = fitted.prior, fitted.model.shapes
    grouped = {user: prior.mean_of(each) for user, each in traits.items()}
    if not len(rows):
        return Overlay(shapes, {}, prior.mean, grouped)
    with tempfile.TemporaryDirectory(prefix="beholder-") as folder:
        context = Context(fitted.base, seed, fitted.device, run_folder=Path(folder))
        fitting = fitted.config.begin_on(fitted.shared, rows, rows.select([]), context, prior, traits)
        for number in range(len(fitting.blocks)):
            fitting.train(number)
        tensors = fitting.finish()[0].take(rows.users)
    own = {user: {n: t[at : at + 1] for n, t in tensors.items()} for at, user in enumerate(rows.users)}
    return Overlay(shapes, own, prior.mean, grouped)

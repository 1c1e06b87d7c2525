"""Enrolling a user of a served model: their own adapter, from judgements they gave after it was trained.

Everything stays as it is in a refresh (`refresh`): the global model, the settings, the rule that chooses a route. But
one user is trained, nothing is published, and what comes out is kept with their judgements (`feedback`) until a refresh
takes it into a version.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load, save

from beholder.annotations import Annotations, text_key
from beholder.bank.layers import Tensors
from beholder.bank.shards import Bank
from beholder.errors import MethodError
from beholder.evaluation.metrics import decide
from beholder.feedback import Enrolment
from beholder.methods import Context
from beholder.methods.personal import FittedBank
from beholder.refresh import earlier, joined
from beholder.registry.bundle import Bundle
from beholder.registry.routes import Population, reroute, row_losses

LEAST = 5
"""Judgements without which nobody is trained."""
KEPT_ASIDE = 4
"""Of so many judgements one chooses epochs and route."""


def train_user(bundle: Bundle, rows: Annotations, scratch: Path | None = None) -> Enrolment:
    """Train one user on a bundle's global model, and choose what serves them.

    A quarter of their judgements, by hash of the text, is kept aside: it stops training and chooses the route. They get
    their own model where it is expected to lose less than the global one: the mean difference of log-loss, shrunk
    toward the population's (`routes`). What they said in the run that made the bundle is learned from again, where that
    run is kept here.

    Args:
        bundle: opened; its personal method trains adapters.
        rows: judgements of one user.
        scratch: a folder to work in; a temporary one where left out.

    Raises:
        MethodError: the bundle gives nobody an adapter; there are too few judgements; or there were others, which are
            not here, so that the user would lose by it.
    """
    (user,) = rows.users
    fitted = bundle.personal
    if not isinstance(fitted, FittedBank):
        raise MethodError("this version gives nobody a model of their own: on validation, none was better.")
    if len(rows) < LEAST:
        raise MethodError(f"{len(rows)} judgements are too few to learn from. Give at least {LEAST}.")
    order = np.argsort([text_key(text) for text in rows.texts])
    aside = np.zeros(len(rows), dtype=bool)
    aside[order[KEPT_ASIDE - 1 :: KEPT_ASIDE]] = True
    train, valid = rows.select(np.flatnonzero(~aside)), rows.select(np.flatnonzero(aside))
    old = earlier(bundle.manifest, rows)
    if old is not None:
        train, valid = joined(train, old["train"]), joined(valid, old["valid"])
    elif fitted.knows(user):
        raise MethodError("they have a model of their own, and what it learned from is not here: beholder refresh")
    with tempfile.TemporaryDirectory(prefix="beholder-", dir=scratch) as folder:
        context = Context(bundle.base, bundle.manifest["seed"], fitted.device, run_folder=Path(folder))
        fitting = fitted.config.begin_on(fitted.shared, train, valid, context)
        fitting.train(0)
        bank = fitting.finish()
        tensors = bank.take([user])
        shared = bundle.shared.score(list(valid.texts), list(valid.user_ids))
        own = _scores(fitted, bank, valid)
    losses = [row_losses(scores, valid.labels, valid.task.kind) for scores in (shared, own)]
    population = Population(**bundle.manifest["routes"]["population"])
    (facts,) = reroute({user: len(train)}, valid.user_ids.tolist(), losses[0], losses[1], population).to_pylist()
    del facts["user_id"]
    if user not in bank:  # no epoch was better than the model for all
        facts["route"] = "global"
    facts["right"] = {
        name: _right(scores, method.thresholds, valid)
        for name, scores, method in (("global", shared, bundle.shared), ("personal", own, fitted))
    }
    return Enrolment(b"" if facts["route"] == "global" else save(tensors), facts)


def tensors_of(enrolment: Enrolment) -> Tensors:
    """One user's tensors: name -> [1, ...]; empty where the global model serves them."""
    return load(enrolment.tensors) if enrolment.tensors else {}


def _scores(fitted: FittedBank, bank: Bank, rows: Annotations) -> NDArray[np.float32]:
    """What a bank on the same model says."""
    return fitted.with_bank(bank).score(list(rows.texts), list(rows.user_ids))


def _right(scores: NDArray[np.float32], thresholds: NDArray[np.float32], rows: Annotations) -> float:
    """The share of labels asked that are decided as the user did."""
    asked = ~np.isnan(rows.labels)
    decided: NDArray[Any] = decide(scores, thresholds, rows.task.kind)
    return float((decided == (rows.labels > 0.5))[asked].mean())

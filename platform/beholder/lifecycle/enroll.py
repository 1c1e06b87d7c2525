"""Enrolling a user of a served model: their own adapter, from judgements they gave after it was trained.

Everything stays as it is in a refresh (`refresh`): the global model, the settings, the rule that chooses a route. But
one user is trained, nothing is published, and what comes out is kept with their judgements (`feedback`) until a refresh
takes it into a version.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from beholder.data.annotations import Annotations
from beholder.data.texts import text_key
from beholder.lifecycle.earlier import earlier, joined, merged
from beholder.methods import Fitted
from beholder.methods.cls import FittedClassifier
from beholder.methods.cls_user import FittedPersonal
from beholder.methods.newcomers import estimate_newcomers
from beholder.methods.user_adapters import FittedBank
from beholder.registry.bundle import Bundle
from beholder.registry.feedback import Enrolment
from beholder.registry.routing import reroute, row_losses
from beholder.training.user_adam import Tensors
from beholder.util.errors import MethodError, counted

LEAST = 5
"""Judgements without which nobody is trained."""
FOLDS = 4
"""Parts of a user's judgements, each scored by an estimate from the others: what the route is chosen by."""


def train_user(bundle: Bundle, rows: Annotations) -> Enrolment:
    """Estimate one user given a bundle's prior, and choose what serves them.

    All their judgements are learned from, of texts that the champion's split keeps for testing, too: what is
    measured on those is of the people of the run, and nothing of a newcomer is in it. How much less they lose by it
    than by the global model is measured on the same judgements by cross-fitting: each is scored by an estimate from
    the other folds, which are trained as more users. The mean difference of log-loss is shrunk toward the
    population's (`routes`). What they gave in the run that made the bundle is learned from again, where that run is
    kept here.

    Args:
        bundle: opened; its personal method trains adapters.
        rows: judgements of one user.

    Raises:
        MethodError: the bundle gives nobody an adapter; there are too few judgements; or there were others, which are
            not here, so that the user would lose by it.
    """
    (user,) = rows.users
    fitted = bundle.personal
    if fitted is None:
        raise MethodError("this version has no personal models: on validation, no personal method was better.")
    if not isinstance(fitted, FittedBank):
        raise MethodError(
            f"this version's personal method is {fitted.method}, which cannot add users. Use cls-u or lm-u."
        )
    if len(rows) < LEAST:
        raise MethodError(f"{counted(len(rows), 'judgement')}: too few to learn from. Give at least {LEAST}.")
    if (told := bundle.told()) is not None:
        rows = merged(rows, told.select(np.flatnonzero(told.user_ids == user)))
    old = earlier(bundle.manifest, rows)
    if old is not None:
        for part in ("train", "valid"):
            rows = joined(rows, old[part])
    elif fitted.knows(user) and len(rows) < _learned(bundle, user):
        raise MethodError("they have a model of their own, and what it learned from is not here: beholder refresh")
    fold = np.empty(len(rows), dtype=np.int64)
    fold[np.argsort([text_key(text) for text in rows.texts], kind="stable")] = np.arange(len(rows)) % FOLDS
    copies = [user, *(f"{user} without fold {number}" for number in range(FOLDS))]
    places = [np.arange(len(rows)), *(np.flatnonzero(fold != number) for number in range(FOLDS))]
    repeated = rows.select(np.concatenate(places)).replace_users(
        [name for name, some in zip(copies, places, strict=True) for _ in some]
    )
    as_them = _reading_as(fitted, user, copies)
    found = estimate_newcomers(as_them, repeated, bundle.manifest.seed)
    place = {name: at for at, name in enumerate(found.users)}
    if isinstance(as_them, FittedPersonal) and fitted.shared is bundle.shared:  # the trunk has read all inputs
        states = found.states(np.arange(len(rows)))
        reader = np.asarray([place[copies[1 + number]] for number in fold])
        held = as_them.say(states, found.tensors, reader)
        nothing = {name: torch.zeros_like(tensor[:1]) for name, tensor in found.tensors.items()}
        shared = as_them.say(states, nothing, np.zeros_like(fold))
    else:
        bank = found.overlay(as_them)
        held = as_them.with_bank(bank).score(list(rows.texts), [copies[1 + number] for number in fold])
        shared = bundle.shared.score(list(rows.texts), list(rows.user_ids))
    tensors = {name: tensor[place[user]][None].clone() for name, tensor in found.tensors.items()}
    losses = [row_losses(scores, rows.labels, rows.task.kind) for scores in (shared, held)]
    population = bundle.manifest.population
    (facts,) = reroute({user: len(rows)}, rows.user_ids.tolist(), losses[0], losses[1], population).to_pylist()
    del facts["user_id"]
    facts["right"] = {
        name: _right(scores, bundle, method, rows)
        for name, scores, method in (("global", shared, bundle.shared), ("personal", held, fitted))
    }
    return Enrolment(b"" if facts["route"] == "global" else save(tensors), facts)


def _learned(bundle: Bundle, user: str) -> int:
    """From how many judgements what a version has of a user was learned."""
    row = bundle.user_row(user)
    return int(row["train_rows"] + row["valid_rows"]) if row["known"] else 0


def tensors_of(enrolment: Enrolment) -> Tensors:
    """One user's tensors: name -> [1, ...]; empty where the global model serves them."""
    return load(enrolment.tensors) if enrolment.tensors else {}


def _reading_as(fitted: FittedBank, user: str, copies: Sequence[str]) -> FittedBank:
    """The method; where the global model reads the user's id (`cls-p`), copies of a user are read under that id."""
    shared = fitted.shared
    if not shared.knows(user):
        return fitted
    if not isinstance(shared, FittedClassifier):
        raise MethodError("the global model reads user ids and was trained on this user already. Use beholder refresh.")
    twin = copy.copy(shared)
    twin.users = {**shared.users, **dict.fromkeys(copies, shared.users[user])}
    return type(fitted)(fitted.method, twin, fitted.init_from, fitted.model, fitted.bank, fitted.prior, fitted.settings)


def _right(scores: NDArray[np.float32], bundle: Bundle, method: Fitted, rows: Annotations) -> float:
    """The share of labels asked that are decided as the user did."""
    asked = ~np.isnan(rows.labels)
    decided: NDArray[Any] = bundle.decide(scores, method)
    return float((decided == (rows.labels > 0.5))[asked].mean())

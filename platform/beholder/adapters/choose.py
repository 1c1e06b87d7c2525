"""Choosing a prior and its strength, and how long users are trained: on the validation rows of all users together.

What is compared is the log-loss of all validation rows, a proper score; no choice is ever made on one person's few
rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beholder.adapters.estimate import FIXED, LEAST_USERS, PriorSettings, estimate_prior, unit_of, with_spread
from beholder.adapters.fit import BankTraining, TrainingExamples, fit_bank
from beholder.adapters.layers import Shapes
from beholder.adapters.moderation import moderation_of
from beholder.adapters.prior import Prior, isotropic
from beholder.adapters.traits import Traits, coded

STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Standard deviations, in logits, of what is a user's own beyond bias and factors."""
QUICK = (0.25, 1.0)
"""The same where every try is dear, because users have layers of their own."""
UNCHOSEN = 0.25
"""The strength where there are no validation rows to choose it by."""
PLAIN = "isotropic, not moderated"
"""The isotropic prior with users scored by their estimates as they are."""
LEAST_ROWS = 20
"""Validation rows, of all users together, without which nothing is chosen."""


@dataclass(frozen=True)
class Judges:
    """People on whom a prior is chosen.

    Attributes:
        names: of each.
        train, valid: their rows to learn from, and to choose by.
        traits: of each; empty where no traits are used.
    """

    names: Sequence[str]
    train: TrainingExamples
    valid: TrainingExamples
    traits: Sequence[Traits] = ()


def learn_prior(
    shapes: Shapes,
    train: TrainingExamples,
    chosen_on: Judges,
    settings: PriorSettings,
    training: BankTraining,
    *,
    seed: int,
    device: str = "cpu",
    traits: Sequence[Traits] = (),
    quick: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prior:
    """Learn a prior, and keep what of it makes people's validation rows likeliest.

    Candidates: the isotropic prior; the learned one, whose factors shrink away where people do not differ in
    any; and the same with `settings.traits`. They are compared at the middle one of the `STRENGTHS`. Then the best of
    them is tried at larger strengths as long as that helps, else at smaller ones: the loss is taken to have one minimum
    in the strength. Each is evaluated after every epoch. Where the isotropic prior is best, it is tried without
    moderation, too: its mean, the global model, is an average over people already, and would be shrunk twice. Where
    there are too few validation rows, nothing is chosen: the richest prior at `UNCHOSEN`, after all epochs.

    Args:
        shapes: of one user's tensors.
        train: the rows of all users the prior is learned from.
        chosen_on: people whose training rows are fitted and whose validation rows choose.
        settings, training: see there.
        seed: of every draw.
        device: where.
        traits: of each user of `train`; empty where no traits are used.
        quick: try fewer strengths.
        progress: called with (fits done, fits).
    """
    flat = isotropic(shapes, seed, training.epochs, people=int((train.rows > 0).sum()), rows=int(train.rows.sum()))
    if not train.rows.any():
        return flat
    if (readings := train.readings) is not None:
        flat = replace(flat, moderation=moderation_of(readings, seed))
    units = unit_of(flat, train, seed, device)
    candidates = {"isotropic": flat}
    for known in ((), traits) if coded(traits, settings.traits) else ((),):
        own: Any = {"epochs": training.epochs, "seed": seed, "device": device, "traits": known, "units": units}
        learned = estimate_prior(shapes, train, settings.rank, settings, **own)
        if flat.facts["people"] >= LEAST_USERS:
            suffix = ", traits" if learned.traits else ""
            candidates[f"learned, rank {learned.rank}{suffix}"] = replace(learned, moderation=flat.moderation)
    strengths = _strengths(shapes, settings, QUICK if quick else STRENGTHS)
    fits = len(candidates) + len(strengths) + (flat.moderation is not None)
    progress(1, fits)
    choosing = int(chosen_on.valid.rows.sum())
    if choosing < LEAST_ROWS:
        kind, prior = list(candidates.items())[-1]
        strength = strengths[0] if len(strengths) == 1 else UNCHOSEN
        facts = {**prior.facts, "kind": kind, "strength": strength, "chosen_on": 0}
        return replace(prior, spread=with_spread(prior, units, strength), facts=facts)
    tried: list[dict[str, Any]] = []

    def trial(kind: str, strength: float) -> float:
        """The best log-loss of a setting over epochs."""
        own = replace(candidates[kind], spread=with_spread(candidates[kind], units, strength))
        course = _pooled(own, chosen_on, training, seed, device)
        epoch = int(course.argmin())
        tried.append({"kind": kind, "strength": strength, "epochs": epoch + 1, "log_loss": float(course[epoch])})
        progress(1 + len(tried), fits)
        return float(course[epoch])

    middle = len(strengths) // 2
    best = min(candidates, key=lambda kind: trial(kind, strengths[middle]))
    _descend(lambda strength: trial(best, strength), min(each["log_loss"] for each in tried), strengths, middle)
    chosen = min(tried, key=lambda each: each["log_loss"])
    if candidates[chosen["kind"]] is flat and flat.moderation is not None:
        candidates[PLAIN] = replace(flat, moderation=None)
        trial(PLAIN, chosen["strength"])
        chosen = min(tried, key=lambda each: each["log_loss"])
    progress(fits, fits)
    prior = candidates[chosen["kind"]]
    facts = {"kind": chosen["kind"], "strength": chosen["strength"], "chosen_on": choosing, "tried": tried}
    spread = with_spread(prior, units, chosen["strength"])
    return replace(prior, spread=spread, epochs=chosen["epochs"], facts={**prior.facts, **facts})


def _descend(loss: Callable[[float], float], reached: float, strengths: Sequence[float], middle: int) -> None:
    """Try larger strengths than the middle one as long as each is better, and where none was, smaller ones."""
    least = reached
    for further in (strengths[middle + 1 :], strengths[:middle][::-1]):
        for strength in further:
            found = loss(strength)
            if found >= reached:
                break
            reached = found
        if reached < least:
            break


def _strengths(shapes: Shapes, settings: PriorSettings, some: Sequence[float]) -> list[float]:
    """Those to try: one where it is given, or where a bias is all that users have of their own."""
    if not isinstance(settings.strength, str):
        return [settings.strength]
    own = [name for name in shapes if name != "head.bias" and not name.endswith(FIXED)]
    return list(some) if own else [0.0]


def _pooled(prior: Prior, people: Judges, training: BankTraining, seed: int, device: str) -> NDArray[np.float64]:
    """Mean log-loss over all validation rows after each epoch: float64 [epochs]; infinite where a fit diverged."""
    fit = fit_bank(
        prior,
        people.names,
        people.train,
        training,
        seed=seed,
        device=device,
        held_out=people.valid,
        around=prior.means_of(people.traits),
    )
    assert fit.losses is not None
    course = fit.losses.sum(axis=1) / people.valid.asked.sum()
    return np.where(np.isfinite(course), course, np.inf)


def in_words(prior: Prior) -> str:
    """What was learned and chosen, in a line."""
    facts = prior.facts
    people, rows = facts.get("people", 0), facts.get("rows", 0)
    if str(facts.get("kind", "isotropic")).startswith("isotropic"):
        few = f"; fewer than {LEAST_USERS} people" if people < LEAST_USERS else ""
        return f"isotropic around the global model, {people:,} people{few}"
    chosen = f"strength {facts['strength']:g}, {prior.epochs} epochs"
    by = f"chosen on {facts['chosen_on']:,} validation rows" if facts.get("chosen_on") else "not chosen: no rows for it"
    return f"{facts['kind']}, from {rows:,} judgements of {people:,} people; {chosen}, {by}"

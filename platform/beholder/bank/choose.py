"""Choosing a prior's rank and strength, and how long users are trained: on the validation rows of all users together.

Every setting is tried as if its users were more users of one bank, so that all settings of a prior are one fit. What is
compared is the log-loss of all validation rows, a proper score; no choice is ever made on one person's few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beholder.bank.estimate import FIXED, LEAST_USERS, PriorSettings, estimate_prior, unit_of, with_spread
from beholder.bank.fit import BankTraining, Examples, fit_bank
from beholder.bank.layers import Shapes
from beholder.bank.prior import Prior, isotropic
from beholder.bank.traits import Traits, coded

STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Standard deviations, in logits, of what is a user's own beyond bias and factors."""
QUICK = (0.25, 1.0)
"""The same where every try is dear, because users have layers of their own."""
UNCHOSEN = 0.25
"""The strength where there are no validation rows to choose it by."""
LEAST_ROWS = 20
"""Validation rows, of all users together, without which nothing is chosen."""

Part = Callable[[Sequence[int]], tuple[Examples, Examples]]
"""Users by position, some of them several times -> their rows to learn from, and to choose by."""


@dataclass(frozen=True)
class Population:
    """The people a prior is learned from and chosen on.

    Attributes:
        names: of each.
        examples: see `Part`.
        traits: of each; empty where none are asked for.
    """

    names: Sequence[str]
    examples: Part
    traits: Sequence[Traits] = ()


def learn_prior(
    shapes: Shapes,
    learned_from: Population,
    chosen_on: Population,
    settings: PriorSettings,
    training: BankTraining,
    *,
    seed: int,
    device: str = "cpu",
    rows_per_step: int = 16_384,
    quick: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prior:
    """Learn priors of several ranks, and keep the one under which people's validation rows are likeliest.

    Candidates: the isotropic prior, mean and biases without factors, and both with `settings.rank` factors, the latter
    two with and without `settings.traits`; each at the `STRENGTHS`, and after each epoch. Where there are too few
    validation rows, nothing is chosen: the richest prior at `UNCHOSEN`, after all epochs.

    Args:
        shapes: of one user's tensors.
        learned_from: people whose training rows the prior is learned from.
        chosen_on: people whose training rows are fitted and whose validation rows choose.
        settings, training: see there.
        seed: of every draw.
        device: where.
        rows_per_step: see `estimate_prior`.
        quick: try fewer: the isotropic and the richest prior at two strengths.
        progress: called with (candidates done, candidates).
    """
    train, _ = learned_from.examples(range(len(learned_from.names)))
    flat = isotropic(shapes, seed, training.epochs, people=int((train.rows > 0).sum()), rows=int(train.rows.sum()))
    if not train.rows.any():
        return flat
    units = unit_of(flat, train, seed, device)
    candidates = [("isotropic", flat)]
    ranks = [settings.rank] if quick else sorted({0, settings.rank})
    described = learned_from.traits if coded(learned_from.traits, settings.traits) else ()
    kinds = [(rank, traits) for traits in [()] + [described] * bool(described) for rank in ranks]
    for done, (rank, traits) in enumerate(kinds):
        learned = estimate_prior(
            shapes,
            train,
            rank,
            settings,
            epochs=training.epochs,
            seed=seed,
            device=device,
            rows_per_step=rows_per_step,
            traits=traits,
        )
        progress(done + 1, 2 * len(kinds) + 2)
        if learned.facts["people"] >= LEAST_USERS and (learned.rank or rank == 0 or quick):
            candidates.append((f"learned, rank {learned.rank}{', traits' * bool(traits)}", learned))
    _, valid = chosen_on.examples(range(len(chosen_on.names)))
    strengths = _strengths(shapes, settings, QUICK if quick else STRENGTHS)
    if int(valid.rows.sum()) < LEAST_ROWS:
        name, prior = candidates[-1]
        strength = strengths[0] if len(strengths) == 1 else UNCHOSEN
        facts = {**prior.facts, "kind": name, "strength": strength, "chosen_on": 0}
        return replace(prior, spread=with_spread(prior, units, strength), facts=facts)
    tried: list[dict[str, Any]] = []
    best: tuple[float, Prior] | None = None
    for done, (name, prior) in enumerate(candidates):
        losses = _pooled(prior, units, strengths, chosen_on, training, seed, device)  # [strengths, epochs]
        progress(len(kinds) + done + 1, len(kinds) + len(candidates))
        for strength, course in zip(strengths, losses, strict=True):
            epoch = int(course.argmin())
            loss = float(course[epoch])
            tried.append({"kind": name, "strength": strength, "epochs": epoch + 1, "log_loss": round(loss, 5)})
            if best is None or loss < best[0]:
                facts = {**prior.facts, "kind": name, "strength": strength}
                best = loss, replace(prior, spread=with_spread(prior, units, strength), epochs=epoch + 1, facts=facts)
    assert best is not None
    return replace(best[1], facts={**best[1].facts, "chosen_on": int(valid.rows.sum()), "tried": tried})


def _strengths(shapes: Shapes, settings: PriorSettings, some: Sequence[float]) -> list[float]:
    """Those to try: one where it is given, or where a bias is all that users have of their own."""
    if not isinstance(settings.strength, str):
        return [settings.strength]
    own = [name for name in shapes if name != "head.bias" and not name.endswith(FIXED)]
    return list(some) if own else [0.0]


def _pooled(
    prior: Prior,
    units: dict[str, float],
    strengths: Sequence[float],
    people: Population,
    training: BankTraining,
    seed: int,
    device: str,
) -> NDArray[np.float64]:
    """Mean log-loss over all validation rows, by strength and epoch: float64 [strengths, epochs]."""
    found = np.empty((len(strengths), prior.epochs))
    for number, strength in enumerate(strengths):
        own = replace(prior, spread=with_spread(prior, units, strength))
        train, valid = people.examples(range(len(people.names)))
        around = own.means_of(people.traits)
        fit = fit_bank(own, people.names, train, training, seed=seed, device=device, held_out=valid, around=around)
        assert fit.losses is not None
        found[number] = fit.losses.sum(axis=1) / valid.asked.sum()
    return np.where(np.isfinite(found), found, np.inf)  # a fit that diverged is never the best


def in_words(prior: Prior) -> str:
    """What was learned and chosen, in a line."""
    facts = prior.facts
    people, rows = facts.get("people", 0), facts.get("rows", 0)
    if facts.get("kind") == "isotropic" or "kind" not in facts:
        few = f"; fewer than {LEAST_USERS} people" if people < LEAST_USERS else ""
        return f"isotropic around the shared model, {people:,} people{few}"
    chosen = f"strength {facts['strength']:g}, {prior.epochs} epochs"
    by = f"chosen on {facts['chosen_on']:,} validation rows" if facts.get("chosen_on") else "not chosen: no rows for it"
    return f"{facts['kind']}, from {rows:,} judgements of {people:,} people; {chosen}, {by}"

"""Traits: what groups of people have in common, learned beside the prior and shrunk.

A trait is a person's value in a column (`gender`, `age_group`). It shifts where a user is expected to be,

    x_u ~ N(sum over traits t of a[t, value of u], s^2),    a[t, g] ~ N(0, (tau_t s)^2)

with `x_u` the factors and the label biases of user `u`, and `s` their spread (1 for factors): crossed random effects of
groups, with one variance for all factors and one for all biases of each trait. The variances are learned (empirical
Bayes: Morris 1983), so that groups that do not differ beyond chance are shrunk to nothing. Estimates are those of
variational EM for mixed models (Ormerod & Wand 2012): closed-form updates between the steps of `estimate`, so that what
is explained by a group leaves the spread.

Effects of a trait sum to zero over the people they are learned from: somebody whose trait is missing, or has a value
that was never met, is expected where people in general are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Traits = Mapping[str, str]
"""A person's value of each trait, by column; columns in which it is missing are left out."""

LEAST_SHARED = 2
"""People who have a value, at least, for an effect of it: the effect of one person's value would be that person."""
FIRST_TAU = 1.0
"""Where a trait's standard deviation starts, in spreads."""


@dataclass(frozen=True)
class Effects:
    """What the values of one trait shift.

    Attributes:
        values: their names, sorted.
        shifts: [values, rank + labels], of the factors and, in the numbers of `head.bias`, of the label biases.
    """

    values: tuple[str, ...]
    shifts: Tensor


def shift_of(effects: Mapping[str, Effects], traits: Traits) -> Tensor | None:
    """Where a person's group is: the sum of the shifts of their values [rank + labels]; None where none is known."""
    total: Tensor | None = None
    for column, effect in effects.items():
        value = traits.get(column)
        if value in effect.values:
            shift = effect.shifts[effect.values.index(value)]
            total = shift if total is None else total + shift
    return total


def coded(people: Sequence[Traits], columns: Sequence[str]) -> dict[str, tuple[tuple[str, ...], NDArray[np.int64]]]:
    """Traits as numbers: column -> (values that at least `LEAST_SHARED` people have, position of each person's).

    -1 for people without such a value. Columns with fewer than two values are left out: there is nothing to compare.
    """
    found: dict[str, tuple[tuple[str, ...], NDArray[np.int64]]] = {}
    for column in columns:
        counts = Counter(each[column] for each in people if column in each)
        values = tuple(sorted(value for value, count in counts.items() if count >= LEAST_SHARED))
        if len(values) > 1:
            place = {value: position for position, value in enumerate(values)}
            codes = [place.get(each.get(column, ""), -1) for each in people]
            found[column] = values, np.asarray(codes, dtype=np.int64)
    return found


def trait_lines(people: Sequence[Traits], columns: Sequence[str]) -> list[str]:
    """One line for each trait that is given: its groups, and how many people are in none."""
    used = coded(people, columns)
    lines = []
    for column in columns:
        known = sum(column in each for each in people)
        if column not in used:
            reason = (
                "its value is missing for everybody"
                if not known
                else "everybody has the same value"
                if len({each[column] for each in people if column in each}) == 1
                else f"fewer than two of its values are shared by {LEAST_SHARED} people"
            )
            lines.append(f"trait {column}: without effect, {reason} ({len(people):,} people).")
            continue
        values, codes = used[column]
        alone, missing = known - int((codes >= 0).sum()), len(people) - known
        without = [f"{missing:,} without a value"] * bool(missing)
        without += [f"{alone:,} with a value that nobody else has"] * bool(alone)
        rest = f"; {' and '.join(without)} of {len(people):,} people are not shifted" if without else ""
        lines.append(f"trait {column}: {len(values)} groups{rest}.")
    return lines


def strangers(effects: Mapping[str, Effects], people: Sequence[Traits]) -> str:
    """One line where nothing is known of some people that shifts them; empty where there are none, or no effects."""
    count = sum(shift_of(effects, each) is None for each in people)
    if not effects or not count:
        return ""
    return (
        f"traits: {count:,} of {len(people):,} people have no known {' or '.join(effects)}; "
        "they are expected where people in general are."
    )


class TraitEstimate:
    """Effects while the prior is learned; `update` is one sweep of variational EM.

    Attributes:
        centre: [users, rank + labels], where each user is expected, given their traits.
        uncertainty: [users, rank + labels], variance of that.
    """

    def __init__(self, people: Sequence[Traits], columns: Sequence[str], rank: int, labels: int, device: str) -> None:
        self._rank, size = rank, rank + labels
        self._values: dict[str, tuple[str, ...]] = {}
        self._codes: dict[str, Tensor] = {}
        self._has: dict[str, Tensor] = {}
        self._means: dict[str, Tensor] = {}
        self._variances: dict[str, Tensor] = {}
        self._tau: dict[str, Tensor] = {}  # squared, in spreads
        for column, (values, codes) in coded(people, columns).items():
            self._values[column] = values
            has = torch.from_numpy(np.flatnonzero(codes >= 0)).to(device)
            self._has[column], self._codes[column] = has, torch.from_numpy(codes).to(device)[has]
            self._means[column] = torch.zeros(len(values), size, device=device)
            self._variances[column] = torch.zeros(len(values), size, device=device)
            self._tau[column] = torch.full((size,), FIRST_TAU**2, device=device)
        self.centre = torch.zeros(len(people), size, device=device)
        self.uncertainty = torch.zeros_like(self.centre)

    def __bool__(self) -> bool:
        return bool(self._values)

    @torch.no_grad()
    def update(self, middle: Tensor, variance: Tensor, spread: Tensor, learn_variances: bool) -> None:
        """Effects given where users are, one trait after the other; then the variances of effects, if wanted.

        The variance of an effect counts what is known of each person, 1 / (s^2 + 1 / precision of their judgements) =
        (1 - v / s^2) / s^2, not that person as if known exactly: with the latter alone variances come out too small.

        Args:
            middle, variance: of users' factors and biases a posteriori, [users, rank + labels].
            spread: their standard deviation a priori, [rank + labels].
            learn_variances: whether tau is updated.
        """
        square = spread.square()
        known = (1 - variance / square).clamp(min=0) / square
        for column, has in self._has.items():
            codes, means = self._codes[column], self._means[column]
            self.centre[has] -= means[codes]
            self.uncertainty[has] -= self._variances[column][codes]
            count = torch.zeros(len(means), 1, device=means.device).index_add_(
                0, codes, torch.ones_like(codes[:, None], dtype=means.dtype)
            )
            sums = torch.zeros_like(means).index_add_(0, codes, (middle - self.centre)[has])
            means = sums / (count + 1 / self._tau[column])
            means = means - (count * means).sum(dim=0) / count.sum()
            precision = torch.zeros_like(means).index_add_(0, codes, known[has]) + 1 / (self._tau[column] * square)
            variances = (1 - count / count.sum()) / precision
            self._means[column], self._variances[column] = means, variances
            self.centre[has] += means[codes]
            self.uncertainty[has] += variances[codes]
            if learn_variances:
                between = ((means.square() + variances) / square).sum(dim=0) / (len(means) - 1)
                for some in (slice(0, self._rank), slice(self._rank, None)):
                    if len(between[some]):
                        self._tau[column][some] = between[some].mean().clamp(min=1e-8)

    def effects(self, bias_unit: float) -> dict[str, Effects]:
        """What was learned. bias_unit: of `head.bias`, in its own numbers."""
        made = {}
        for column, values in self._values.items():
            shifts = self._means[column].clone()
            shifts[:, self._rank :] *= bias_unit
            made[column] = Effects(values, shifts.cpu())
        return made

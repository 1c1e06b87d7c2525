"""How often the intervals of a gain hold the truth, and how wide they are beside a pigeonhole bootstrap's.

    python experiments/benchmarks/intervals.py --json                     every cell, 500 replications each
    python experiments/benchmarks/intervals.py --users 6,8 --times 2000   some of them, more exactly
    python experiments/benchmarks/intervals.py --trainings 3              methods trained three times, with luck

Readers with skills of their own judge texts of their own difficulty; a method and a reference are right with
probabilities that follow from both, so that the true gain is an integral, computed by Gauss-Hermite quadrature. Users'
and texts' gains differ (`differing`), or all are equal (`equal`). `repeated`: they differ, and a fifth of all
judgements are of ten texts, with the shares they have in convabuse, the commonest 9 %, on every other of which nobody
says anything, as "yes" is no abuse. Two harder worlds are there to be asked for: half of all judgements are of one
text, like all others (`half`) or one on which nobody says anything (`half-agreed`).
With `--trainings` each training of the method helps more or less than the last (`--luck`, on the scale of logits), and
the truth is its mean gain; `coverage_of_one` is that of intervals of the first training alone.
Of each cell: coverage of the nominal 95 % interval for people at large and for these people, how often
its lower end lies above zero where there is no gain at large (`false_above`), and its mean width over that of the
bootstrap over users and texts that it replaced (Owen 2007).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np

from beholder.evaluation.gains import Compared

RATES = (0.4, 0.25)
"""How often each label is given."""
SKILL, DIFFICULTY = 0.7, 0.7
WORLDS = ("equal", "differing", "half", "half-agreed", "repeated")
COMMON = {
    "half": (0.5,),
    "half-agreed": (0.5,),
    "repeated": (0.088, 0.035, 0.017, 0.014, 0.012, 0.012, 0.010, 0.007, 0.007, 0.006),  # convabuse's
}
"""Shares of all judgements that the commonest texts have."""
AGREED = {"half-agreed": 1, "repeated": 2}
"""Of every so many of them, the first is one on which nobody says anything."""
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


def main() -> None:
    """Print one JSON object, or a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", default="6,8,16,50,250,800")
    parser.add_argument("--times", type=int, default=500, help="replications of each cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trainings", type=int, default=1)
    parser.add_argument("--luck", type=float, default=0.1, help="standard deviation of what a training helps")
    parser.add_argument("--worlds", default="equal,differing,repeated")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    luck = arguments.luck if arguments.trainings > 1 else 0.0
    cells = [
        cell(users, rows, world, arguments.times, arguments.seed, arguments.trainings, luck)
        for users in map(int, arguments.users.split(","))
        for rows in (20, 200 if users <= 250 else 60)
        for world in arguments.worlds.split(",")
    ]
    covered = [each[key] for each in cells for key in ("coverage", "coverage_these_people")]
    found = {
        "cells": cells,
        "min_coverage": min(covered),
        "max_coverage": max(covered),
        "max_false_above": max(each["false_above"] for each in cells),
        "mean_width_ratio_of_many": _mean([each["width_ratio"] for each in cells if each["users"] >= 250]),
        "replications": arguments.times,
        "trainings": arguments.trainings,
    }
    if arguments.json:
        print(json.dumps(found))
        return
    for each in cells:
        print(*(f"{key} {value}" for key, value in each.items()))
    print(*(f"{key}: {value}" for key, value in found.items() if key != "cells"), sep="\n")


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 3) if values else None


class World:
    """Readers, texts, and two methods, of which one is trained several times."""

    def __init__(self, users: int, rows: int, kind: str, help_: float, trainings: int = 1, luck: float = 0.0) -> None:
        self.users, self.rows, self.kind, self.help = users, rows, kind, help_
        self.trainings, self.luck = trainings, luck
        self.texts = max(rows, users * rows // 10)
        self.spread = 0.0 if kind == "equal" else 0.5

    def drawn(self, rng: np.random.Generator):  # noqa: ANN201
        """(decisions, labels, texts, users, the true gain of these people)."""
        skill, gain = rng.normal(0, SKILL, self.users), rng.normal(0, self.spread, self.users)
        difficulty, easier = rng.normal(0, DIFFICULTY, self.texts), rng.normal(0, self.spread, self.texts)
        user = np.repeat(np.arange(self.users), self.rows)
        shares = COMMON.get(self.kind, ())  # of the texts from 0
        text = rng.integers(max(1, len(shares)), self.texts, len(user))
        if shares:
            common = rng.choice(len(shares) + 1, len(user), p=[*shares, 1 - sum(shares)])
            text = np.where(common < len(shares), common, text)
        logit = 1.0 + skill[user] + difficulty[text]
        gold = rng.random((len(user), len(RATES))) < RATES
        luck = rng.random(gold.shape)  # both methods err on the same judgements, as models of one family do
        reference = np.where(luck < likely(logit)[:, None], gold, ~gold)
        mine = []
        for _ in range(self.trainings):
            other = np.where(rng.random(len(user)) < 0.5, 1, 0)[:, None]
            again = np.where(other, luck, rng.random(gold.shape))
            helped = self.help + (self.luck * rng.normal() if self.luck else 0.0)
            mine.append(np.where(again < likely(logit + helped + gain[user] + easier[text])[:, None], gold, ~gold))
        if self.kind in AGREED:
            for each in (gold, reference, *mine):
                each[(text < len(shares)) & (text % AGREED[self.kind] == 0)] = False
        decisions = {"reference": np.stack([reference] * self.trainings), "mine": np.stack(mine)}
        return decisions, gold.astype(np.float32), text, user, self.these(skill, gain)

    def at_large(self) -> float:
        """The gain over all people and texts there could be, in points."""
        both = np.hypot(SKILL, DIFFICULTY)
        wide = np.hypot(both, np.hypot(self.spread, self.spread))
        mine = self._over_trainings(lambda helped: _f1(mean_right(1.0 + helped, wide)))
        return 100 * (mine - _f1(mean_right(1.0, both)))

    def these(self, skill: np.ndarray, gain: np.ndarray) -> float:
        """The gain of these people over all texts there could be, in points."""
        wide = np.hypot(DIFFICULTY, self.spread)
        mine = self._over_trainings(
            lambda helped: _f1(np.mean([mean_right(1.0 + helped + one, wide) for one in skill + gain]))
        )
        return 100 * (mine - _f1(np.mean([mean_right(1.0 + one, DIFFICULTY) for one in skill])))

    def _over_trainings(self, score: Callable[[float], float]) -> float:
        """The mean score over all trainings there could be."""
        if not self.luck:
            return score(self.help)
        nodes, weights = np.polynomial.hermite_e.hermegauss(9)
        return float(np.average([score(self.help + self.luck * node) for node in nodes], weights=weights))


def cell(users: int, rows: int, kind: str, times: int, seed: int, trainings: int = 1, luck: float = 0.0) -> dict:
    """Measure one kind of world, with a gain and, for `false_above`, without one at large."""
    held, held_these, held_by_one, widths, ratios = 0, 0, 0, [], []
    world = World(users, rows, kind, 0.4, trainings, luck)
    truth = world.at_large()
    rng = np.random.default_rng([seed, users, rows, WORLDS.index(kind)])
    for number in range(times):
        decisions, labels, texts, people, these = world.drawn(rng)
        found = Compared(decisions, labels, texts, people).gain("mine", "reference")
        held += found.low <= truth <= found.high
        held_these += found.texts_low <= these <= found.texts_high
        widths.append(found.high - found.low)
        if trainings > 1:
            first = {name: decided[0] for name, decided in decisions.items()}
            alone = Compared(first, labels, texts, people).gain("mine", "reference")
            held_by_one += alone.low <= truth <= alone.high
        if number < 10:
            first = {name: decided[0] for name, decided in decisions.items()}
            low, high = bootstrap(first, labels, texts, people, 200, number)
            ratios.append(widths[-1] / (high - low))
    null, above = World(users, rows, kind, 0.0, trainings, luck), 0
    null.help = _no_gain(null)
    for _ in range(times):
        decisions, labels, texts, people, _ = null.drawn(rng)
        above += Compared(decisions, labels, texts, people).gain("mine", "reference").low > 0
    return {
        "users": users,
        "rows": rows,
        "world": kind,
        "truth": round(truth, 2),
        "coverage": held / times,
        "coverage_these_people": held_these / times,
        **({"coverage_of_one": held_by_one / times} if trainings > 1 else {}),
        "false_above": above / times,
        "width": round(float(np.mean(widths)), 2),
        "width_ratio": round(float(np.mean(ratios)), 2),
    }


def bootstrap(decisions, labels, texts, people, draws: int, seed: int) -> tuple[float, float]:  # noqa: ANN001
    """The percentile interval under users and texts drawn with replacement, independently."""
    rng = np.random.default_rng(seed)
    weights = np.ones((draws, len(labels)))
    for names in (texts, people):
        _, group = np.unique(names, return_inverse=True)
        count = int(group.max()) + 1
        weights *= rng.multinomial(count, np.full(count, 1 / count), size=draws)[:, group]
    macro = {}
    for name, said in decisions.items():
        gold = labels >= 0.5
        true, false, missed = (weights @ part.astype(float) for part in (said & gold, said & ~gold, ~said & gold))
        macro[name] = (2 * true / (2 * true + false + missed)).mean(axis=1)
    low, high = np.quantile(100 * (macro["mine"] - macro["reference"]), [0.025, 0.975])
    return float(low), float(high)


def _no_gain(world: World) -> float:
    """The help under which the gain at large is zero, by bisection: where gains differ, they also add noise."""
    low, high = -0.5, 0.5
    for _ in range(60):
        world.help = (low + high) / 2
        low, high = (world.help, high) if world.at_large() < 0 else (low, world.help)
    return (low + high) / 2


def mean_right(middle: float, spread: float) -> float:
    """E[probability of being right] where its logit is normal."""
    return float((WEIGHTS * likely(middle + spread * NODES)).sum() / WEIGHTS.sum())


def _f1(right: float) -> float:
    """Macro-F1 of a method that is right with this probability, whatever the label."""
    return float(np.mean([2 * rate * right / (2 * rate * right + 1 - right) for rate in RATES]))


def likely(logit):  # noqa: ANN001, ANN201
    return 1 / (1 + np.exp(-logit))


if __name__ == "__main__":
    main()

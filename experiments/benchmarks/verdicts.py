"""How often the verdict says that personalisation pays, where it does and where it does not.

    python experiments/benchmarks/verdicts.py --json          200 worlds of each kind
    python experiments/benchmarks/verdicts.py --times 1000

A reference, a personal arm and its control predict what people said. Each world draws the skills of people, the
difficulties of texts, and how much each of them gains (see `intervals.py`). `no_effect`: neither arm is better than the
reference. `alike`: arm and control are, by the same amount, so that nothing is personal. `effect`:
250 people with 50 judgements each, an arm that is about three points better, and a control that is not; the power that
the verdict's own calculation foretells stands beside how often it was found.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from intervals import DIFFICULTY, RATES, SKILL, likely, mean_right
from scipy.stats import norm
from scipy.stats import t as student

from beholder.data.task import Task
from beholder.evaluation.arm_scores import ArmScores, Judgements
from beholder.evaluation.intervals import degrees
from beholder.evaluation.results import Results, evaluate
from beholder.evaluation.verdict import verdict

SPREAD = 0.3
"""Standard deviation, in logits, of how much people gain, and texts."""
LABELS = ("one", "two")


def main() -> None:
    """Print one JSON object, or a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200, help="worlds of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    worlds = [
        measured("no_effect", users, rows, 0.0, 0.0, arguments.times, arguments.seed)
        for users, rows in ((8, 250), (50, 50), (250, 50))
    ]
    worlds += [
        measured("alike", users, rows, 0.4, 0.4, arguments.times, arguments.seed)
        for users, rows in ((8, 250), (50, 50), (250, 50))
    ]
    worlds.append(measured("effect", 250, 50, 0.15, 0.0, arguments.times, arguments.seed))
    found = {
        "worlds": worlds,
        "max_pays_without": max(world["pays"] for world in worlds if world["kind"] != "effect"),
        "found": worlds[-1]["pays"],
        "foretold": worlds[-1]["foretold"],
        "times": arguments.times,
    }
    if arguments.json:
        print(json.dumps(found))
        return
    for world in worlds:
        print(*(f"{key} {value}" for key, value in world.items()))
    print(*(f"{key}: {value}" for key, value in found.items() if key != "worlds"), sep="\n")


def drawn(rng: np.random.Generator, users: int, rows: int, help_: float, of_control: float) -> Results:
    """One world: what people said, and what the reference, the arm and its control say, evaluated."""
    texts = max(rows, users * rows // 10)
    user = np.repeat(np.arange(users), rows)
    text = np.concatenate([rng.permutation(texts)[:rows] for _ in range(users)])
    logit = 1.0 + rng.normal(0, SKILL, users)[user] + rng.normal(0, DIFFICULTY, texts)[text]
    gold = rng.random((len(user), len(RATES))) < RATES
    luck = rng.random(gold.shape)  # arms err on the same judgements, as models of one family do

    def arm(name: str, more: float, control_of: str | None = None) -> ArmScores:
        own = 0.0
        if name != "cls":
            own = more + rng.normal(0, SPREAD, users)[user] + rng.normal(0, SPREAD, texts)[text]
        mine = np.where(rng.random(len(user))[:, None] < 0.7, luck, rng.random(gold.shape)) if name != "cls" else luck
        right = mine < likely(logit + own)[:, None]
        scores = np.where(right == gold, 0.8, 0.2).astype(np.float32)
        return ArmScores(name, name, np.full(2, 0.5, np.float32), scores, scores, 1.0, control_of)

    names = [
        np.asarray([f"{letter}{each}" for each in ids], dtype=object) for letter, ids in (("u", user), ("t", text))
    ]
    judged = Judgements(gold.astype(np.float32), names[1], names[0], names[1])
    arms = [arm("cls", 0.0), arm("cls-u", help_), arm("cls-u~shuffled-users", of_control, "cls-u")]
    return evaluate(arms, judged, judged, Task(tuple(LABELS)), "cls")


def measured(kind: str, users: int, rows: int, help_: float, of_control: float, times: int, seed: int) -> dict:
    """How often each answer is given, and the power foretold, on average, from each world's own interval."""
    # Where gains differ they also add noise: a little help is needed for none at large.
    none = _no_gain()
    rng = np.random.default_rng([seed, users, rows, int(100 * help_), int(100 * of_control)])
    answers, points, foretold = [], [], []
    for _ in range(times):
        results = drawn(rng, users, rows, none + help_, none + of_control)
        answers.append(verdict(results, {"cls-u"}).answer)
        gain, beyond = results.gains["cls-u"], results.beyond["cls-u"]
        points.append((gain.points, beyond.points))
        least = student.ppf(0.975, degrees(results.people, results.texts))
        errors = [(each.high - each.low) / 2 / least for each in (gain, beyond)]
        foretold.append(errors)
    truth, errors = np.mean(points, axis=0), np.mean(foretold, axis=0)
    power = float(np.prod(norm.cdf(truth / errors - least))) if kind == "effect" else None
    return {
        "kind": kind,
        "users": users,
        "rows": rows,
        "gain": round(float(truth[0]), 2),
        "beyond": round(float(truth[1]), 2),
        "pays": answers.count("pays") / times,
        "cannot_tell_yet": answers.count("cannot tell yet") / times,
        "no_gain_worth_having": answers.count("no gain worth having") / times,
        "foretold": None if power is None else round(power, 3),
    }


def _no_gain() -> float:
    """The help under which an arm whose gains differ is right as often as the reference, by bisection."""
    both = np.hypot(SKILL, DIFFICULTY)
    wider = np.hypot(both, np.hypot(SPREAD, SPREAD))
    low, high = -0.5, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_right(1 + middle, wider) < mean_right(1.0, both) else (low, middle)
    return (low + high) / 2


if __name__ == "__main__":
    main()

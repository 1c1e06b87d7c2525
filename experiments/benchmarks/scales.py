"""Scales kept whole, and cut into labels, on the same judgements.

    python experiments/benchmarks/scales.py --json

A population is drawn whose members use a scale of five points in their own way: each has an offset of all thresholds
(who says "very" early) and a stretch of them (who avoids the ends). `cls` and `cls-u` are fitted on the scale, and, for
comparison, on each of its cuts as a label of its own (`at_least`: four fits that know nothing of each other), whose
probabilities add up to an expected answer. Held against each other are mean absolute errors, macro-F1 at each cut (its
threshold chosen on validation, both ways), the rank correlation of people's true thresholds with those of their
adapters, and the share of a slider's answers within the interval of 90 %. With `--brighter` the same on the intensities
0 to 3 of BRIGHTER.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

import beholder as bh
from beholder.data.annotations import Annotations
from beholder.data.scales import Scale
from beholder.data.task import Task
from beholder.datasets.templates import COUNT, sentences
from beholder.evaluation.metrics import decide, fit_thresholds, macro_f1

POINTS = (1.0, 2.0, 3.0, 4.0, 5.0)
LABEL = "anger"


def main() -> None:
    """Print one JSON object, or lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--rows", type=int, default=50, help="training judgements of each person")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--base", default="minilm-l6")
    parser.add_argument("--epochs", type=int, default=3, help="of cls")
    parser.add_argument("--brighter", action="store_true", help="real intensities, in place of the simulation")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    runs = [one(arguments, int(seed)) for seed in arguments.seeds.split(",")]
    found: dict[str, Any] = {"users": arguments.users, "rows": arguments.rows, "runs": runs}
    found |= {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0] if key != "seed"}
    print(json.dumps(found) if arguments.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


def one(arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """One population, or one split."""
    if arguments.brighter:
        rows, offset = bh.load_dataset("brighter", languages=["deu"], intensities=True), None
    else:
        rows, offset = population(arguments, seed)
    train, valid, test = bh.split(rows, fractions=(0.7, 0.1, 0.2), seed=seed)
    own = personal(train, valid, arguments, seed)
    scores = {part: own.predict(list(each.texts), list(each.user_ids)).scores for part, each in parts(valid, test)}
    cut = cut_scores(train, valid, test, arguments, seed)
    found: dict[str, float] = {"seed": seed}
    errors = {"scale": [], "cut": [], "cut_median": []}
    for question in rows.task.questions:
        scale, columns = question.scale, list(question.columns)
        assert scale is not None
        answers = scale.decode(test.labels[:, columns])
        asked = ~np.isnan(answers)
        said = {
            "scale": scale.median(scores["test"][:, columns]),
            "cut": scale.mean(cut["test"][:, columns]),
            "cut_median": scale.median(cut["test"][:, columns]),
        }
        for name, each in said.items():
            errors[name].append(np.abs(answers - each)[asked].mean())
    found |= {f"mae_{name}": round(float(np.mean(each)), 4) for name, each in errors.items()}
    for name, of in (("scale", scores), ("cut", cut)):
        each = [cut_f1(of, valid, test, label) for label in range(test.labels.shape[1])]
        found |= {f"f1_{name}_{place}": round(value, 4) for place, value in enumerate(each)}
        found[f"f1_{name}"] = round(float(np.mean(each)), 4)
    if offset is not None:
        found["threshold_correlation"] = round(recovered(own, test, offset), 4)
        found["slider_coverage"] = round(slider(arguments, seed), 4)
    return found


def parts(valid: Annotations, test: Annotations) -> tuple[tuple[str, Annotations], ...]:
    """Both with their names."""
    return ("valid", valid), ("test", test)


def personal(train: Annotations, valid: Annotations, arguments: argparse.Namespace, seed: int) -> Any:
    """`cls-u` on a `cls`."""
    settings = {"base": arguments.base, "seed": seed, "progress": False}
    shared = bh.fit("cls", train, valid, epochs=arguments.epochs, user_effects=True, **settings)
    return bh.fit("cls-u", train, valid, on=shared, **settings)


def cut_scores(
    train: Annotations, valid: Annotations, test: Annotations, arguments: argparse.Namespace, seed: int
) -> dict[str, NDArray[np.float32]]:
    """Scores of every cut, each fitted as a task of its own."""
    found: dict[str, list[NDArray[np.float32]]] = {"valid": [], "test": []}
    for place, label in enumerate(train.task.labels):
        alone = [_only(each, place, label) for each in (train, valid)]
        fitted = personal(*alone, arguments, seed)
        for name, each in parts(valid, test):
            found[name].append(fitted.predict(list(each.texts), list(each.user_ids)).scores[:, 0])
    return {name: np.column_stack(each) for name, each in found.items()}


def _only(rows: Annotations, place: int, label: str) -> Annotations:
    kept = rows.select(np.flatnonzero(~np.isnan(rows.labels[:, place])))
    return Annotations.from_columns(
        Task((label,)),
        text=list(kept.texts),
        user_id=list(kept.user_ids),
        labels=kept.labels[:, [place]],
        text_id=list(kept.text_ids),
    )


def cut_f1(scores: dict[str, NDArray[np.float32]], valid: Annotations, test: Annotations, label: int) -> float:
    """Macro-F1 over both sides of a cut, its threshold chosen on validation."""
    both = {name: np.column_stack([each[:, label], 1 - each[:, label]]) for name, each in scores.items()}
    gold = {
        name: np.column_stack([rows.labels[:, label], 1 - rows.labels[:, label]]) for name, rows in parts(valid, test)
    }
    thresholds = fit_thresholds(both["valid"], gold["valid"], "multilabel")
    return macro_f1(decide(both["test"], thresholds, "multilabel"), gold["test"])


def population(
    arguments: argparse.Namespace, seed: int, slide: bool = False
) -> tuple[Annotations, NDArray[np.float64]]:
    """Judgements, and each user's true offset: float64 [users]."""
    random = np.random.default_rng(seed)
    texts, strength, _ = sentences(random.choice(COUNT, 1_200, replace=False), (LABEL,))
    per_user = round(arguments.rows / 0.7)
    text = np.concatenate([random.choice(len(texts), per_user, replace=False) for _ in range(arguments.users)])
    user = np.repeat(np.arange(arguments.users), per_user)
    offset, stretch = random.normal(0, 1.2, arguments.users), np.exp(random.normal(0, 0.2, arguments.users))
    latent = 3 * strength[text, 0] + offset[user] + random.logistic(0, 0.7, len(text))
    names = [f"reader{each:03d}" for each in user]
    if slide:
        answers = 100 / (1 + np.exp(-(latent - 1.5) * stretch[user] / 1.5))
        scale = Scale.continuous(LABEL, 0, 100)
    else:
        answers = 1.0 + ((latent[:, None] - 1.5) * stretch[user, None] > np.asarray([-1.5, -0.5, 0.5, 1.5])).sum(axis=1)
        scale = Scale(LABEL, POINTS)
    rows = Annotations.from_columns(
        Task.of([scale]), text=texts[text].tolist(), user_id=names, labels=scale.encode(answers)
    )
    return rows, offset


def recovered(model: Any, test: Annotations, offset: NDArray[np.float64]) -> float:
    """Rank correlation of true offsets with those of predictions: each user's mean logit over the same texts."""
    texts = list(test.distinct_texts[0][:60])
    users = [f"reader{each:03d}" for each in range(len(offset))]
    likely = np.clip(np.asarray(model.perspectives(texts, users).scores, dtype=np.float64), 1e-6, 1 - 1e-6)
    logit = np.log(likely / (1 - likely)).mean(axis=(0, 2))  # [users]
    return float(spearmanr(logit, offset).statistic)


def slider(arguments: argparse.Namespace, seed: int) -> float:
    """Share of the test answers on a slider within the predicted interval of 90 %."""
    rows, _ = population(arguments, seed, slide=True)
    train, valid, test = bh.split(rows, fractions=(0.7, 0.1, 0.2), seed=seed)
    scores = personal(train, valid, arguments, seed).predict(list(test.texts), list(test.user_ids)).scores
    scale = rows.task.scales[0]
    low, high = scale.interval(scores)
    answers = scale.decode(test.labels)
    return float(((answers >= low) & (answers <= high)).mean())


if __name__ == "__main__":
    main()

"""Simulated readers, whose minds are known: reports and verdicts say what is so."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from beholder.cluster.runtime import on_ray
from beholder.data.annotations import Annotations
from beholder.evaluation.gains import user_gains
from beholder.evaluation.metrics import decide
from beholder.evaluation.saved_run import recompute
from beholder.evaluation.verdict import verdict
from beholder.experiment.config import make_experiment
from beholder.report.ceiling import best_achievable
from beholder.report.user_figures import distance_from_model
from beholder.workflows import run as pipeline

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module", autouse=True)
def ray():
    """One for all fits: starting it costs more than any of them."""
    with on_ray(1):
        yield


def evaluated(folder, monkeypatch, source, cls, own, base, curve=()):
    """Fit a model for all and one for each in this process; the run's results, its rows, and the part of each."""
    monkeypatch.setenv("BEHOLDER_HOME", str(folder))
    methods = {
        "cls": cls,
        "cls-u": {"init_from": "cls", "controls": ["shuffled-users"], "curve": list(curve), "bank": own},
    }
    experiment = make_experiment(
        {
            "name": "truth",
            "source": {"name": "simulated", "texts": "templates", **source},
            "split": {"by": "text", "fractions": [0.6, 0.2, 0.2]},
            "base": base,
            "methods": methods,
            "evaluate": {"reference": "cls"},
            "cluster": {"workers": 0},
        }
    )
    prepared = pipeline.prepare(experiment)
    run = pipeline.fit_some(experiment, prepared, {job.name for job in prepared.jobs}, pipeline.Silent())
    arms = [arm.name for arm in experiment.arms]
    curves = {"cls-u": {"start": "cls", "arms": {rows: f"cls-u~{rows}-rows" for rows in curve}}}
    settings = {"reference": "cls", "arms": arms, "curves": curves}
    (run / "evaluation.json").write_text(json.dumps(settings))
    rows = Annotations.read_parquet(run / "annotations.parquet")
    return recompute(run), rows, np.asarray(rows.column("part"))


def test_curve_ceiling_and_ranking_are_those_of_the_readers_as_they_are(tmp_path, monkeypatch):
    source = {"users": 60, "rows_per_user": 240, "distinct_texts": 400, "effect": 2.0, "noise": 0.02}
    results, rows, part = evaluated(tmp_path, monkeypatch, source, {"epochs": 2}, {}, "minilm-l6", (5, 20))
    ceiling = best_achievable(results, *(rows.select(np.flatnonzero(part == name)) for name in ("valid", "test")))
    assert ceiling is not None and ceiling.readers > ceiling.crowd + 0.05
    points = [point.gain.points for point in results.curves["cls-u"]]
    assert points[0] == 0 and points[1] < points[2] < points[3]  # more judgements of a reader are worth more
    assert 0.4 * ceiling.points < points[-1] < ceiling.points + 2
    assert verdict(results, {"cls-u"}).pays

    users = sorted(set(results.test.user_ids.astype(str)))
    far = distance_from_model(results.reference_arm, results.valid, users)
    truth, crowd = (np.asarray(rows.column(name)) for name in ("truth", "truth_global"))
    off = np.abs(truth - crowd).mean(axis=1)
    really = np.asarray([off[rows.user_ids == user].mean() for user in users])
    assert spearmanr(far, really)[0] > 0.35  # type: ignore[operator]
    test = np.flatnonzero(part == "test")
    ideal = decide(truth[test].astype(np.float32), np.full(4, 0.5, np.float32), "multilabel")
    (decided,) = results.decisions(results.reference_arm)  # of the one training
    could = user_gains(ideal, decided, results.test.labels, results.test.user_ids)
    did = results.user_gains(results.arm("cls-u"))
    both = ~np.isnan(could) & ~np.isnan(did)
    assert spearmanr(did[both], could[both])[0] > 0.35  # type: ignore[operator]


def test_simulated_tasks_side_by_side_are_reported_without_a_ceiling():
    """Each row has the truth of its own task alone."""
    simulated = {"name": "simulated", "texts": "templates", "users": 3, "rows_per_user": 30, "distinct_texts": 40}
    sources = {"one": {**simulated, "labels": ["anger", "joy"]}, "two": {**simulated, "labels": ["fear"]}}
    written = {
        "name": "tasks",
        "source": {"name": "several", "sources": sources},
        "base": "tiny-bert",
        "methods": {"prior": {}},
        "evaluate": {"reference": "prior"},
        "cluster": {"workers": 0},
    }
    folder = pipeline.run(make_experiment(written)).run_folder
    assert "The readers are simulated" not in (folder / "report.html").read_text()


@pytest.mark.timeout(1800)  # a world takes 4 s on a fast machine, half a minute on a busy one
def test_where_readers_are_all_alike_the_verdict_is_not_that_it_pays(tmp_path, monkeypatch):
    claims, held = [], []
    for seed in range(12):
        source = {"users": 20, "rows_per_user": 40, "distinct_texts": 120, "effect": 0.0, "seed": seed}
        results, *_ = evaluated(tmp_path / f"{seed}", monkeypatch, source, {"epochs": 1}, {}, "tiny-bert")
        said = verdict(results, {"cls-u", "cls-u~shuffled-users"})
        beyond = results.beyond["cls-u"]
        claims.append(said.pays)
        held.append(beyond.low <= 0 <= beyond.high)  # nothing here is about who reads
    # The intervals are about the models as fitted, without the chance of training arm and control: zero is missed more
    # often than once in twenty. What may not happen more often is a claim.
    assert sum(claims) <= 1 and sum(held) >= 8

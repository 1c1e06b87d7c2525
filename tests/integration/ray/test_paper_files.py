"""The paper's experiment files, from data to gains, on tiny random models of the architectures they are about."""

from __future__ import annotations

import pytest
from project import ROOT

from beholder.cluster.runtime import on_ray
from beholder.experiment.config import load_experiment
from beholder.workflows import run as pipeline

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
FOLDER = ROOT / "experiments" / "paper"
TINY = {"mistral-7b": "mistral", "flan-t5-xl": "t5", "phi-2": "phi", "stablelm-3b": "gpt-neox"}
CONTROLS = {f"{name}~shuffled-users" for name in ("query-p", "cls-p", "lm-p")}
ARMS = {"prior", "user-prior", "query", "query-p", "query-p-1", "query-p-2", "cls", "cls-p", "lm", "lm-p", *CONTROLS}
SHORT = (
    "source={name: simulated, texts: templates, labels: [anger, joy], users: 3, rows_per_user: 24, distinct_texts: 32}",
    "split={by: text}",
    "methods.cls.epochs=1",
    "cluster.workers=0",
)


@pytest.fixture(scope="module")
def ray_once():
    with on_ray():
        yield


@pytest.mark.parametrize("name", TINY)
def test_a_paper_file_runs_to_the_end(name, ray_once):
    experiment = load_experiment(FOLDER / f"{name}.yaml", [f"base=tiny-{TINY[name]}", *SHORT])
    results = pipeline.run(experiment).results.to_json()
    assert set(results["methods"]) - {"routed"} == ARMS and results["base"] == f"tiny-{TINY[name]}"
    for method in results["methods"].values():
        assert 0 <= method["macro_f1"] <= 1 and method["gain"].keys() >= {"points", "relative", "headroom", "low"}

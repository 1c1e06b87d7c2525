"""A run from Python: what it registered predicts what was served, and the same is fitted without a run."""

from __future__ import annotations

import numpy as np
import pytest
from house import MODEL, settings

import beholder as bh
from beholder.evaluation.scores_io import read_scores
from beholder.registry import versions
from beholder.util.errors import RegistryError


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHOLDER_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield bh.run({**settings(), "seed": 1}, seed=42, progress=False)


@pytest.fixture(autouse=True)
def its_home(outcome, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(outcome.run_folder.parents[1]))


def test_a_loaded_model_predicts_what_is_served(outcome):
    test = outcome.test
    texts, users = [*test.texts, "you are a robot"], [*test.user_ids, "nobody"]
    served = versions.open_version(versions.find(MODEL)).predict(texts, users)
    for name in (f"models:/{MODEL}@champion", f"models:/{MODEL}/1", f"models:/{MODEL}", outcome.run_folder / "bundle"):
        model = bh.load_model(name)
        found = model.predict(texts, users)
        np.testing.assert_allclose(found.scores, served.scores, atol=1e-6)
        assert (found.decisions == served.decisions).all() and found.routes == served.routes
        assert not found.known[-1] and model.users == sorted(outcome.bundle.users)
        every = model.perspectives(texts[:2], users=[*model.users, "nobody"])
        again = model.predict(texts[:1] * len(every.users), every.users)
        np.testing.assert_allclose(every.scores[0], again.scores, atol=1e-6)
        assert (every.decisions[0] == again.decisions).all()
        assert MODEL in repr(model) or "bundle" in repr(model)
    with pytest.raises(RegistryError, match="Did you mean 'champion'"):
        bh.load_model(f"models:/{MODEL}@champio")


def test_what_is_fitted_without_a_run_is_what_the_run_fitted(outcome):
    written = settings()
    source = {key: value for key, value in written["source"].items() if key != "name"}
    parts = bh.split(bh.load_dataset("simulated", **source))
    assert parts.hash == outcome.results.split.hash
    cls = bh.fit("cls", parts["train"], parts["valid"], base="tiny-bert", **written["methods"]["cls"])
    bank = {"bank": written["methods"]["cls-u"]["bank"]}
    personal = bh.fit("cls-u", parts["train"], parts["valid"], on=cls, **bank)
    for name, model in (("cls", cls), ("cls-u", personal)):
        arm = read_scores(outcome.run_folder / "scores" / f"{name}.parquet").arm
        np.testing.assert_allclose(model.scores_of(parts["test"]), arm.test_scores, atol=1e-6)
    found = bh.evaluate({"cls": cls, "cls-u": personal}, parts["test"]).to_json()
    assert found["methods"]["cls-u"]["gain"] == pytest.approx(outcome.results.methods["cls-u"].gain.to_json())
    assert found["verdict"] == outcome.results.verdict.to_json()


def test_runs_are_compared(outcome):
    found = bh.compare([outcome])
    assert found.to_json() == bh.compare(outcome.run_folder.name).to_json() == bh.compare().to_json()
    assert "cls-u" in str(found) and found.verdict.sentence in found._repr_html_().replace("&#x27;", "'")
    assert "cls-u" in str(outcome) and "<table>" in outcome._repr_html_()


def test_a_bundle_is_evaluated(outcome):
    model = bh.load_model(f"models:/{MODEL}@champion")
    found = bh.evaluate({"served": model, "none": np.zeros((len(outcome.test), 4))}, outcome.test, reference="none")
    assert found.macro_f1("served") == pytest.approx(outcome.results.methods["routed"].macro_f1)

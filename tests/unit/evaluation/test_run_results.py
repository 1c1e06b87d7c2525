"""The results of a run as a typed object: what is read is written again byte for byte."""

from __future__ import annotations

import json

import pytest
from project import ROOT

from beholder.evaluation.run_results import (
    DistributionsResult,
    MethodResult,
    Provenance,
    RunResults,
    ScaleDistributionResult,
)
from beholder.evaluation.saved_run import read_results
from beholder.util.errors import DataError
from beholder.util.run_folder import RunFolder

FORMATS = ROOT / "docs" / "reference" / "formats.md"
INTERVAL = {"points": 1.5, "low": None, "high": None, "texts_low": -1.0, "texts_high": 4.0}
METHOD = {
    "method": "cls-u",
    "control_of": None,
    "macro_f1": 0.5,
    "macro_f1_of_trainings": [0.25, 0.75],
    "valid_macro_f1": None,
    "per_label": {"rude": 0.5, "funny": None},
    "subset_accuracy": 0.25,
    "ece": 0.125,
    "gain": {**INTERVAL, "relative": 0.1, "headroom": None, "p": 0.04},
    "beyond_control": None,
    "measures": {"auroc": {"value": 0.5, "reference": 0.5, "gain": 0.0, "low": None, "high": None}},
    "distributions": {
        "texts": 3,
        "manhattan": {"value": 0.5, "reference": 0.5, "gain": 0.0, "low": None, "high": None},
        "scales": {"polite": {"wasserstein": {"value": 0.5}, "absolute_distance": {"value": None}}},
    },
    "per_label_gain": {"rude": INTERVAL},
    "users": {"better": 2, "worse": 1, "same": 1},
    "per_task": {"a": 0.5},
    "per_task_gain": {"a": INTERVAL},
    "wins": True,
    "seconds": 1.0,
}
NEWCOMER = {"k": 0, "people": 3, "people_with_k": 3, "rows": 9, "log_loss": 0.5, "gain_over_zero": None}
WRITTEN = {
    "experiment": "e",
    "run": "e-12345678",
    "base": "tiny-bert",
    "seed": 42,
    "seeds": [42, 43],
    "data": {"origin": "o", "rows": 9, "labels": ["rude"], "kind": "multilabel", "fingerprint": "f"},
    "split": {"hash": "h", "leaked": 0.0, "rows": {"test": 9}, "people": {"people": 3, "with_k": {"0": 3, "5": 1}}},
    "reference": "cls",
    "rows": 9,
    "users": 3,
    "texts": 9,
    "commonest_text": 0.2,
    "level": 0.95,
    "worthwhile": 1.0,
    "trainings": 2,
    "methods": {"cls-u": METHOD},
    "curves": {"cls-u": [{"rows": 0, **INTERVAL}, {"rows": None, **INTERVAL}]},
    "newcomers": {"cls-u": [NEWCOMER]},
    "seen_unseen": [{"people": "new", "texts": "unseen", "methods": {"cls-u": [NEWCOMER]}}],
    "groups": [{"column": "gender", "of": "readers", "groups": [{"name": "f", "rows": 30}], "gap": 1.5}],
    "verdict": {"arm": "cls-u", "answer": "pays", "pays": True, "more": None, "sentence": "s"},
    "forgetting": {"text": {"version": 1}, "source": "x", "before": {"perplexity": 2.5, "macro_f1": None}, "arms": {}},
    "registered": {"model": "m", "version": 1, "aliases": ["candidate"], "best": "cls-u", "global": "cls"},
    "seconds": {"fit": 1.5},
    "mlflow": {"run_id": "r", "uri": "sqlite:///x", "page": None},
}


def test_what_is_read_is_written_again_byte_for_byte():
    results = RunResults.from_json(json.loads(json.dumps(WRITTEN)))
    assert json.dumps(results.to_json(), indent=2) == json.dumps(WRITTEN, indent=2)
    assert results.methods["cls-u"].win_rate == 0.5 and results.registered and results.registered.global_ == "cls"


def test_keys_that_an_earlier_version_did_not_write_stay_out_and_unknown_keys_stay():
    old = {"base": "b", "data": {}, "split": {"hash": "h"}, "reference": "cls", "draws": 200, "registered": None}
    results = RunResults.from_json(old)
    assert results.to_json() == old and results.methods == {} and results.forgetting is None


def test_what_was_found_is_without_provenance_and_what_came_after():
    found = RunResults.from_json(WRITTEN).found
    assert list(found) == [key for key in WRITTEN if key in found]
    assert WRITTEN.keys() - found.keys() == {*Provenance.model_fields, "registered", "seconds", "mlflow"}


@pytest.mark.parametrize("text", ["", "[]", '{"base": "b", "data": {}, "reference": "cls"}'])
def test_a_file_that_is_none_is_refused(text, tmp_path):
    RunFolder(tmp_path).results.write_text(text)
    with pytest.raises(DataError, match="Run the experiment again"):
        read_results(tmp_path)


@pytest.mark.parametrize("kind", [RunResults, MethodResult, DistributionsResult, ScaleDistributionResult])
def test_the_schema_is_documented(kind):
    section = FORMATS.read_text().partition("## `results.json`")[2].partition("\n## ")[0]
    missing = [key for key in kind.model_json_schema()["properties"] if f"`{key}`" not in section]
    assert not missing

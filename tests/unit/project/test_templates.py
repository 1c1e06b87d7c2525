"""The templates of the contributor's guide are real code: each is used as the guide describes."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from crowd import crowd
from templates import base, data_set, importer

from beholder.datasets import load, source_class
from beholder.experiment.config import make_experiment
from beholder.methods import erase_saved, load_fitted, save_fitted
from beholder.methods.base import METHODS, MethodEntry
from beholder.models import resolve, tiny
from beholder.models.info import facts_of
from beholder.training.context import Context
from beholder.util.errors import DataError

CARDS = "card,text,rater,funny,age\nc1,a whale in a hat,ann,1,30\nc1,a whale in a hat,bob,0,41\nc2,rain,ann,{},30\n"


@pytest.fixture
def user_rate(monkeypatch):
    """The line that makes it a method."""
    entry = MethodEntry("templates.method:UserRateConfig", "templates.method:FittedUserRate", "label rates per user")
    monkeypatch.setitem(METHODS, "user-rate", entry)


def test_the_method_is_fitted_from_an_experiment_saved_loaded_and_erased(user_rate, tmp_path):
    written = {
        "name": "mine",
        "source": {"name": "simulated"},
        "methods": {"user-rate": {"pseudo_rows": 5, "controls": ["shuffled-users"]}},
    }
    arms = make_experiment({**written, "evaluate": {"reference": "user-rate"}}).arms
    assert arms[1].control_of == "user-rate" and arms[1].config.control
    config = arms[0].config
    rows = crowd()
    fitted = config.fit(rows, rows, Context(base="tiny-bert"))
    scores = fitted.score(["a", "a"], ["u0", "never seen"])
    assert scores.shape == (2, 3) and scores.dtype == np.float32 and 0 <= scores.min() <= scores.max() <= 1
    assert (scores[0] != scores[1]).any() and fitted.knows("u0") and not fitted.knows("never seen")
    assert fitted.known == sorted(rows.users)
    assert fitted.score_all(["a", "b"], ["u0", "u1", "u2"]).shape == (2, 3, 3)
    save_fitted(fitted, tmp_path)
    np.testing.assert_array_equal(load_fitted(tmp_path, "tiny-bert").score(["a"], ["u0"]), scores[:1])
    assert erase_saved(tmp_path, "u0") and not erase_saved(tmp_path, "u0")
    np.testing.assert_array_equal(load_fitted(tmp_path, "tiny-bert").score(["a"], ["u0"]), scores[1:])


def test_the_data_set_loads_and_refuses_a_bad_row_with_its_place(tmp_path):
    file = tmp_path / "postcards.csv"
    file.write_text(CARDS.format(1))
    loaded = data_set.load(data_set.Postcards(path=file))
    assert len(loaded.annotations) == 3 and loaded.annotations.task.labels == ("funny",)
    assert loaded.annotations.column("age") == ["30", "41", "30"]
    file.write_text(CARDS.format("maybe"))
    with pytest.raises(DataError, match=r'postcards.csv, row 3, column "funny": "maybe" is not a label'):
        data_set.load(data_set.Postcards(path=file))


def test_the_importer_gives_a_table_that_loads(tmp_path):
    answers = [
        {"completed_by": 1, "result": [{"value": {"choices": ["rude"]}}]},
        {"completed_by": {"id": 2}, "result": [{"value": {"choices": []}}]},
        {"completed_by": 3, "was_cancelled": True, "result": []},
    ]
    export = tmp_path / "export.json"
    export.write_text(json.dumps([{"id": 7, "data": {"text": "go away"}, "annotations": answers}]))
    pq.write_table(importer.read_label_studio(export), tmp_path / "ratings.parquet")
    source = source_class("table")(path=tmp_path / "ratings.parquet", labels=["rude"])
    annotations = load(source).annotations
    assert list(annotations.user_ids) == ["1", "2"] and annotations.labels.tolist() == [[1], [0]]
    export.write_text(json.dumps([{"id": 7, "data": {"text": "go away"}}]))
    with pytest.raises(DataError, match=r"export.json, task 7: KeyError: 'annotations'"):
        importer.read_label_studio(export)


def test_the_base_is_a_decoder_that_is_loaded_by_name(monkeypatch, home):
    monkeypatch.setitem(tiny._BUILDERS, "qwen2", base._qwen2)
    monkeypatch.setattr(tiny, "ARCHITECTURES", (*tiny.ARCHITECTURES, "qwen2"))
    monkeypatch.setattr("beholder.models.catalog.ARCHITECTURES", tiny.ARCHITECTURES)
    assert facts_of(str(resolve("tiny-qwen2"))).architecture == "decoder"

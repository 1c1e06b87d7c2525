"""The templates of the contributor's guide are real code: each is used as the guide describes."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from crowd import crowd
from templates import base, data_set, importer

from beholder.datasets import load, source_class
from beholder.datasets.importers import FORMATS, Importer, open_export
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


def test_the_importer_is_recognised_and_its_export_loads(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "beholder.datasets.importers.postbox", importer)
    monkeypatch.setitem(FORMATS, "postbox", Importer("postbox"))  # the line that makes it a format
    votes = [{"by": "ann", "funny": True, "stars": 4}, {"by": "bob", "funny": False, "stars": 1}]
    cards = [{"card": "a whale in a hat", "votes": votes}, {"card": "rain", "votes": votes[:1], "test": True}]
    export = tmp_path / "cards.jsonl"
    export.write_text("".join(json.dumps(card) + "\n" for card in cards))
    loaded = load(source_class("table")(path=export, format="auto"))
    assert list(loaded.annotations.user_ids) == ["ann", "bob"]
    assert open_export(export).imported.settings["labels"]["stars"] == {"kind": "ordinal", "range": [1, 5]}
    assert open_export(export).imported.notes == ("1 card for tests left out",)
    export.write_text(json.dumps({"card": "rain", "votes": [{"funny": 1}]}))
    with pytest.raises(DataError, match=r"cards.jsonl: no vote has a name under by. Export with names"):
        open_export(export)


def test_the_base_is_a_decoder_that_is_loaded_by_name(monkeypatch, home):
    monkeypatch.setitem(tiny._BUILDERS, "qwen2", base._qwen2)
    monkeypatch.setattr(tiny, "ARCHITECTURES", (*tiny.ARCHITECTURES, "qwen2"))
    monkeypatch.setattr("beholder.models.catalog.ARCHITECTURES", tiny.ARCHITECTURES)
    assert facts_of(str(resolve("tiny-qwen2"))).architecture == "decoder"

"""HateXplain: one class of three a judgement."""

import pandas as pd
import pytest
from real_data import real

from beholder.datasets import load
from beholder.datasets.hatexplain import CLASSES, HateXplain
from beholder.datasets.profile.describe import describe
from beholder.util.errors import DataError

ROWS = [
    ("h0", "get lost", "w1", "offensive"),
    ("h0", "get lost", "w2", "normal"),
    ("h1", "nice day", "w1", "normal"),
    ("h2", "they are vermin", "w2", "hateful"),
]


def hatexplain(folder, rows=ROWS):
    frame = pd.DataFrame(rows, columns=["text_id", "text", "annotator_id", "label"])
    frame.to_parquet(folder / "hatexplain_valtest.parquet")
    return HateXplain(path=folder)


def test_each_judgement_is_one_class(tmp_path):
    loaded = load(hatexplain(tmp_path))
    annotations = loaded.annotations
    assert annotations.task.labels == CLASSES == ("normal", "offensive", "hateful")
    assert annotations.task.kind == "multiclass"
    assert annotations.labels.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert annotations.user_ids.tolist() == ["w1", "w2", "w1", "w2"]
    assert annotations.context_columns == [] and "MIT" in loaded.origin


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("hate", '"hate" is not a class. Expected normal, offensive or hateful'),
        ("Normal", '"Normal" is not a class'),
        (" ", "missing class. Expected normal, offensive or hateful"),
        (None, "missing class"),
    ],
)
def test_a_bad_class_is_refused_or_skipped(label, message, tmp_path):
    config = hatexplain(tmp_path, [*ROWS, ("h3", "what", "w1", label)])
    with pytest.raises(DataError) as error:
        load(config)
    assert f'hatexplain_valtest.parquet, row 5, column "label": {message}' in str(error.value)
    assert "--on-bad-rows skip" in str(error.value) and "what" not in str(error.value)
    loaded = load(config, on_bad_rows="skip")
    assert loaded.refused == 1 and len(loaded.annotations) == 4


def test_a_missing_column_is_named(tmp_path):
    config = hatexplain(tmp_path)
    file = tmp_path / "hatexplain_valtest.parquet"
    pd.read_parquet(file).rename(columns={"label": "labels"}).to_parquet(file)
    with pytest.raises(DataError, match=r"unknown column 'label'\. Did you mean 'labels'\?.*source\.path"):
        load(config)


def test_the_real_hatexplain():
    file = real("hatexplain_valtest.parquet")
    annotations = load(HateXplain(path=file)).annotations
    facts = describe(annotations)
    assert (facts["rows"], facts["texts"], facts["users"]) == (11_108, 3_846, 120)
    assert (facts["rows_per_user"]["min"], facts["rows_per_user"]["max"]) == (10, 1_162)
    counts = pd.read_parquet(file)["label"].value_counts()
    assert annotations.labels.sum(axis=0).tolist() == [counts[name] for name in CLASSES]

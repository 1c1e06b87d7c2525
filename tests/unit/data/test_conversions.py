"""Annotations from and to the tables of other libraries, without a loss."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from crowd import crowd
from datasets import ClassLabel, Dataset, DatasetDict

import beholder as bh
from beholder.util.errors import BeholderError, DataError


def refusal(kind, call, *arguments, **settings):
    with pytest.raises(kind) as caught:
        call(*arguments, **settings)
    message = str(caught.value)
    assert "\n" not in message and "--" not in message and "source." not in message
    return message


def shared(rows: bh.Annotations) -> bh.Annotations:
    """The same with a judgement that is a share, as where repeats were averaged."""
    labels = np.array(rows.labels)
    labels[1] = [0.25, 1.0, 0.0]
    return bh.Annotations.from_columns(
        rows.task, text=rows.texts.tolist(), user_id=rows.user_ids.tolist(), labels=labels
    )


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
@pytest.mark.parametrize("library", ["arrow", "pandas", "datasets"])
def test_annotations_come_back_as_they_went(library, kind):
    rows = crowd(kind=kind) if kind == "multiclass" else shared(crowd())
    out = getattr(rows, f"to_{library}")()
    how = {"labels": "label", "classes": rows.task.labels}
    if kind == "multilabel":
        how = {"labels": rows.task.labels, "allow_missing": True}
    back = getattr(bh.Annotations, f"from_{library}")(out, text_id="text_id", **how)
    assert back.fingerprint == rows.fingerprint and back.task == rows.task


def test_a_dataset_of_class_labels_keeps_its_classes():
    rows = {"text": ["a b", "c d", "e f"], "user_id": [1, 2, 1], "mood": [0, 2, 0]}
    features = ClassLabel(names=["calm", "sad", "angry"])
    found = bh.Annotations.from_datasets(Dataset.from_dict(rows).cast_column("mood", features), labels="mood")
    assert found.task.labels == ("calm", "sad", "angry") and found.labels.argmax(axis=1).tolist() == [0, 2, 0]
    again = found.to_datasets()
    assert again.features["label"].names == ["calm", "sad", "angry"]
    chosen = bh.Annotations.from_datasets(
        Dataset.from_dict(rows).select([2, 0]), labels={"low": {"column": "mood", "at_least": 1}}
    )
    assert chosen.texts.tolist() == ["e f", "a b"]
    assert "validation" in refusal(
        DataError, bh.Annotations.from_datasets, DatasetDict(validation=Dataset.from_dict(rows)), labels="mood"
    )


def test_a_frame_may_have_its_own_column_names_and_rules():
    frame = pd.DataFrame(
        {
            "comment": ["one", "two"],
            "rater": pd.Categorical(["ann", "bob"]),
            "stars": [1, 5],
            "mean": [True, False],
            "x": [1, "y"],
        },
        index=[7, 7],
    )
    rows = bh.Annotations.from_pandas(
        frame,
        text="comment",
        user="rater",
        labels={"liked": {"column": "stars", "at_least": 4}, "mean": None},
        context=["stars"],
    )
    assert rows.labels.tolist() == [[0, 1], [1, 0]] and rows.user_ids.tolist() == ["ann", "bob"]
    assert rows.column("stars") == ["1", "5"]


GOOD = {"text": ["a secret", "b secret", "c secret"], "user_id": ["ann", "bob", "ann"], "rude": [0, 1, 1]}


@pytest.mark.parametrize(
    ("change", "how", "complaint"),
    [
        ({"rude": [0, 1, 3]}, {}, 'DataFrame, row 3, column "rude": 3 is not a label'),
        ({"rude": [0, 1, None]}, {}, "allow_missing=True if the label was not asked."),
        ({"rude": [0, "maybe", 1]}, {}, "Make them all text, or all numbers"),
        ({"rude": ["0", "maybe", "1"]}, {}, '"maybe" is not a label'),
        ({"text": ["a secret", "A secret", ""]}, {}, 'row 3, column "text": empty'),
        ({"text": ["a secret", "b secret", " A secret"]}, {}, 'row 3, column "text": user "ann" judged the same text'),
        ({"user_id": [1.0, 2.0, 1.0]}, {}, "holds decimal numbers"),
        ({}, {"labels": ["rud"]}, "Did you mean 'rude'? Known: rude, text, user_id. Name the right one with labels="),
        ({}, {"user": "rater"}, "Name the right one with user="),
        ({}, {"labels": "rude"}, 'Pass labels=["rude"]'),
        ({}, {"labels": ["rude"], "classes": ["a", "b"]}, "kind: multiclass"),
        ({}, {"labels": []}, "name at least one label column"),
        ({}, {"labels": {"rude": {"atleast": 2}}}, "Did you mean 'at_least'"),
    ],
)
def test_a_bad_frame_is_refused_in_one_line_that_quotes_no_text(change, how, complaint):
    frame = pd.DataFrame({**GOOD, **change})
    message = refusal(BeholderError, bh.Annotations.from_pandas, frame, **{"labels": ["rude"], **how})
    assert complaint in message and "secret" not in message


def test_what_is_no_table_is_refused():
    assert "got dict" in refusal(DataError, bh.Annotations.from_pandas, GOOD, labels=["rude"])
    assert "got dict" in refusal(DataError, bh.Annotations.from_datasets, GOOD, labels=["rude"])
    assert "one class" in refusal(
        DataError, bh.Annotations.from_arrow, pa.table({**GOOD, "mood": ["sad"] * 3}), labels="mood"
    )

"""Tables in memory that do not have one judgement a row are turned as files are."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.data.annotations import Annotations
from beholder.data.reshape import entries
from beholder.util.errors import DataError, ExperimentError

WIDE = {"text": ["a cat", "a dog", "a bird"], "r1": [1, 0, 1], "r2": [0, None, 1]}
PEOPLE = {"users": ["r1", "r2"]}


def test_columns_of_people_in_a_frame_and_in_arrow():
    one = Annotations.from_pandas(pd.DataFrame(WIDE), labels=["judgement"], user="user", reshape=PEOPLE)
    other = Annotations.from_arrow(pa.table(WIDE), labels=["judgement"], user="user", reshape=PEOPLE)
    assert one.fingerprint == other.fingerprint
    assert list(zip(one.texts, one.user_ids, one.labels[:, 0], strict=True)) == [
        ("a cat", "r1", 1),
        ("a cat", "r2", 0),
        ("a dog", "r1", 0),
        ("a bird", "r1", 1),
        ("a bird", "r2", 1),
    ]


def test_messages_name_the_row_of_the_frame():
    frame = pd.DataFrame({**WIDE, "r1": ["1", "x", "0"], "r2": ["1", "0", "1"]})
    with pytest.raises(DataError, match='DataFrame, row 2, column "judgement": "x" is not a label'):
        Annotations.from_pandas(frame, labels=["judgement"], user="user", reshape=PEOPLE)
    with pytest.raises(DataError, match="unknown column 'r3'"):
        Annotations.from_pandas(frame, labels=["judgement"], user="user", reshape={"users": ["r1", "r3"]})
    with pytest.raises(ExperimentError, match="reshape: unknown key 'user_columns'"):
        Annotations.from_pandas(frame, labels=["judgement"], user="user", reshape={"user_columns": ["r1", "r2"]})


def test_several_labels_of_a_cell():
    table = pa.table({"text": ["a", "b", "c"], "user_id": ["u", "u", "u"], "mood": [["joy"], [], ["joy", "anger"]]})
    form = {"multiselect": {"column": "mood", "labels": ["anger", "joy"]}}
    rows = Annotations.from_arrow(table, labels=["anger", "joy"], reshape=form)
    assert rows.labels.tolist() == [[0, 1], [0, 0], [1, 1]]
    form["multiselect"]["labels"] = ["joy"]
    with pytest.raises(DataError, match="row 3, column \"mood\": unknown label 'anger'"):
        Annotations.from_arrow(table, labels=["joy"], reshape=form)


words = st.lists(st.text("abcdef 12", min_size=1, max_size=5).map(str.strip).filter(bool), min_size=1, max_size=6)


@settings(max_examples=80, deadline=None)
@given(words, st.sampled_from([",", ";", "|"]))
def test_a_list_is_read_in_every_notation(parts, separator):
    import json

    assert entries(parts, None) == entries(json.dumps(parts), separator) == entries(str(parts), separator) == parts
    assert entries(separator.join(parts), separator) == parts
    assert entries("", separator) is None and entries(None, None) is None and entries("plain", None) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([None, 0, 1]), min_size=3, max_size=3), min_size=2, max_size=9))
def test_every_answer_is_one_row_and_nothing_else(rows):
    if not any(cell is not None for row in rows for cell in row):
        return
    table = {"text": [f"text {place}" for place in range(len(rows))]}
    table |= {f"r{column}": [row[column] for row in rows] for column in range(3)}
    form = {"users": ["r0", "r1", "r2"]}
    made = Annotations.from_arrow(pa.table(table), labels=["judgement"], user="user", reshape=form)
    found = {(t, u): g for t, u, g in zip(made.texts, made.user_ids, made.labels[:, 0], strict=True)}
    assert found == {
        (f"text {place}", f"r{column}"): cell
        for place, row in enumerate(rows)
        for column, cell in enumerate(row)
        if cell is not None
    }

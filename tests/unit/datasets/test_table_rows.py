"""Which rows of the user's own table are judgements: empty and repeated ones, unanswered ones, ids that look alike."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_tables import written

from beholder.datasets.duplicates import surplus
from beholder.datasets.table import Table, load
from beholder.util.errors import DataError, ExperimentError
from beholder.util.strict_model import build
from beholder.workflows.python_api import load_dataset


def read(folder, columns, on_bad_rows="refuse", **more):
    source = {"name": "table", "path": written(folder / "mine.csv", columns), "user": "who", "labels": ["rude"], **more}
    return load(build(Table, source, "source"), on_bad_rows)


def table(rows):
    return dict(zip(("text", "who", "rude"), map(list, zip(*rows, strict=True)), strict=True))


ROWS = [("a cat", "u", 1), ("a dog", "u", 0), ("a cat", "v", 0), ("a dog", "v", 1)]


def test_rows_equal_to_an_earlier_one_are_left_out_and_counted(tmp_path):
    loaded = read(tmp_path, table([*ROWS, *ROWS[:3]]))
    assert len(loaded.annotations) == 4 and loaded.left_out == {"equal to an earlier row": 3}
    assert loaded.lines == ("3 rows left out: equal to an earlier row",) and loaded.refused == 0


def test_rows_without_anything_are_left_out_and_the_others_keep_their_numbers(tmp_path):
    loaded = read(tmp_path, table([ROWS[0], ("", "", ""), *ROWS[1:], (" ", "", "")]))
    assert len(loaded.annotations) == 4 and loaded.left_out == {"nothing in the row": 2}
    with pytest.raises(DataError, match='row 3, column "rude": "maybe"'):
        read(tmp_path, table([ROWS[0], ("", "", ""), ("a dog", "u", "maybe"), *ROWS[2:]]))


def test_a_second_answer_of_the_same_person_names_what_can_be_done(tmp_path):
    with pytest.raises(DataError, match=r"row 5.*already in row 1.*source.repeats: keep"):
        read(tmp_path, table([*ROWS, ("a cat", "u", 0)]))
    assert len(read(tmp_path, table([*ROWS, ("a cat", "u", 0)]), repeats="keep").annotations) == 5


def test_rows_without_a_text_are_refused_as_such_however_many(tmp_path):
    with pytest.raises(DataError, match=r'row 2, column "text": empty.*1 more such row'):
        read(tmp_path, table([ROWS[0], ("", "u", 1), ("", "u", 1), *ROWS[1:]]))


@pytest.mark.parametrize("word", ["N/A", "n/a", " N/a ", "-1"])
def test_what_is_no_answer_is_not_asked(word, tmp_path):
    columns = {**table(ROWS), "funny": [1, 0, word, 1]}
    loaded = read(tmp_path, {**columns, "rude": [word, 0, word, 1]}, labels=["rude", "funny"], not_asked=["N/A", "-1"])
    assert loaded.left_out == {"no answer (N/A, -1)": 1} and len(loaded.annotations) == 3
    assert np.isnan(loaded.annotations.labels[0, 0]) and loaded.annotations.labels[0, 1] == 1
    with pytest.raises(DataError, match='row 4, column "rude": missing value'):
        read(tmp_path, {**columns, "rude": [word, 0, 1, ""]}, labels=["rude"], not_asked=["N/A", "-1"])
    loaded = read(tmp_path, {**columns, "rude": [word, 0, 1, ""]}, labels=["rude"], not_asked=["N/A", "-1", ""])
    assert loaded.left_out == {"no answer (N/A, -1, empty)": 2} and len(loaded.annotations) == 2


def test_classes_that_are_no_answer(tmp_path):
    columns = {**table(ROWS), "mood": ["sad", "glad", "skip", "sad"]}
    loaded = read(tmp_path, columns, labels=[], kind="multiclass", label_column="mood", not_asked=["SKIP"])
    assert loaded.annotations.task.labels == ("glad", "sad") and loaded.left_out == {"no answer (SKIP)": 1}


def test_numbers_of_rows_survive_all_of_that(tmp_path):
    columns = table([("", "", ""), ("a cat", "u", "N/A"), ("a cat", "v", 1), ("a cat", "v", 1), ("a dog", "v", "x")])
    with pytest.raises(DataError, match='row 5, column "rude": "x" is not a label'):
        read(tmp_path, columns, not_asked=["N/A"])
    loaded = read(tmp_path, columns, "skip", not_asked=["N/A"])
    assert len(loaded.annotations) == 1 and loaded.refused == 1
    assert set(loaded.left_out.values()) == {1}


def test_ids_that_look_alike(tmp_path):
    columns = table([("a cat", "w1", 1), ("a cat", "W1", 0), ("a dog", "w1 ", 0), ("a dog", "v", 1)])
    apart = read(tmp_path, columns)
    assert len(apart.annotations.users) == 4 and "3 user ids differ only in case or white space" in apart.notes[0]
    with pytest.raises(DataError, match="already in row 1"):
        read(tmp_path, columns, user_ids="fold")
    joined = read(tmp_path, columns, user_ids="fold", repeats="keep")
    assert joined.annotations.users == ["v", "w1"] and joined.notes == ()


def test_python_hears_of_it_as_well(tmp_path):
    file = written(tmp_path / "mine.csv", table([*ROWS, ROWS[0]]))
    with pytest.warns(UserWarning, match="1 row left out: equal to an earlier row"):
        assert len(load_dataset(file, user="who", labels=["rude"])) == 4


def test_forms_that_contradict_themselves(tmp_path):
    for reshape, problem in (
        ({"users": ["a", "b"], "lists": ["c", "d"]}, "give one"),
        ({"slots": {"x": ["a", "b"], "y": ["c"]}}, "same number of columns"),
        ({"label_column": "a"}, "belong together"),
        ({}, "give one of"),
        ({"user": ["a"]}, "valid string"),
    ):
        with pytest.raises(ExperimentError, match=problem):
            read(tmp_path, table(ROWS), reshape=reshape)
    with pytest.raises(DataError, match=r"unknown column 'a2'.*source.reshape"):
        read(tmp_path, {**table(ROWS), "a1": [1, 1, 0, 0]}, reshape={"users": ["a1", "a2"]})
    with pytest.raises(DataError, match='makes a column "who", and there is one of that name'):
        read(
            tmp_path, {**table(ROWS), "a1": [1, 1, 0, 0], "a2": [1] * 4}, reshape={"users": ["a1", "a2"], "user": "who"}
        )


cells = st.one_of(st.none(), st.integers(0, 2), st.sampled_from(["a", "b", ""]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(cells, cells, cells), max_size=12))
def test_rows_left_out_are_those_that_add_nothing(rows):
    written_as = [[None if cell is None else str(cell) for cell in row] for row in rows]
    columns = [pa.array([row[place] for row in written_as], pa.string()) for place in range(3)]
    found = surplus(pa.table(dict(zip("abc", columns, strict=True))))
    plain = [tuple(cell or None for cell in row) for row in written_as]
    assert found.blank.tolist() == [not any(row) for row in plain]
    seen = [any(row) and row in plain[:place] for place, row in enumerate(plain)]
    assert found.repeated.tolist() == seen

"""BABE/MBIC: two classes, and what workers stated about themselves as groups."""

import re

import numpy as np
import pandas as pd
import pytest
from real_data import real

from beholder.datasets import DataNotFound, load, locate, source_class
from beholder.datasets.babe import COLUMNS, Babe, age_group, ideology_group
from beholder.datasets.profile.describe import describe
from beholder.datasets.traits import one_answer_each
from beholder.util.errors import DataError

ROWS = [
    ("b0", "They lied again.", "w1", 1, "29", "Male", "Some college", "-7"),
    ("b1", "The vote is on Monday.", "w1", 0, "29", "Male", "Some college", "-7"),
    ("b2", "A shameless stunt.", "w1", 1, "30", "Male", "Graduate work", "-3"),
    ("b0", "They lied again.", "w2", 0, "0", "Female", "Some college", "4"),
    ("b0", "They lied again.", "w2", 1, "0", "Female", "Some college", "4"),  # a repeat
    ("b1", "The vote is on Monday.", "w3", 0, "71", None, " ", "none of your business"),
]


def babe(folder, rows=ROWS, **more):
    pd.DataFrame(rows, columns=list(COLUMNS)).assign(**more).to_parquet(folder / "babe_mbic.parquet")
    return Babe(path=folder)


def columns_of(annotations, user):
    """The context columns of one user, each of which must hold one value."""
    rows = np.flatnonzero(annotations.user_ids == user)
    found = {name: {annotations.column(name)[row] for row in rows} for name in annotations.context_columns}
    assert all(len(values) == 1 for values in found.values()), found
    return {name: values.pop() for name, values in found.items()}


def test_two_classes_and_the_traits_as_context(tmp_path):
    annotations = load(babe(tmp_path)).annotations
    assert annotations.task.labels == ("not biased", "biased") and annotations.task.kind == "multiclass"
    assert list(zip(annotations.text_ids, annotations.user_ids, strict=True)) == [
        ("b0", "w1"), ("b1", "w1"), ("b2", "w1"), ("b0", "w2"), ("b1", "w3"),
    ]  # fmt: skip
    assert (annotations.labels.sum(axis=1) == 1).all()
    assert annotations.labels[:, 1].tolist() == [1, 0, 1, 0, 0]  # of a repeat, the first judgement
    assert columns_of(annotations, "w1") == {
        "gender": "Male", "education": "Some college", "age": "29", "age_group": "18-29",
        "political_ideology": "-7", "ideology_group": "left",
    }  # fmt: skip


def test_what_is_missing_or_unreadable_is_an_unknown_group_and_counted(tmp_path):
    loaded = load(babe(tmp_path))
    assert columns_of(loaded.annotations, "w2") == {
        "gender": "Female", "education": "Some college", "age": "0", "age_group": "unknown",
        "political_ideology": "4", "ideology_group": "right",
    }  # fmt: skip
    assert columns_of(loaded.annotations, "w3") == {
        "gender": "unknown", "education": "unknown", "age": "71", "age_group": "60+",
        "political_ideology": "none of your business", "ideology_group": "unknown",
    }  # fmt: skip
    assert "people of unknown group: gender 1, education 1, age_group 1, ideology_group 1" in loaded.origin


def test_a_trait_that_changes_keeps_the_answer_on_most_rows_and_is_counted(tmp_path):
    loaded = load(babe(tmp_path))
    assert "AGPL-3.0" in loaded.origin and "1 repeats left out" in loaded.origin
    assert "1 people answered differently at times" in loaded.origin
    assert "(age 1, education 1, political_ideology 1)" in loaded.origin
    settled = load(babe(tmp_path, ROWS[:2]))  # the same worker without the other answer
    assert "answered differently" not in settled.origin and "unknown" not in settled.origin


def test_among_equally_frequent_answers_the_earliest_counts_whatever_is_missing():
    stated = np.asarray([None, "b", "a", "a", "b", " ", None, "c "], dtype=object)
    users = np.asarray(["u", "u", "u", "u", "u", "u", "v", "w"], dtype=object)
    trait = one_answer_each(stated, users)
    assert trait.answers.tolist() == ["b"] * 6 + [None, "c"]
    assert trait.changed == {"u"}
    assert trait.groups(str.upper).tolist() == ["B"] * 6 + ["unknown", "C"]


@pytest.mark.parametrize(
    ("age", "group"),
    [
        ("18", "18-29"), ("29", "18-29"), ("29.5", "18-29"), ("30", "30-44"), ("44", "30-44"), ("45", "45-59"),
        ("60", "60+"), ("120", "60+"), ("17", "unknown"), ("121", "unknown"), ("-4", "unknown"), ("nan", "unknown"),
        ("inf", "unknown"), ("forty", "unknown"), ("", "unknown"),
    ],
)  # fmt: skip
def test_age_groups(age, group):
    assert age_group(age) == group


def test_ideology_is_cut_into_equal_thirds():
    groups = [ideology_group(str(step)) for step in range(-10, 11)]
    assert groups == ["left"] * 7 + ["centre"] * 7 + ["right"] * 7
    assert {ideology_group(odd) for odd in ("-11", "10.5", "nan", "left", "")} == {"unknown"}


def test_a_bad_label_is_refused_or_skipped(tmp_path):
    rows = [*ROWS, ("b9", "Who knows.", "w4", 2, "40", "Male", "Some college", "0")]
    with pytest.raises(DataError, match=r'babe_mbic.parquet, row 7, column "biased": "2" is not a label.*0 or 1'):
        load(babe(tmp_path, rows))
    loaded = load(babe(tmp_path, rows), on_bad_rows="skip")
    assert loaded.refused == 1 and loaded.annotations.users == ["w1", "w2", "w3"]


def test_a_row_without_a_user_is_refused_by_its_column(tmp_path):
    rows = [*ROWS, ("b9", "Who knows.", None, 1, "40", "Male", "Some college", "0")]
    with pytest.raises(DataError, match=r'row 7, column "annotator_id"'):
        load(babe(tmp_path, rows))
    loaded = load(babe(tmp_path, rows), on_bad_rows="skip")
    assert loaded.refused == 1 and len(loaded.annotations) == 5
    assert "age_group 1" in loaded.origin  # nobody is counted for a row that has no author


def test_missing_columns_are_named(tmp_path):
    config = babe(tmp_path)
    frame = pd.read_parquet(tmp_path / "babe_mbic.parquet")
    frame.drop(columns=["gender", "age"]).to_parquet(tmp_path / "babe_mbic.parquet")
    with pytest.raises(DataError, match=r"babe_mbic.parquet: no columns age, gender\. There are text_id"):
        load(config)
    frame.rename(columns={"biased": "bias"}).to_parquet(tmp_path / "babe_mbic.parquet")
    with pytest.raises(DataError, match=r"unknown column 'biased'\. Did you mean 'bias'\?.*source\.path"):
        load(config)


@pytest.mark.parametrize(("name", "file"), [("babe", "babe_mbic"), ("hatexplain", "hatexplain_valtest")])
def test_a_file_that_is_nowhere_is_refused_with_the_places(name, file, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("BEHOLDER_DATA", raising=False)
    with pytest.raises(DataNotFound) as error:
        load(source_class(name)())
    message = str(error.value)
    assert re.match(rf"{name} data not found\. Looked for {file}\.parquet in .*shared/data", message)
    assert "source.path" in message and "BEHOLDER_DATA" in message and "\n" not in message
    assert "--download" not in message  # neither can be fetched
    assert locate(name) is None


def test_real_files_are_looked_for_in_beholder_data_first(tmp_path, monkeypatch):
    folder = tmp_path / "babe"
    folder.mkdir()
    babe(folder)
    monkeypatch.setenv("BEHOLDER_DATA", str(tmp_path))
    assert real("babe_mbic.parquet") == folder / "babe_mbic.parquet"


def test_the_real_babe():
    file = real("babe_mbic.parquet")
    loaded = load(Babe(path=file))
    annotations, frame = loaded.annotations, pd.read_parquet(file)
    facts = describe(annotations)
    assert (facts["rows"], facts["texts"], facts["users"]) == (17_775 - 20, 1_700, 809)
    assert "20 repeats left out; 37 people answered differently at times" in loaded.origin
    assert "(age 2, gender 2, education 10, political_ideology 36)" in loaded.origin
    assert loaded.origin.endswith("people of unknown group: age_group 1")
    table = pd.DataFrame({name: annotations.column(name) for name in annotations.context_columns})
    of_users = table.assign(user=annotations.user_ids).drop_duplicates()
    assert len(of_users) == 809  # each person has one value of each trait
    assert of_users["age_group"].value_counts().to_dict().keys() == {"18-29", "30-44", "45-59", "60+", "unknown"}
    assert set(of_users["ideology_group"]) == {"left", "centre", "right"}
    assert (table[["gender", "education", "age_group", "ideology_group"]].nunique() <= 12).all()
    steady = frame.groupby("annotator_id")["political_ideology"].filter(lambda values: values.nunique() == 1)
    stated = frame.loc[steady.index].drop_duplicates("annotator_id").set_index("annotator_id")["political_ideology"]
    assert of_users.set_index("user")["political_ideology"].loc[stated.index].tolist() == stated.tolist()

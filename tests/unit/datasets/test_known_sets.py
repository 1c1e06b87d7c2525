"""The known data sets: read from small files of the same form always, and from the real files where they are."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from known_files import UNHEALTHY_ROWS, row_of, source, unhealthy
from pydantic import ValidationError
from real_data import real

from beholder.datasets import DataNotFound, load, locate, source_class
from beholder.datasets.profile.describe import describe
from beholder.datasets.single import SINGLE
from beholder.util.errors import DataError

CONVABUSE_FLAGS = ["type_sexist", "type_racist", "target_system", "direction_explicit"]


def convabuse(folder, rows):
    frame = pd.DataFrame(rows, columns=["text_id", "text", "annotator_id", "severity", *CONVABUSE_FLAGS])
    frame = frame.assign(prev_agent="hello", prev_user="hi", agent="eh?", bot="ELIZA")
    frame.to_parquet(folder / "convabuse.parquet")
    return folder


CONVABUSE_ROWS = [
    ("c0", "shut up", "a1", -2, 0, 0, 1, 1),
    ("c0", "shut up", "a1", -1, 1, 0, 0, 1),  # a repeat
    ("c0", "shut up", "a2", 1, 0, 0, 0, 0),
    ("c1", "hello", "a1", 1, 0, 0, 0, 0),
    ("c1", "hello", "a1", -1, 0, 0, 1, 0),  # a repeat whose mean is not abusive
    ("c2", "you fool", "a2", -3, 0, 0, 1, 0),
    ("c3", "what?", "a2", 0, 0, 0, 1, 0),  # ambiguous, and yet a flag
]


def test_convabuse_averages_repeats_on_the_scale_and_then_cuts(tmp_path):
    loaded = load(source("convabuse", path=convabuse(tmp_path, CONVABUSE_ROWS)))
    annotations = loaded.annotations
    # type_racist has no positive and falls below min_positive
    assert annotations.task.labels == ("abusive", "severe", "type_sexist", "target_system", "direction_explicit")
    assert len(annotations) == 5
    assert row_of(annotations, "c0", "a1") == {
        "abusive": 1, "severe": 0, "type_sexist": 1, "target_system": 1, "direction_explicit": 1,
    }  # fmt: skip
    assert row_of(annotations, "c1", "a1") == dict.fromkeys(annotations.task.labels, 0)
    assert row_of(annotations, "c2", "a2")["severe"] == 1
    assert row_of(annotations, "c3", "a2") == dict.fromkeys(annotations.task.labels, 0)
    assert set(annotations.context_columns) >= {"bot", "agent", "prev_user", "prev_agent"}
    assert annotations.column("bot")[0] == "ELIZA"
    assert "2 repeat judgements averaged" in loaded.origin and "CC BY 4.0" in loaded.origin


def test_convabuse_keeps_repeats_under_ids_of_their_own(tmp_path):
    folder = convabuse(tmp_path, CONVABUSE_ROWS)
    annotations = load(source("convabuse", path=folder, repeats="keep")).annotations
    assert len(annotations) == len(CONVABUSE_ROWS)
    assert row_of(annotations, "c0", "a1")["severe"] == 1
    assert row_of(annotations, "c0#2", "a1")["severe"] == 0
    assert row_of(annotations, "c1#2", "a1")["abusive"] == 1
    assert "c0#3" not in annotations.text_ids


def test_convabuse_labels_are_chosen_by_share_or_by_name(tmp_path):
    folder = convabuse(tmp_path, CONVABUSE_ROWS)
    assert load(source("convabuse", path=folder, min_positive=0.5)).annotations.task.labels == ("abusive", "severe")
    assert "type_racist" in load(source("convabuse", path=folder, min_positive=0)).annotations.task.labels
    assert load(source("convabuse", path=folder, labels=["abusive"])).annotations.task.labels == ("abusive",)
    with pytest.raises(DataError, match=r"unknown label 'type_sexis'\. Did you mean 'type_sexist'"):
        load(source("convabuse", path=folder, labels=["type_sexis"]))


def test_convabuse_refuses_a_severity_outside_the_scale_or_skips_it(tmp_path):
    rows = [*CONVABUSE_ROWS, ("c4", "so what", "a1", 5, 0, 0, 0, 0)]
    folder = convabuse(tmp_path, rows)
    with pytest.raises(DataError, match=r'convabuse.parquet, row 8, column "severity": "5" is not a label.*-3 to 1'):
        load(source("convabuse", path=folder))
    loaded = load(source("convabuse", path=folder), on_bad_rows="skip")
    assert loaded.refused == 1 and len(loaded.annotations) == 5
    refused = pd.read_csv(loaded.refused_files[0])
    assert refused["text_id"].tolist() == ["c4"] and "not a label" in refused["reason"][0]


def test_the_real_convabuse():
    file = real("convabuse.parquet")
    loaded = load(source("convabuse", path=file))
    frame = pd.read_parquet(file)
    annotations = loaded.annotations
    assert len(annotations) == 12_768 - 357
    mean = frame.groupby(["text_id", "annotator_id"])["severity"].mean()
    assert annotations.labels[:, 0].sum() == (mean < 0).sum()
    assert annotations.labels[:, 1].sum() == (mean <= -2).sum()
    assert annotations.task.labels[2:] == (
        "type_intellectual", "type_sexist", "type_sex_harassment", "target_system", "direction_explicit",
        "direction_implicit",
    )  # fmt: skip
    shares = describe(annotations)["labels"]
    assert min(shares.values()) >= 0.02
    assert describe(annotations)["users"] == 8


def brighter(folder, rows):
    columns = ["text_id", "text", "annotator_id", "anger", "disgust", "fear", "joy", "sadness", "surprise", "lang"]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.astype(dict.fromkeys(columns[3:9], "Int8"))
    status = {"deu": "explicit", "ptbr": "explicit", "ron": "likely_persistent", "ukr": "slot_not_person"}
    frame.assign(source_file="x.csv", id_status=frame["lang"].map(status)).to_parquet(
        folder / "brighter_emotions.parquet"
    )
    return folder


BRIGHTER_ROWS = [
    ("d1", "so ein Tag", "deu_a", 0, 0, 0, 3, 0, None, "deu"),
    ("d1", "so ein Tag", "deu_b", 1, 2, 0, 0, 0, 0, "deu"),
    ("d2", "ach", "deu_b", None, None, None, None, None, None, "deu"),
    ("d3", "nein", "deu_b", 0, 0, 1, 0, 0, 0, "deu"),
    ("p1", "que dia", "ptbr_a", 0, 0, 0, 1, 0, 0, "ptbr"),
    ("r1", "buna", "ron_a", 9, 0, 0, 1, 0, 0, "ron"),
    ("u1", "dobre", "ukr_a", 0, 0, 0, 1, 0, 0, "ukr"),
]


def test_brighter_cuts_intensities_and_keeps_what_was_not_asked(tmp_path):
    annotations = load(source("brighter", path=brighter(tmp_path, BRIGHTER_ROWS))).annotations
    assert annotations.task.labels == ("anger", "disgust", "fear", "joy", "sadness", "surprise")
    # the row of nulls is no judgement, and the bad row stands in a language nobody asked for
    assert sorted(annotations.text_ids) == ["d1", "d1", "d3", "p1"]
    np.testing.assert_array_equal(annotations.labels[0], [0, 0, 0, 1, 0, np.nan])
    np.testing.assert_array_equal(annotations.labels[1], [1, 1, 0, 0, 0, 0])
    assert annotations.column("lang") == ["deu", "deu", "deu", "ptbr"]


def test_brighter_languages_and_busy_users_can_be_chosen(tmp_path):
    folder = brighter(tmp_path, BRIGHTER_ROWS)
    assert load(source("brighter", path=folder, languages=["ptbr"])).annotations.users == ["ptbr_a"]
    assert load(source("brighter", path=folder, min_rows=2)).annotations.users == ["deu_b"]
    with pytest.raises(DataError, match=r"no user with at least 50 judgements in deu, ptbr .the busiest has 2"):
        load(source("brighter", path=folder, min_rows=50))
    with pytest.raises(DataError, match=r'row 6, column "anger": "9" is not a label. Expected 0 to 3'):
        load(source("brighter", path=folder, languages=["ron"]))


def test_brighter_refuses_languages_unknown_or_without_persons(tmp_path):
    with pytest.raises(ValidationError, match=r"unknown language 'de'\. Did you mean 'deu'"):
        source("brighter", languages=["de"])
    with pytest.raises(ValidationError, match="'ukr' are slots, not persons"):
        source("brighter", languages=["deu", "ukr"])


def test_brighter_believes_the_file_about_slots(tmp_path):
    rows = [(*row[:9], "deu" if row[9] == "ukr" else row[9]) for row in BRIGHTER_ROWS]
    frame = pd.read_parquet(brighter(tmp_path, rows) / "brighter_emotions.parquet")
    frame.loc[0, "id_status"] = "slot_not_person"
    frame.to_parquet(tmp_path / "brighter_emotions.parquet")
    with pytest.raises(DataError, match=r'row 1, column "id_status".*slots'):
        load(source("brighter", path=tmp_path))


def test_the_real_brighter():
    file = real("brighter_emotions.parquet")
    annotations = load(source("brighter", path=file)).annotations
    facts = describe(annotations)
    assert (facts["rows"], facts["users"]) == (57_622, 16)
    hindi = load(source("brighter", path=file, languages=["hin", "mar"])).annotations
    assert np.isnan(hindi.labels).any() and not np.isnan(annotations.labels).any()


def test_rottger_in_a_small_file(tmp_path):
    frame = pd.DataFrame(
        {
            "text_id": ["1", "1"],
            "text": ["x", "x"],
            "annotator_id": ["A", "B"],
            "hateful": [1, 0],
            "annotator_gender": "F",
        }
    )
    frame.to_parquet(tmp_path / "any_name.parquet")
    annotations = load(source("rottger", path=tmp_path / "any_name.parquet")).annotations
    assert annotations.labels.tolist() == [[1.0], [0.0]]
    assert annotations.column("annotator_gender") == ["F", "F"]
    frame.drop(columns="hateful").to_parquet(tmp_path / "any_name.parquet")
    with pytest.raises(DataError, match="unknown column 'hateful'"):
        load(source("rottger", path=tmp_path / "any_name.parquet"))


@pytest.mark.parametrize("name", ["rottger", "brighter", "hatexplain"])
def test_the_same_judgement_twice_is_refused(name, tmp_path):
    frame = pd.read_parquet(brighter(tmp_path, BRIGHTER_ROWS) / "brighter_emotions.parquet")
    frame = pd.concat([frame, frame.iloc[[1]]]).assign(hateful=1, annotator_gender="F", label="normal")
    frame.to_parquet(tmp_path / "twice.parquet")
    with pytest.raises(
        DataError, match=r'row 8, column "text_id": user "deu_b" judged the same text already in row 2\.'
    ):
        load(source(name, path=tmp_path / "twice.parquet"))


def test_the_real_rottger():
    facts = describe(load(source("rottger", path=real("rottger_two_paradigms_g3.parquet"))).annotations)
    assert (facts["rows"], facts["texts"], facts["users"]) == (4000, 200, 20)
    assert facts["rows_per_user"] == {"min": 200, "median": 200.0, "max": 200}


def test_what_describe_counts(tmp_path):
    rows = [
        ("d1", "So ein Tag", "a", 0, 0, 0, 3, 0, None, "deu"),
        ("d2", "so  ein tag", "b", 1, 2, 0, 0, 0, None, "deu"),  # the same text under another id
        ("d2", "so  ein tag", "a", 1, 2, 0, 0, 0, None, "deu"),
        ("d3", "nein", "a", 0, 0, 1, 0, 0, None, "deu"),
    ]
    facts = describe(load(source("brighter", path=brighter(tmp_path, rows))).annotations)
    assert facts == {
        "rows": 4,
        "texts": 3,
        "users": 2,
        "rows_per_user": {"min": 1, "median": 2.0, "max": 3},
        "labels": {"anger": 0.5, "disgust": 0.5, "fear": 0.25, "joy": 0.25, "sadness": 0.0, "surprise": None},
        "distinct_texts": 2,
        "repeated_texts": pytest.approx(2 / 3),
    }


def test_data_is_looked_for_in_stated_places(tmp_path, monkeypatch):
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    shared, cache = tmp_path / "shared" / "data", tmp_path / "home" / "data" / "unhealthy"
    for folder in (work, elsewhere, shared, cache):
        folder.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BEHOLDER_DATA", raising=False)
    with pytest.raises(DataNotFound) as error:
        load(source("unhealthy"))
    message = str(error.value)
    assert message.startswith("unhealthy data not found. Looked for unhealthy_full.csv in ") and "\n" not in message
    assert "../shared/data" in message and str(cache) in message and "BEHOLDER_DATA" in message
    assert "beholder data prepare unhealthy --download" in message
    assert locate("unhealthy") is None and locate("simulated") is None and locate("table") is None

    unhealthy(cache, UNHEALTHY_ROWS)
    assert locate("unhealthy") == cache / "unhealthy_full.csv"
    unhealthy(shared, UNHEALTHY_ROWS)
    assert locate("unhealthy") == Path("../shared/data/unhealthy_full.csv")
    monkeypatch.setenv("BEHOLDER_DATA", str(elsewhere))
    unhealthy(elsewhere, UNHEALTHY_ROWS[:1])
    assert len(load(source("unhealthy")).annotations) == 1
    assert len(load(source("unhealthy", path=cache)).annotations) == 5


def test_a_wrong_explicit_path_never_falls_back(tmp_path, monkeypatch):
    monkeypatch.setenv("BEHOLDER_DATA", str(unhealthy(tmp_path, UNHEALTHY_ROWS)))
    with pytest.raises(DataError, match="nowhere: no such file or folder") as error:
        load(source("unhealthy", path=tmp_path / "nowhere"))
    assert not isinstance(error.value, DataNotFound)


@pytest.mark.parametrize("name", [*SINGLE])
def test_settings_refuse_unknown_keys_and_cannot_be_changed(name, tmp_path):
    needed = {"table": {"path": tmp_path, "labels": ["x"]}, "lewidi": {"path": tmp_path, "data": "MP"}}
    settings = needed.get(name, {})
    config = source(name, **settings)
    assert config.name == name
    with pytest.raises(ValidationError):
        source(name, **settings, no_such_key=1)
    with pytest.raises(ValidationError):
        config.name = "other"


def test_an_unknown_source_is_named_with_the_nearest():
    with pytest.raises(DataError, match=r"unknown source 'goemotion'\. Did you mean 'goemotions'"):
        source_class("goemotion")


@pytest.mark.parametrize("name", ["convabuse", "brighter", "rottger", "babe", "hatexplain"])
def test_a_truncated_parquet_file_is_one_line(name, tmp_path):
    file = tmp_path / "cut.parquet"
    brighter(tmp_path, BRIGHTER_ROWS)
    file.write_bytes((tmp_path / "brighter_emotions.parquet").read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cut.parquet: truncated, or not a Parquet file") as error:
        load(source(name, path=file))
    assert "\n" not in str(error.value)

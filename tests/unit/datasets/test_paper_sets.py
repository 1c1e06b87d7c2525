"""The paper's data sets, GoEmotions and Unhealthy Conversations: from small files of the same form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from known_files import UNHEALTHY_ROWS, row_of, source, unhealthy
from real_data import real

from beholder.datasets import load
from beholder.datasets.goemotions import COLUMNS, EMOTIONS
from beholder.datasets.unhealthy import LABELS
from beholder.util.errors import DataError


def rating(comment, rater, *emotions, unclear=False, text=None):
    row = dict.fromkeys(COLUMNS, "x")
    row |= dict.fromkeys(EMOTIONS, "0") | dict.fromkeys(emotions, "1")
    row |= {"id": comment, "rater_id": rater, "example_very_unclear": str(unclear), "text": text or f"text {comment}"}
    return row


def goemotions(folder, *parts, split=True):
    for number, part in enumerate(parts, start=1):
        pd.DataFrame(part, columns=list(COLUMNS)).to_csv(folder / f"goemotions_{number}.csv", index=False)
    if split:
        (folder / "train.tsv").write_text('an "unclosed quote\t0,1\ta\nmore\t27\tb\n', encoding="utf-8")
        (folder / "dev.tsv").write_text("more\t27\tc\n", encoding="utf-8")
        (folder / "test.tsv").write_text("more\t27\td\n", encoding="utf-8")
    return folder


PARTS = (
    [
        rating("a", "01", "joy", text='he said "no",\nand left'),
        rating("a", "2", "anger", "joy"),
        rating("b", "2", "neutral"),
    ],
    [rating("c", "01", unclear=True), rating("c", "2", "fear"), rating("a", "01", "sadness")],
    [rating("d", "2", "love"), rating("e", "01", "love")],
)


def test_goemotions_raw_ratings_in_three_files_with_the_official_split(tmp_path):
    loaded = load(source("goemotions", path=goemotions(tmp_path, *PARTS)))
    annotations = loaded.annotations
    assert annotations.task.labels == EMOTIONS and len(EMOTIONS) == 28
    # without the unclear row, and without the second judgement of "a" by rater 01
    assert list(zip(annotations.text_ids, annotations.user_ids, strict=True)) == [
        ("a", "01"), ("a", "2"), ("b", "2"), ("c", "2"), ("d", "2"), ("e", "01"),
    ]  # fmt: skip
    assert row_of(annotations, "a", "01")["joy"] == 1 and row_of(annotations, "a", "01")["sadness"] == 0
    assert annotations.texts[0] == 'he said "no",\nand left'
    assert annotations.column("official_split") == ["train", "train", "train", "valid", "test", ""]
    assert "1 rows without a label and 1 repeats left out" in loaded.origin


def test_goemotions_rows_without_a_label_can_be_kept(tmp_path):
    folder = goemotions(tmp_path, *PARTS, split=False)
    annotations = load(source("goemotions", path=folder, drop_unlabelled=False)).annotations
    assert sum(row_of(annotations, "c", "01").values()) == 0
    assert "official_split" not in annotations.context_columns


def test_goemotions_bad_files_are_named(tmp_path):
    folder = goemotions(tmp_path, *PARTS)
    (folder / "dev.tsv").unlink()
    with pytest.raises(DataError, match=r"dev.tsv: missing beside the other split files"):
        load(source("goemotions", path=folder))
    (folder / "dev.tsv").write_text("more\t27\td\n", encoding="utf-8")
    with pytest.raises(DataError, match=r'test.tsv: text "d" also stands in dev.tsv'):
        load(source("goemotions", path=folder))
    (folder / "dev.tsv").write_text("more\t27\tc\n", encoding="utf-8")
    frame = pd.read_csv(folder / "goemotions_3.csv", dtype=str)
    frame.assign(joy=["0", "maybe"]).to_csv(folder / "goemotions_3.csv", index=False)
    with pytest.raises(DataError, match=r'goemotions_3.csv, row 2, column "joy": "maybe" is not a label'):
        load(source("goemotions", path=folder))
    frame.drop(columns=["joy", "anger"]).to_csv(folder / "goemotions_3.csv", index=False)
    with pytest.raises(DataError, match=r"goemotions_3.csv: no columns anger, joy"):
        load(source("goemotions", path=folder))
    (folder / "goemotions_3.csv").unlink()
    with pytest.raises(DataError, match=r"no goemotions_3.csv.*beholder data prepare goemotions --download"):
        load(source("goemotions", path=folder))


def test_goemotions_skips_bad_rows_of_any_of_its_files(tmp_path):
    folder = goemotions(tmp_path, *PARTS, split=False)
    frame = pd.read_csv(folder / "goemotions_3.csv", dtype=str)
    frame.assign(text=["fine", " "]).to_csv(folder / "goemotions_3.csv", index=False)
    loaded = load(source("goemotions", path=folder), on_bad_rows="skip")
    refused = pd.read_csv(loaded.refused_files[0])
    assert loaded.refused == 1 and refused["file"].tolist() == ["goemotions_3.csv"]
    assert 'goemotions_3.csv, row 2, column "text"' in refused["reason"][0]


def test_goemotions_accepts_one_real_raw_file():
    loaded = load(source("goemotions", path=real("goemotions_raw_head12.csv")))
    annotations = loaded.annotations
    assert len(annotations) == 11  # of 12, one is marked unclear
    assert row_of(annotations, "ee1pf1o", "42") == {
        name: float(name in ("disappointment", "grief", "nervousness")) for name in EMOTIONS
    }
    assert annotations.texts[0] == "That game hurt."


def test_unhealthy_full_format_with_the_official_split(tmp_path):
    loaded = load(source("unhealthy", path=unhealthy(tmp_path, UNHEALTHY_ROWS)))
    annotations = loaded.annotations
    assert annotations.task.labels == LABELS and len(LABELS) == 8 and "healthy" in LABELS
    assert list(zip(annotations.text_ids, annotations.user_ids, strict=True)) == [
        ("11", "7001"), ("11", "7002"), ("12", "7001"), ("13", "7004"), ("14", "7004"),
    ]  # fmt: skip
    assert row_of(annotations, "11", "7002") == {name: float(name in ("condescending", "sarcastic")) for name in LABELS}
    assert row_of(annotations, "12", "7001")["dismissive"] == 1
    assert np.isnan(row_of(annotations, "13", "7004")["dismissive"])
    assert annotations.column("official_split") == ["train", "train", "valid", "test", ""]
    assert "2 rows without a label and 1 repeats left out" in loaded.origin and "BY-NC-SA" in loaded.origin


def test_unhealthy_rows_without_a_label_can_be_kept(tmp_path):
    folder = unhealthy(tmp_path, UNHEALTHY_ROWS, split=False)
    annotations = load(source("unhealthy", path=folder, drop_unlabelled=False)).annotations
    assert sum(row_of(annotations, "13", "7002").values()) == 0
    assert "7003" not in annotations.users
    assert "official_split" not in annotations.context_columns

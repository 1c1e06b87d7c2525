"""LeWiDi: files of the exact form, small and invented, of each of the eight sets; what is damaged is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from lewidi_files import ANSWERS, NLI, item, small, write

from beholder.data.splits import ByColumn, split
from beholder.datasets import load, source_class
from beholder.datasets.lewidi import bins_of, items_of
from beholder.datasets.lewidi_files import SETS
from beholder.util.errors import DataError
from beholder.util.strict_model import build

LABELS = {
    "ArMIS": [[0], [1]],
    "HS-Brexit": [[0], [1]],
    "MD-Agreement": [[1], [0]],
    "ConvAbuse": [[1], [0]],
    "MP": [[0], [1]],
    "CSC": [[1, 0, 0, 0, 0], [1, 1, 1, 1, 0]],
    "Par": [[1] + [0] * 9, [1] * 8 + [0] * 2],
    "VariErrNLI": [[1, 0, 0], [1, 0, 1]],
}
TEXT = {
    "ConvAbuse": 'hello\nhow are you? [SEP] it\'s "31"',
    **dict.fromkeys(("ArMIS", "HS-Brexit", "MD-Agreement"), "an invented text, number 31"),
    **dict.fromkeys(("CSC", "MP", "Par", "VariErrNLI"), "what was before 31 [SEP] what was answered 31"),
}


def loaded(folder, data, on_bad_rows="refuse", **settings):
    config = build(source_class("lewidi"), {"name": "lewidi", "path": folder, "data": data, **settings}, "source")
    return load(config, on_bad_rows)


@pytest.mark.parametrize("data", list(SETS))
def test_each_set_is_read_with_its_official_parts(data, tmp_path):
    found = loaded(small(tmp_path, data), data)
    rows = found.annotations
    assert rows.task == SETS[data].task and len(rows) == 8 and rows.users == ["Ann1", "Ann2"]
    test = rows.text_ids == "31"
    assert rows.labels[test].tolist() == LABELS[data]
    assert set(rows.texts[test]) == {TEXT[data]}
    parts = split(rows, ByColumn(by="column"))
    ids = {part: set(rows.text_ids[parts[part]]) for part in ("train", "valid", "test")}
    assert ids == {"train": {"11", "12"}, "valid": {"21"}, "test": {"31"}}
    assert "items: train 2, dev 1, test 1" in found.origin and set(rows.column("lang")) == {"en"}


@pytest.mark.parametrize("inside", ["MP", "MP_dataset"])
def test_a_folder_of_folders_is_searched(inside, tmp_path):
    small(tmp_path / inside, "MP")
    assert len(loaded(tmp_path, "MP").annotations) == 8


def test_test_items_without_annotations_can_be_predicted_and_not_evaluated(tmp_path):
    folder = small(tmp_path, "CSC", test=None, test_clear={"31": item("CSC", 31, None)})
    with pytest.raises(DataError, match=r"CSC_test_clear.json: its items have no annotations.*source.test_on: dev"):
        loaded(folder, "CSC")
    train = {str(number): item("CSC", number, ["2", "5"]) for number in range(100, 160)}
    write(folder, "CSC", {"train": train})
    found = loaded(folder, "CSC", test_on="dev")
    parts = dict(zip(found.annotations.text_ids, found.annotations.column("split"), strict=True))
    assert parts.pop("21") == "test" and "31" not in parts and set(parts.values()) == {"train", "valid"}
    assert "tested on dev" in found.origin
    file, items = items_of(folder, "CSC", "test")
    assert file.name == "CSC_test_clear.json"
    assert [(id_, each.annotators, each.answers) for id_, each in items] == [("31", ("Ann1", "Ann2"), ())]


def test_annotations_of_2023_may_be_blank_in_every_form(tmp_path):
    for blank in ("", [], None):
        folder = small(tmp_path, "MD-Agreement", test={"31": item("MD-Agreement", 31, None, annotations=blank)})
        with pytest.raises(DataError, match="have no annotations"):
            loaded(folder, "MD-Agreement")


def test_ids_that_recur_in_another_part_are_texts_of_their_own(tmp_path):
    folder = small(tmp_path, "HS-Brexit", test={"11": item("HS-Brexit", 31, ["0", "1"])})
    assert set(loaded(folder, "HS-Brexit").annotations.text_ids) == {"train/11", "12", "21", "test/11"}
    assert [id_ for id_, _ in items_of(folder, "HS-Brexit", "test")[1]] == ["test/11"]


def test_traits_are_context_columns(tmp_path):
    """Of MP ids are without `Ann` in that file; commas before closing brackets occur in the published ones."""
    people = {"1": {"Age": 19.0, "Country of birth": "Chad", "Student status": "DATA_EXPIRED"}}
    folder = small(tmp_path, "MP")
    (folder / "MP_annotators_meta.json").write_text(json.dumps(people).replace("}}", ",}\n}"))
    found = loaded(folder, "MP")
    first = {name: found.annotations.column(name)[0] for name in ("age", "country_of_birth", "student_status")}
    assert found.annotations.user_ids[0] == "Ann1"
    assert first == {"age": "19", "country_of_birth": "Chad", "student_status": "unknown"}
    assert found.annotations.column("age")[1] == "unknown" and "1 annotator without metadata" in found.origin


def test_groups_of_annotators_and_facts_of_items_are_context_columns(tmp_path):
    groups = {"Annotators_group": "group1, group2"}
    parts = {
        part: {id_: item("HS-Brexit", int(id_), ["0", "1"], other_info=groups)}
        for part, id_ in (("train", "11"), ("dev", "21"), ("test", "31"))
    }
    rows = loaded(write(tmp_path, "HS-Brexit", parts), "HS-Brexit").annotations
    assert dict(zip(rows.user_ids, rows.column("annotators_group"), strict=True)) == {
        "Ann1": "group1", "Ann2": "group2",
    }  # fmt: skip
    domains = {"31": item("MD-Agreement", 31, ["0", "1"], other_info={"domain": "Covid-19"})}
    rows = loaded(small(tmp_path, "MD-Agreement", test=domains), "MD-Agreement").annotations
    assert rows.column("domain")[-1] == "Covid-19"


def test_somebody_who_judged_a_text_again_counts_once(tmp_path):
    again = {"31": item("ConvAbuse", 31, ["-3", "1", "1"], ["Ann1", "Ann2", "Ann1"])}
    found = loaded(small(tmp_path, "ConvAbuse", test=again), "ConvAbuse")
    rows = found.annotations.text_ids == "31"
    assert found.annotations.labels[rows].tolist() == [[1], [0]] and "1 repeat judgement averaged" in found.origin
    again = {"31": item("ArMIS", 31, ["1", "0", "0"], ["Ann1", "Ann2", "Ann1"])}
    rows = loaded(small(tmp_path, "ArMIS", test=again), "ArMIS").annotations
    assert rows.labels[rows.text_ids == "31"].tolist() == [[0.5], [0]]


def test_an_annotator_of_varierrnli_stands_there_once_for_each_label(tmp_path):
    twice = item("VariErrNLI", 31, ANSWERS["VariErrNLI"], annotators="Ann1,Ann2,Ann2")
    rows = loaded(small(tmp_path, "VariErrNLI", test={"31": twice}), "VariErrNLI").annotations
    assert rows.user_ids[rows.text_ids == "31"].tolist() == ["Ann1", "Ann2"] and rows.task.labels == NLI


def test_submitted_distributions_are_over_the_values_of_the_files(tmp_path):
    assert bins_of(small(tmp_path / "then", "CSC"), "CSC") == tuple("0123456")
    shares = {str(point): float(point == 2) for point in range(1, 7)}
    since = {part: {id_: item("CSC", 1, ["2", "2"], soft_label=shares)} for part, id_ in
             (("train", "1"), ("dev", "2"), ("test", "3"))}  # fmt: skip
    assert bins_of(write(tmp_path / "since", "CSC", since), "CSC") == tuple("123456")
    assert bins_of(small(tmp_path, "MP"), "MP") == ("0", "1") and len(bins_of(small(tmp_path, "Par"), "Par")) == 11


BAD = [
    ("MP", {"annotators": ["Ann1", "Ann2"]}, 'column "annotators": item "31": expected ids with commas between'),
    ("MP", {"annotators": "Ann1;Ann2"}, 'column "annotators": item "31": expected ids with commas between'),
    ("MP", {"annotators": ""}, 'column "annotators": item "31": names nobody'),
    ("MP", {"annotations": {"Ann1": "1"}}, 'column "annotations": item "31": has none of Ann2'),
    ("MP", {"annotations": {"Ann1": "1", "Ann2": "0", "Ann3": "0"}}, "has one of Ann3, who is not among"),
    ("MP", {"annotations": "1,0"}, "expected an object, annotator -> value"),
    ("MP", {"annotations": {"Ann1": "1", "Ann2": "2"}}, 'item "31": "2" is not a label. Expected 0 or 1'),
    ("CSC", {"annotations": {"Ann1": "7", "Ann2": "2"}}, 'item "31": 7 is outside the scale 1 to 6'),
    ("VariErrNLI", {"annotations": {"Ann1": "entails", "Ann2": "neutral"}}, "'entails' is no label"),
    ("ConvAbuse", {"annotations": "-4,1"}, '"-4" is not a label. Expected -3 to 1'),
    ("HS-Brexit", {"annotations": "1"}, "has 1 values of 2 annotators"),
    ("HS-Brexit", {"annotations": ""}, 'item "31": there are none'),
    ("MP", {"text": "a string"}, "expected post and reply"),
    ("MP", {"text": {"post": "before"}}, "has no 'reply'"),
    ("MP", {"text": {"post": "before", "reply": " "}}, "'reply' is empty"),
    ("MP", {"soft_label": {"0.0": 0.5, "1.0": 0.3}}, "its shares add up to 0.8, not to one"),
    ("CSC", {"soft_label": {"2": 0.5, "9": 0.5}}, "has '9'. Expected 0 to 6"),
    ("VariErrNLI", {"soft_label": {"contradiction": {"0": 1, "1": 0}}}, "has no 'entailment'"),
    ("VariErrNLI", {"soft_label": {each: {"0": 1, "1": 1} for each in NLI}}, "contradiction: its shares add up to 2"),
    ("MP", {"soft_label": {"0.0": "much", "1.0": 0}}, "a share is no number"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "wrong", "message"), BAD, ids=[f"{data} {str(wrong)[:40]}" for data, wrong, _ in BAD])
def test_an_item_that_cannot_be_read_is_refused_or_skipped(data, wrong, message, tmp_path):
    test = {"30": item(data, 30, ANSWERS[data]), "31": item(data, 31, ANSWERS[data]) | wrong}
    folder = small(tmp_path, data, test=test)
    with pytest.raises(DataError, match=message) as refused:
        loaded(folder, data)
    assert f"{data}_test.json, row " in str(refused.value) and "\n" not in str(refused.value)
    assert "what was" not in str(refused.value)
    kept = loaded(folder, data, on_bad_rows="skip")
    assert kept.refused and "30" in kept.annotations.text_ids
    assert kept.refused + len(kept.annotations) in (9, 10)


def test_shares_rounded_to_two_decimals_are_no_error(tmp_path):
    answers = ["1", "2", "3", "4", "5", "6"]
    names = [f"Ann{number}" for number in range(6)]
    folder = small(tmp_path, "CSC", test={"31": item("CSC", 31, answers, names)})
    assert sum(json.loads((folder / "CSC_test.json").read_text())["31"]["soft_label"].values()) > 1.01
    assert len(loaded(folder, "CSC").annotations) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"31": {"text": "a", "annotators"', "MP_test.json, line 1, column 34: no well-formed JSON"),
        ('{"31": {}, "31": {}}', "key '31' stands twice"),
        ("[]", "expected an object of items"),
        ('{"31": 4}', "expected an object of items"),
        ("{}", "holds no item"),
        ("", "no well-formed JSON"),
    ],
)
def test_a_damaged_file_is_refused(text, message, tmp_path):
    folder = small(tmp_path, "MP")
    (folder / "MP_test.json").write_text(text)
    with pytest.raises(DataError, match=message) as refused:
        loaded(folder, "MP")
    assert "\n" not in str(refused.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        loaded(tmp_path / "nowhere", "MP")
    with pytest.raises(DataError, match=r"holds no Paraphrase_dev.json, nor does Paraphrase/ in it"):
        loaded(small(tmp_path, "Par", dev=None), "Par")


def test_a_text_that_is_not_of_json_stays_as_it_is(tmp_path):
    """Some copies of ConvAbuse have its turns as Python writes them."""
    turns = {"prev_agent": "hello", "prev_user": "", "agent": "how are you?", "user": 'it\'s "31"'}
    for text, expected in ((repr(turns), TEXT["ConvAbuse"]), ("{ no object", "{ no object")):
        folder = small(tmp_path, "ConvAbuse", test={"31": item("ConvAbuse", 31, ["-2", "1"], text=text)})
        rows = loaded(folder, "ConvAbuse").annotations
        assert rows.texts[rows.text_ids == "31"][0] == expected
        assert not np.isnan(rows.labels).any()

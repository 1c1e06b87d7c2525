"""The user's own table, in every format, and everything that can be wrong with it."""

import csv
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from beholder.data.texts import text_key
from beholder.datasets import SourceConfig, load, source_class
from beholder.util.errors import DataError, ExperimentError
from beholder.util.strict_model import build


def config(path, **written):
    return source_class("table")(**{"path": path, "labels": ["angry"], **written})


def read(path, on_bad_rows="refuse", **written):
    return load(config(path, **written), on_bad_rows)


def refusal(path, **written):
    with pytest.raises(DataError) as error:
        read(path, **written)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def save(path, columns):
    """Write a table in the format its name says; a name without extension is a `datasets` folder."""
    frame = pd.DataFrame(columns)
    if path.suffix in (".csv", ".tsv"):
        separator = "," if path.suffix == ".csv" else "\t"
        frame.to_csv(path, sep=separator, index=False, quoting=csv.QUOTE_ALL)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        Dataset.from_dict(columns).save_to_disk(path)
    return path


FORMATS = ["mine.csv", "mine.tsv", "mine.parquet", "mine.jsonl", "mine"]

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
words = text.filter(lambda value: value.strip())
rows = st.lists(
    st.tuples(words, st.one_of(words, st.integers(0, 99).map(str)), st.integers(0, 1), st.integers(1, 5)),
    min_size=1,
    max_size=8,
    unique_by=lambda row: (text_key(row[0]), row[1]),
)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows)
def test_any_table_is_read_as_it_was_written_in_every_format(tmp_path_factory, name, rows):
    texts, users, angry, stars = (list(column) for column in zip(*rows, strict=True))
    path = tmp_path_factory.mktemp("any") / name
    save(path, {"text": texts, "user_id": users, "angry": angry, "stars": stars})
    labels = {"angry": {}, "liked": {"column": "stars", "at_least": 4, "range": [1, 5]}}
    loaded = read(path, labels=labels, context=["stars"])
    annotations = loaded.annotations
    assert list(annotations.texts) == texts and list(annotations.user_ids) == users
    assert annotations.labels.tolist() == [[a, float(s >= 4)] for a, s in zip(angry, stars, strict=True)]
    assert list(annotations.text_ids) == [text_key(value) for value in texts]
    assert annotations.column("stars") == [str(value) for value in stars]
    assert loaded.refused == 0 and loaded.refused_files == ()


@pytest.mark.parametrize("name", FORMATS)
def test_ids_stay_as_written(tmp_path, name):
    path = save(
        tmp_path / name, {"text": ["NA", "null"], "user_id": ["007", "1.0"], "id": ["01", "1e3"], "angry": [1, 0]}
    )
    annotations = read(path, text_id="id").annotations
    assert list(annotations.user_ids) == ["007", "1.0"] and list(annotations.text_ids) == ["01", "1e3"]
    assert list(annotations.texts) == ["NA", "null"]


def test_json_ids_of_mixed_kinds_stay_as_written(tmp_path):
    lines = ['{"text": "a", "user_id": 1, "angry": 1}', '{"text": "b", "user_id": "x", "angry": true}', ""]
    lines += [
        '{"text": "c", "user_id": 123456789012345678901, "angry": 0.0}',
        '{"text": "2020-01-01", "user_id": 2, "angry": "0"}',
    ]
    annotations = read(write(tmp_path / "mine.jsonl", "\n".join(lines))).annotations
    assert list(annotations.user_ids) == ["1", "x", "123456789012345678901", "2"]
    assert annotations.labels[:, 0].tolist() == [1, 1, 0, 0] and annotations.texts[3] == "2020-01-01"


def test_json_ids_whole_and_decimal_stay_as_written(tmp_path):
    lines = '{"text": "a", "user_id": 1, "angry": 1}\n{"text": "b", "user_id": 2.5, "angry": 0}\n'
    assert list(read(write(tmp_path / "mine.jsonl", lines)).annotations.user_ids) == ["1", "2.5"]


def test_whole_number_ids_that_became_decimal_are_refused(tmp_path):
    path = save(tmp_path / "mine.parquet", {"text": ["a", "b"], "user_id": [1.0, np.nan], "angry": [1, 0]})
    assert 'column "user_id": holds decimal numbers' in refusal(path)


def test_the_users_columns_are_named_in_the_experiment(tmp_path):
    path = write(tmp_path / "mine.csv", "body,who,part,mood\nhi,u,train,yes\nho,u,test,no\nhm,u,test,?\n")
    labels = {
        "angry": {"column": "mood", "values": {"yes": 1, "no": 0, "?": None}},
        "calm": {"column": "mood", "values": {"no": 1, "yes": 0, "?": 0}},
    }
    annotations = read(path, text="body", user="who", labels=labels, split_column="part").annotations
    np.testing.assert_array_equal(annotations.labels, [[1, 0], [0, 1], [np.nan, 0]])
    assert annotations.column("split") == ["train", "test", "test"]


def test_a_scale_is_cut_where_stated(tmp_path):
    path = write(tmp_path / "mine.csv", "text,user_id,stars\na,u,1\nb,u,3\nc,u,4.5\n")
    labels = {"liked": {"column": "stars", "at_least": 3, "range": [1, 5]}}
    assert read(path, labels=labels).annotations.labels[:, 0].tolist() == [0, 1, 1]
    write(path, "text,user_id,stars\na,u,1\nb,u,7\n")
    assert 'mine.csv, row 2, column "stars": 7 is outside the scale 1 to 5' in refusal(path, labels=labels)
    write(path, "text,user_id,stars\na,u,many\n")
    assert '"many" is not a label. Expected a number to cut at 3' in refusal(path, labels=labels)


@pytest.mark.parametrize("name", FORMATS)
def test_multiclass_from_one_column(tmp_path, name):
    path = save(tmp_path / name, {"text": ["a", "b", "c"], "user_id": ["u", "u", "v"], "mood": ["sad", "glad", "sad"]})
    settings = {"labels": [], "kind": "multiclass", "label_column": "mood"}
    annotations = read(path, **settings).annotations
    assert annotations.task.labels == ("glad", "sad") and annotations.task.kind == "multiclass"
    assert annotations.labels.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert read(path, **settings, classes=["sad", "glad", "mad"]).annotations.task.labels == ("sad", "glad", "mad")
    message = refusal(path, **settings, classes=["glad", "mad"])
    assert "row 1, column \"mood\": unknown class 'sad'. Did you mean" in message and "(1 more such rows.)" in message


def test_multiclass_needs_a_class_in_every_row_and_two_classes(tmp_path):
    settings = {"labels": [], "kind": "multiclass", "label_column": "mood"}
    path = write(tmp_path / "mine.csv", "text,user_id,mood\na,u,sad\nb,u,\nc,u,glad\n")
    assert 'row 2, column "mood": missing value' in refusal(path, **settings)
    write(path, "text,user_id,mood\na,u,sad\n")
    assert "only one class (sad)" in refusal(path, **settings)


def test_class_numbers_of_a_saved_dataset_become_names(tmp_path):
    features = Features({"text": Value("string"), "user_id": Value("int64"), "mood": ClassLabel(names=["sad", "glad"])})
    Dataset.from_dict({"text": ["a", "b"], "user_id": [1, 2], "mood": [1, 0]}, features=features).save_to_disk(
        tmp_path / "d"
    )
    annotations = read(tmp_path / "d", labels=[], kind="multiclass", label_column="mood").annotations
    assert annotations.task.labels == ("glad", "sad") and annotations.labels.tolist() == [[1, 0], [0, 1]]
    assert list(annotations.user_ids) == ["1", "2"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_label_is_refused_unless_allowed(tmp_path, name):
    columns = {"text": ["a", "b"], "user_id": ["u", "u"], "angry": [1, None], "sad": [0, 1]}
    path = save(tmp_path / name, columns)
    labels = ["angry", "sad"]
    message = refusal(path, labels=labels)
    assert f'{path}, row 2, column "angry": missing value' in message and "allow_missing" in message
    annotations = read(path, labels=labels, allow_missing=True).annotations
    np.testing.assert_array_equal(annotations.labels, [[1, 0], [np.nan, 1]])
    assert 'row 2, column "angry": no label at all' in refusal(path, labels=["angry"], allow_missing=True)


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        (
            "b,u,maybe",
            "angry",
            '"maybe" is not a label. Expected 0 or 1; map other values under source.labels, or pass --on-bad-rows skip',
        ),
        ("b,u,2", "angry", '"2" is not a label'),
        ("b,u,-1", "angry", '"-1" is not a label'),
        ("b,u,0.5", "angry", '"0.5" is not a label'),
        ("b,u,nan", "angry", '"nan" is not a label'),
        ("b,u,", "angry", "missing value"),
        (",u,1", "text", "empty"),
        ('" ",u,1', "text", "empty"),
        ("b,,1", "user_id", "empty"),
        (" A ,u,0", "text", 'user "u" judged the same text already in row 1'),
    ],
)
def test_a_bad_row_is_named_or_skipped(tmp_path, row, column, message):
    path = write(tmp_path / "mine.csv", f"text,user_id,angry\na,u,1\n{row}\nc,v,0\n")
    said = refusal(path)
    assert said.startswith(f'{path}, row 2, column "{column}": ') and message in said
    assert list(tmp_path.iterdir()) == [path]  # refusing leaves nothing behind

    loaded = read(path, on_bad_rows="skip")
    assert loaded.refused == 1 and list(loaded.annotations.texts) == ["a", "c"]
    assert loaded.refused_files == (tmp_path / "mine.csv.refused.csv",)
    with loaded.refused_files[0].open(newline="", encoding="utf-8") as stream:
        header, refused = list(csv.reader(stream))
    assert header == ["text", "user_id", "angry", "reason"]
    assert refused[:3] == next(csv.reader([row])) and message in refused[3]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.csv", "mine.csv.refused.csv"]


def test_rows_of_one_table_are_counted_and_the_first_is_named(tmp_path):
    path = write(tmp_path / "mine.csv", "text,user_id,angry\na,u,x\n,u,1\na,u,0\na,u,1\n")
    assert "row 1" in refusal(path) and "(2 more such rows.)" in refusal(path)
    loaded = read(path, on_bad_rows="skip")
    # the third row is kept: the first, which it repeats, was refused
    assert loaded.refused == 3 and loaded.annotations.labels.tolist() == [[0.0]]


def test_refused_rows_go_home_where_the_folder_of_the_input_cannot_be_written(tmp_path, monkeypatch):
    path = write(tmp_path / "mine.csv", "text,user_id,angry\na,u,x\nb,u,1\n")
    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("os.access", lambda place, mode: False)
    loaded = read(path, on_bad_rows="skip")
    (file,) = loaded.refused_files
    assert file == tmp_path / "home" / "refused" / "mine.csv.refused.csv" and file.is_file()


def test_an_experiment_file_says_where_its_table_is_described_wrongly():
    written = {"name": "table", "path": "x.csv", "labels": {"angry": {"at_leest": 3}}}
    with pytest.raises(ExperimentError, match=r"source.labels.angry: unknown key 'at_leest'. Did you mean 'at_least'"):
        build(source_class("table"), written, "source")
    with pytest.raises(ExperimentError, match=r"source: unknown key 'txt'. Did you mean 'text'"):
        build(source_class("table"), {"name": "table", "path": "x.csv", "labels": ["a"], "txt": "b"}, "source")
    union = TypeAdapter(SourceConfig).validate_python({"name": "table", "path": "x.csv", "labels": ["a", "b"]})
    assert union == config("x.csv", labels=["a", "b"])
    assert TypeAdapter(SourceConfig).validate_json(union.model_dump_json()) == union


def test_when_every_row_is_bad_nothing_is_written(tmp_path):
    path = write(tmp_path / "mine.csv", "text,user_id,angry\na,u,x\n")
    with pytest.raises(DataError, match=r"all 1 rows would be skipped; the first is mine.csv, row 1"):
        read(path, on_bad_rows="skip")
    assert list(tmp_path.iterdir()) == [path]


def test_duplicates_by_text_id_are_named_by_their_column(tmp_path):
    path = write(tmp_path / "mine.csv", "id,text,user_id,angry\n1,a,u,1\n2,b,u,1\n1,a,u,0\n")
    assert 'row 3, column "id": user "u" judged the same text already in row 1' in refusal(path, text_id="id")


def test_a_duplicate_is_of_the_first_row_that_counts(tmp_path):
    path = write(tmp_path / "mine.csv", "text,user_id,angry\na,u,\na,u,1\na,u,0\n")
    loaded = read(path, on_bad_rows="skip", allow_missing=True)
    reasons = pd.read_csv(loaded.refused_files[0])["reason"]
    assert "no label at all" in reasons[0] and 'row 3, column "text": user "u"' in reasons[1]
    assert "already in row 2." in reasons[1] and loaded.annotations.labels.tolist() == [[1.0]]


def test_a_missing_column_is_named_with_the_nearest(tmp_path):
    path = write(tmp_path / "mine.csv", "txt,user_id,angry\na,u,1\n")
    assert "unknown column 'text'. Did you mean 'txt'? Known: angry, txt, user_id." in refusal(path)
    assert "Name the right one under source.text." in refusal(path)
    for key, column in (("user", "who"), ("text_id", "id"), ("split_column", "part")):
        message = refusal(path, text="txt", **{key: column})
        assert f"unknown column '{column}'" in message and f"source.{key}" in message
    assert "source.labels.calm" in refusal(path, text="txt", labels={"calm": {}})
    assert "source.context" in refusal(path, text="txt", context=["more"])


def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes("text,user_id,angry\nfine,u,1\ncafé,u,0\n".encode("latin-1"))
    assert f"{path}, line 3: byte 32 of the file is not UTF-8. Save the file as UTF-8" in refusal(path)
    path = tmp_path / "mine.jsonl"
    path.write_bytes('{"text": "café"}\n'.encode("latin-1"))
    assert "line 1: byte 14 of the file is not UTF-8" in refusal(path)
    path = tmp_path / "mine.tsv"
    path.write_bytes("text\tuser_id\tangry\nfine\tu\t1\n".encode("utf-16"))
    assert "UTF-16" in refusal(path) and "as UTF-8, for example: iconv -f UTF-16" in refusal(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig"])
def test_a_spreadsheets_csv_is_read_whatever_stands_between_its_fields(tmp_path, delimiter, mark):
    path = tmp_path / "mine.csv"
    with path.open("w", encoding=mark, newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(["the text, in full; as written", "user_id", "angry"])
        writer.writerows([["one; two, three\tfour", "u", 1], ["five", "v", 0]])
    annotations = read(path, text="the text, in full; as written").annotations
    assert list(annotations.texts) == ["one; two, three\tfour", "five"]
    assert annotations.labels.tolist() == [[1.0], [0.0]]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes("text,user_id,angry\na,u,1\n".encode("utf-8-sig"))
    assert len(read(path).annotations) == 1
    path = tmp_path / "mine.jsonl"
    path.write_bytes('{"text": "a", "user_id": "u", "angry": 1}\n'.encode("utf-8-sig"))
    assert len(read(path).annotations) == 1


@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv", "mine.parquet", "mine.jsonl"])
def test_missing_and_empty_files(tmp_path, name):
    path = tmp_path / name
    assert f"{path}: no such file or folder" in refusal(path)
    path.touch()
    assert f"{path}: the file is empty" in refusal(path)


def test_a_header_alone_is_no_table(tmp_path):
    assert "no annotations" in refusal(write(tmp_path / "mine.csv", "text,user_id,angry\n"))


def test_damaged_files_are_one_line(tmp_path):
    path = save(tmp_path / "mine.parquet", {"text": ["a"], "user_id": ["u"], "angry": [1]})
    path.write_bytes(path.read_bytes()[:-20])
    assert "truncated, or not a Parquet file" in refusal(path)
    path = write(tmp_path / "mine.csv", "text,user_id,angry\na,u,1\nb,u\n")
    assert "not a well-formed table" in refusal(path) and "Expected 3 columns, got 2" in refusal(path)
    write(path, "text,user_id,angry\nsecret,u,1,9\n")
    assert "Row #2: Expected 3 columns, got 4. Fix that row" in refusal(path) and "secret" not in refusal(path)
    write(path, 'text,user_id,angry\na,u,1\nb,u,"0\nc,u,1\n')
    assert 'row 2: a quote (") is opened and never closed' in refusal(path)
    assert "not a well-formed table" in refusal(write(path, "no table " * 20_000))
    write(path, "text,user_id,angry,angry\na,u,1,0\n")
    assert 'column "angry" appears twice' in refusal(path)
    path = write(tmp_path / "mine.jsonl", '{"text": "a", "user_id": "u", "angry": 1}\n{"text": \n')
    assert "mine.jsonl, line 2: not JSON" in refusal(path)
    write(path, '["a", "u", 1]\n')
    assert "line 1" in refusal(path) and "is not an object" in refusal(path)


def test_unknown_formats_and_folders(tmp_path):
    path = write(tmp_path / "mine.sav", "x")
    assert ".sav is no known table format. Save it as .csv, .tsv, .parquet, .jsonl" in refusal(path)
    (tmp_path / "folder").mkdir()
    assert "not a saved `datasets` folder" in refusal(tmp_path / "folder")
    part = Dataset.from_dict({"text": ["a"], "user_id": ["u"], "angry": [1]})
    DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "parts")
    assert f"holds several parts (train, test). Name one, such as {tmp_path / 'parts' / 'train'}" in refusal(
        tmp_path / "parts"
    )
    assert len(read(tmp_path / "parts" / "train").annotations) == 1


def test_columns_of_the_wrong_kind_are_named(tmp_path):
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"text": ["a"], "user_id": ["u"], "angry": pa.array([[1, 0]]), "ok": [1]}), path)
    assert 'column "angry"' in refusal(path) and "list" in refusal(path)
    assert 'column "angry": holds list' in refusal(path, labels=["ok"], text="angry")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"labels": []}, "name at least one label column"),
        ({"labels": ["a", "a"]}, "'a' is named twice"),
        ({"labels": {"a": {"at_least": 1, "values": {"x": 1}}}}, "give one of them"),
        ({"labels": {"a": {"range": [1, 5]}}}, "give both"),
        ({"labels": {"a": {"values": {True: 1}}}}, "put the value in quotes"),
        ({"labels": {"a": {"values": {"x": 2}}}}, "0 or 1|Input should be"),
        ({"labels": {"a": {"least": 1}}}, "Extra inputs"),
        ({"kind": "multiclass"}, "needs label_column"),
        ({"kind": "multiclass", "label_column": "x"}, "are for kind: multilabel"),
        ({"label_column": "x"}, "are for kind: multiclass"),
        ({"context": ["labels"]}, "a name beholder uses itself"),
    ],
)
def test_settings_that_contradict_themselves(written, message):
    with pytest.raises(ValidationError, match=message):
        config("mine.csv", **written)

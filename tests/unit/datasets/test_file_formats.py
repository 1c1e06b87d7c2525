"""Tables in files of every format, whole, compressed, in parts, and damaged."""

from __future__ import annotations

import gzip
import io
import json
import zipfile

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workbooks import ods, xlsx

from beholder.data.texts import text_key
from beholder.datasets import load, source_class
from beholder.datasets.io import read_rows, read_table
from beholder.datasets.spool import spooled
from beholder.util.errors import DataError

ROWS = [["text", "user_id", "rude"], ["a b c", "007", 1], ["d e", " x", 0], ["f", "NA", 1]]
RECORDS = [dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]]
CSV = "text,user_id,rude\na b c,007,1\nd e, x,0\nf,NA,1\n"


def written(folder, name, rows=ROWS):
    """The rows in the format that a name ends in."""
    path = folder / name
    records = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    if name.endswith(".xlsx"):
        return xlsx(path, {"Sheet1": rows, "Sheet2": []})
    if name.endswith(".ods"):
        return ods(path, {"Sheet1": rows})
    if name.endswith(".parquet"):
        pd.DataFrame(records).to_parquet(path)
        return path
    if name.endswith(".json"):
        path.write_text(json.dumps(records, indent=1))
    elif name.endswith((".jsonl", ".ndjson")):
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        separator = "\t" if name.endswith(".tsv") else ","
        path.write_text("\n".join(separator.join(map(str, row)) for row in rows) + "\n")
    return path


def loaded(path, **named):
    return load(source_class("table")(**{"path": path, "labels": ["rude"], **named}))


def refusal(path, **named):
    with pytest.raises(DataError) as error:
        loaded(path, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


NAMES = ["t.csv", "t.tsv", "t.parquet", "t.jsonl", "t.ndjson", "t.json", "t.xlsx", "t.ods"]


@pytest.mark.parametrize("packed", ["", ".gz", ".zip"])
@pytest.mark.parametrize("name", NAMES)
def test_every_format_holds_the_same_rows_compressed_or_not(tmp_path, name, packed):
    path = written(tmp_path, name)
    if packed == ".gz":
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    elif packed == ".zip":
        path = tmp_path / "t.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / name, f"inside/{name}")
            archive.writestr("__MACOSX/inside/._t.csv", "x")
            archive.writestr("readme.txt", "x")
    annotations = loaded(path).annotations
    assert list(annotations.texts) == ["a b c", "d e", "f"]
    assert list(annotations.user_ids) == ["007", " x", "NA"]
    assert annotations.labels[:, 0].tolist() == [1, 0, 1]


@pytest.mark.parametrize("write", [xlsx, ods])
def test_numbers_of_a_workbook_are_as_they_were_typed(tmp_path, write):
    path = write(tmp_path / f"t.{write.__name__}", {"S": [["id", "code", "mixed"], [12, "12.0", 3], [1.5, "007", "x"]]})
    table = read_table(path)
    assert table.to_pydict() == {"id": [12, 1.5], "code": ["12.0", "007"], "mixed": ["3", "x"]}
    whole = read_table(write(tmp_path / f"w.{write.__name__}", {"S": [["id", "x"], [12, "a"], [None, "b"]]}))
    assert whole["id"].to_pylist() == [12, None] and str(whole["id"].type) == "int64"


def test_a_workbook_needs_one_filled_sheet(tmp_path):
    path = xlsx(tmp_path / "t.xlsx", {"One": ROWS, "Two": ROWS})
    assert f'{path}: holds several sheets ("One", "Two")' in refusal(path) and "a file of its own" in refusal(path)
    assert "all sheets are empty" in refusal(xlsx(tmp_path / "e.xlsx", {"One": [[None, " "]], "Two": []}))
    assert "place 2 has no name" in refusal(xlsx(tmp_path / "n.xlsx", {"One": [["text", None], ["a", "b"]]}))
    assert 'column "text" appears twice' in refusal(xlsx(tmp_path / "d.xlsx", {"One": [["text", "text"], ["a", "b"]]}))
    assert (
        len(loaded(xlsx(tmp_path / "r.xlsx", {"One": [*[[*row, None] for row in ROWS], [None] * 4]})).annotations) == 3
    )


def test_protected_and_damaged_workbooks_are_one_line(tmp_path):
    path = tmp_path / "t.xlsx"
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2_000))
    assert "protected by a password. Save it without one" in refusal(path)
    locked = ods(tmp_path / "t.ods", {"One": ROWS}, locked=True)
    assert f"{locked}: protected by a password" in refusal(locked)
    whole = xlsx(tmp_path / "w.xlsx", {"One": ROWS}).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"{path}: truncated, or not a workbook" in refusal(path)
    path.write_bytes(b"")
    assert "the file is empty" in refusal(path)


@pytest.mark.parametrize("line", ["sep=;", "SEP=;", '"sep=;"'])
@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig"])
def test_the_first_line_by_which_excel_states_the_separator(tmp_path, line, mark):
    path = tmp_path / "t.csv"
    path.write_text(f"{line}\ntext;user_id;rude\na, b;u;1\nc;v;0\n", encoding=mark)
    assert list(loaded(path).annotations.texts) == ["a, b", "c"]


def test_rows_without_anything_are_left_out_and_counted(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,user_id,rude\na,u,1\n,,\nb,v,0\n,,\n")
    found = loaded(path)
    assert list(found.annotations.texts) == ["a", "b"] and found.left_out == {"nothing in the row": 2}
    path.write_text("text,user_id,rude,\na,u,1,\n,,,\nb,v,x,\n")  # a column without name and values, too
    assert "row 3, column" in refusal(path)


@pytest.mark.parametrize(
    "first",
    [
        ["0 train garden street.", "w1", "0"],
        ["7", "some words, other than below", "w9", "1"],
        ["2024-03-01 10:00", "a text of words", "w1", "1"],
        ["w2", "a whole other text here", "yes"],
    ],
)
def test_a_first_row_of_data_is_no_header(tmp_path, first):
    kinds = {"w": "w{}", "0": "{}", "y": "yes"}
    rows = [first]
    for number in range(1, 9):
        row = []
        for cell in first:
            if cell.startswith("2024"):
                row.append(f"2024-03-0{number} 1{number}:00")
            elif " " in cell:
                row.append(f"text {number} of some words")
            elif cell in ("0", "1"):
                row.append(str(number % 2))
            elif cell == "7":
                row.append(str(number * 11))
            else:
                row.append(kinds[cell[0]].format(1 + number % 3))
        rows.append(row)
    path = tmp_path / "t.csv"
    path.write_text("\n".join(",".join(f'"{cell}"' for cell in row) for row in rows) + "\n")
    with pytest.raises(DataError, match=r"t.csv: the first row looks like data.*source.header: false .init: --no-head"):
        read_table(path)
    table = read_table(path, header=False)
    assert table.num_rows == 9 and table.column_names == [f"column{place}" for place in range(1, len(first) + 1)]
    assert table.to_pylist()[0] == dict(zip(table.column_names, first, strict=True))
    named = {"text": f"column{1 + next(i for i, c in enumerate(first) if ' ' in c and c[:4] != '2024')}"}
    if "0" in first:
        annotations = loaded(path, header=False, user="column2", labels={"rude": {"column": "column3"}}, **named)
        assert len(annotations.annotations) == 9


@pytest.mark.parametrize(
    "header",
    [
        "text,user,rude",
        "text,1,2,3",  # annotators, one a column
        "What do you think of this text?,Who are you?,How rude is it?",
        "text,rude,rude2",
    ],
)
def test_names_of_columns_are_no_data(tmp_path, header):
    path = tmp_path / "t.csv"
    columns = header.count(",")
    path.write_text(header + "\n" + "".join(f"text {n} of words{f',{n % 3 + 1}' * columns}\n" for n in range(9)))
    assert read_table(path).column_names == header.split(",")


def test_half_a_character_is_refused_by_row_or_skipped(tmp_path):
    records = [{"text": f"a {n}", "user_id": f"u{n % 2}", "rude": n % 2} for n in range(4)]
    records[2]["text"] = "half \ud83d"
    for name, text in (("t.jsonl", "\n".join(map(json.dumps, records))), ("t.json", json.dumps(records))):
        path = tmp_path / name
        path.write_text(text)
        assert f'{path}, row 3, column "text": half of a character' in refusal(path)
        found = load(source_class("table")(path=path, labels=["rude"]), "skip")
        assert found.refused == 1 and list(found.annotations.texts) == ["a 0", "a 1", "a 3"]
    whole = tmp_path / "whole.jsonl"
    whole.write_text("\n".join(json.dumps({**each, "text": f"{n} \U0001f600"}) for n, each in enumerate(records)))
    assert loaded(whole).annotations.texts[2] == "2 \U0001f600"


@pytest.mark.parametrize(
    "value",
    [
        RECORDS,
        {name: [row[name] for row in RECORDS] for name in ROWS[0]},
        {name: {str(n): row[name] for n, row in enumerate(RECORDS)} for name in ROWS[0]},
        {f"t{n}": row for n, row in enumerate(RECORDS)},
    ],
    ids=["list of objects", "columns", "pandas", "object of objects"],
)
def test_json_of_several_forms_holds_rows(tmp_path, value):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(value))
    assert loaded(path).annotations.labels[:, 0].tolist() == [1, 0, 1]


def test_json_that_holds_no_rows_is_one_line(tmp_path):
    path = tmp_path / "t.json"
    for text, what in (
        ("[]", "no rows"),
        ('"x"', "no rows"),
        ("[1, 2]", "no rows"),
        ("{", "not JSON"),
        ("[" * 9**5, "JSON|deep"),
    ):
        path.write_text(text)
        assert any(each in refusal(path) for each in what.split("|"))
    path.write_text("\n".join(map(json.dumps, RECORDS)))  # lines, under the wrong name
    assert len(loaded(path).annotations) == 3


def test_truncated_and_foreign_archives_are_one_line(tmp_path):
    packed = gzip.compress(CSV.encode() * 200)
    (tmp_path / "t.csv.gz").write_bytes(packed[: len(packed) // 2])
    assert f"{tmp_path / 't.csv.gz'}: truncated, or not a gz file" in refusal(tmp_path / "t.csv.gz")
    (tmp_path / "u.csv.gz").write_text(CSV)
    assert "truncated, or not a gz file" in refusal(tmp_path / "u.csv.gz")
    (tmp_path / "t.sav.gz").write_bytes(packed)
    assert ".sav is no known table format" in refusal(tmp_path / "t.sav.gz")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("notes.txt", "x")
    assert "holds no table" in refusal(tmp_path / "t.zip")
    whole = (tmp_path / "t.zip").read_bytes()
    (tmp_path / "t.zip").write_bytes(whole[:-30])
    assert "truncated, or not a zip file" in refusal(tmp_path / "t.zip")
    bad = tmp_path / "bad.csv.gz"
    bad.write_bytes(gzip.compress(b"text,user_id,rude\na,u\n"))
    assert f"{bad}: not a well-formed table" in refusal(bad)


def test_parts_of_one_table_and_tables_of_different_columns_in_an_archive(tmp_path):
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", CSV)
        archive.writestr("b.csv", "rude,user_id,text\n0,w,other\n")  # another order
    assert list(loaded(path).annotations.user_ids) == ["007", " x", "NA", "w"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", CSV)
        archive.writestr("people.csv", "user_id,age\nw,30\n")
    message = refusal(path)
    assert f"{path / 'a.csv'} and {path / 'people.csv'} have different columns" in message and "age" in message


def test_refused_rows_lie_beside_the_archive_and_of_the_hub_at_home(tmp_path, monkeypatch):
    bad = CSV.replace("d e, x,0", "d e, x,?")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a.csv", bad)
    found = load(source_class("table")(path=tmp_path / "t.zip", labels=["rude"]), "skip")
    assert found.refused_files == (tmp_path / "a.csv.refused.csv",) and "row 2" in found.refused_files[0].read_text()
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(bad.encode()))
    found = load(source_class("table")(path=tmp_path / "t.csv.gz", labels=["rude"]), "skip")
    assert found.refused_files == (tmp_path / "t.csv.gz.refused.csv",)

    from datasets import Dataset

    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path / "home"))
    rows = Dataset.from_dict({"text": ["a", "b"], "user_id": ["u", "v"], "rude": ["0", "?"]})
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **named: rows)
    found = load(source_class("table")(path="hf://someone/moods:test", labels=["rude"]), "skip")
    assert found.refused_files == (tmp_path / "home" / "refused" / "moods:test.refused.csv",)


def test_several_files_lists_patterns_and_folders(tmp_path):
    for name, user in (("part-1.csv", "u"), ("part-2.csv", "v"), ("part-10.csv", "w")):
        (tmp_path / name).write_text(f"text,user_id,rude\na {user},{user},1\nb {user},{user},x\n")
    (tmp_path / "part-1.csv.refused.csv").write_text("text,reason\na,b\n")  # of an earlier run
    paths = [tmp_path / "part-1.csv", tmp_path / "part-2.csv"]
    assert f'{paths[0]}, row 2, column "rude"' in refusal(paths)
    for where in (paths, str(tmp_path / "part-[12].csv")):
        found = load(source_class("table")(path=where, labels=["rude"]), "skip")
        assert list(found.annotations.user_ids) == ["u", "v"] and found.refused == 2
    assert len(read_rows(tmp_path / "part-*.csv")) == 6 and len(read_rows(tmp_path)) == 6
    assert "no file fits this pattern" in refusal(tmp_path / "none-*.csv")
    (tmp_path / "part-3.tsv").write_text("text\tuser_id\trude\na\tu\t1\n")
    message = refusal(tmp_path / "part-*")
    assert "files of two formats (part-1.csv, part-3.tsv)" in message and "part-3.tsv" in message
    assert "files of two formats" in refusal(tmp_path)
    people = tmp_path / "people.csv"
    people.write_text("user_id,age\nu,3\n")
    assert f"{paths[0]} and {people} have different columns" in refusal([paths[0], people])
    assert "named twice" in refusal([paths[0], paths[0]])


rows = st.lists(
    st.tuples(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=9).filter(
            str.strip
        ),
        st.sampled_from(["007", " x", "NA", "1.0", "u"]),
        st.integers(0, 1),
    ),
    min_size=2,
    max_size=9,
    unique_by=lambda row: (text_key(row[0]), row[1]),
)


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.parquet", "t.jsonl.gz"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows, cut=st.integers(1, 8))
def test_a_table_in_parts_is_the_table(tmp_path_factory, name, rows, cut):
    folder = tmp_path_factory.mktemp("parts")
    cut = min(cut, len(rows) - 1)
    paths = []
    for part in (rows[:cut], rows[cut:]):
        path = folder / f"{len(paths)}-{name}"
        plain = written(folder, path.name.removesuffix(".gz"), [ROWS[0], *map(list, part)])
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(plain.read_bytes()))
            plain.unlink()
        paths.append(path)
    for where in (paths, str(folder / f"*{name}")):
        annotations = loaded(where).annotations
        found = zip(annotations.texts, annotations.user_ids, annotations.labels[:, 0].tolist(), strict=True)
        assert list(found) == [(text, user, float(label)) for text, user, label in rows]


def test_a_file_whose_name_is_like_a_pattern_is_that_file(tmp_path):
    path = written(tmp_path, "t[1].csv")
    assert len(loaded(path).annotations) == 3


def test_parts_of_other_types_are_named(tmp_path):
    pd.DataFrame({"text": ["a"], "user_id": ["u"], "rude": [1]}).to_parquet(tmp_path / "a.parquet")
    pd.DataFrame({"text": ["b"], "user_id": ["u"], "rude": [[1]]}).to_parquet(tmp_path / "b.parquet")
    message = refusal([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert "a.parquet and" in message and 'column "rude": int64 in one and' in message


def test_a_data_set_of_the_hub_is_read_by_datasets(monkeypatch):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "user_id": Value("int64"), "mood": ClassLabel(names=["sad", "glad"])})
    rows = Dataset.from_dict({"text": ["a", "b"], "user_id": [1, 2], "mood": [1, 0]}, features=features)
    called = []

    def load_dataset(name, part, split):
        called.append((name, part, split))
        return rows if split else DatasetDict({"train": rows, "test": rows})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    named = {"labels": [], "kind": "multiclass", "label_column": "mood"}
    annotations = loaded("hf://someone/moods/en:test", **named).annotations
    assert annotations.task.labels == ("glad", "sad") and list(annotations.user_ids) == ["1", "2"]
    assert called == [("someone/moods", "en", "test")]
    assert "holds several splits (train, test). Name one" in refusal("hf://someone/moods", **named)
    assert "expected hf://OWNER/NAME" in refusal("hf://moods:", **named)

    def offline(*args, **named):
        raise ConnectionError("Couldn't reach 'someone/moods' on the Hub\nmore")

    monkeypatch.setattr("datasets.load_dataset", offline)
    message = refusal("hf://someone/moods", **named)
    assert "cannot be loaded from the hub (ConnectionError: Couldn't reach" in message and "more" not in message


def test_settings_are_written_and_read_back(tmp_path):
    for path in (tmp_path / "a.csv", "hf://a/b:test", [tmp_path / "a.csv", tmp_path / "b.csv"]):
        config = source_class("table")(path=path, labels=["rude"])
        assert type(config).model_validate_json(config.model_dump_json()) == config
    assert "format" not in config.model_dump() and "header" not in config.model_dump()


@pytest.mark.parametrize(
    ("contents", "name"),
    [
        (CSV.encode(), "t.csv"),
        (CSV.replace(",", "\t").encode(), "t.tsv"),
        ("\n".join(map(json.dumps, RECORDS)).encode(), "t.jsonl"),
        (json.dumps(RECORDS).encode(), "t.json"),
    ],
)
def test_standard_input_is_kept_in_a_file_of_its_format(tmp_path, contents, name):
    file = spooled(io.BytesIO(contents), tmp_path)
    assert file.suffix == (tmp_path / name).suffix and file.name.startswith("stdin-")
    assert len(loaded(file).annotations) == 3 and list(tmp_path.iterdir()) == [file]
    assert spooled(io.BytesIO(contents), tmp_path) == file


def test_standard_input_of_workbooks_and_nothing(tmp_path):
    for made in (xlsx(tmp_path / "t.xlsx", {"One": ROWS}), ods(tmp_path / "t.ods", {"One": ROWS})):
        assert spooled(io.BytesIO(made.read_bytes()), tmp_path).suffix == made.suffix
    with pytest.raises(DataError, match="standard input is empty"):
        spooled(io.BytesIO(b" \n"), tmp_path)

"""Exports of doccano."""

from __future__ import annotations

import json
import zipfile

from exports import PEOPLE, TEXTS, lines, pairs, refusal, rude, way


def members(labels):
    """Person -> rows: all texts, those they did not annotate with an empty list."""
    return {
        name: [
            {"id": text + 1, "text": words, "Comments": [],
             "label": labels(text, person) if (text, person) in pairs() else []}
            for text, words in enumerate(TEXTS)
        ]
        for person, name in enumerate(PEOPLE)
    }  # fmt: skip


def archive(folder, rows):
    with zipfile.ZipFile(folder / "export.zip", "w") as packed:
        for name, each in rows.items():
            packed.writestr(f"{name}.jsonl", "\n".join(map(json.dumps, each)) + "\n")
    return folder / "export.zip"


def mood(text, person):
    return [["glad", "sad", "mad"][(text + person) % 3]]


def test_the_file_of_each_member_names_the_user(tmp_path):
    found = way(tmp_path, archive(tmp_path, members(mood)))
    assert found.source["format"] == "doccano" and set(found.annotations.users) == set(PEOPLE)
    assert found.source["label_column"] == "label" and len(found.annotations) == len(pairs())
    assert found.labels_of(TEXTS[1], "ann") == {"glad": 0, "mad": 0, "sad": 1}
    missing = len(TEXTS) * len(PEOPLE) - len(pairs())
    assert any(note.startswith(f"{missing} rows without a label left out") for note in found.made.notes)


def test_files_side_by_side_and_names_with_dots(tmp_path):
    for name, rows in members(mood).items():
        lines(tmp_path / "export" / f"{name}.of.lab.jsonl", rows)
    found = way(tmp_path, str(tmp_path / "export" / "*.jsonl"))
    assert set(found.annotations.users) == {f"{name}.of.lab" for name in PEOPLE}
    (tmp_path / "experiment.yaml").unlink()
    assert len(way(tmp_path, tmp_path / "export").annotations) == len(pairs())


def test_several_labels(tmp_path):
    found = way(tmp_path, archive(tmp_path, members(lambda text, person: ["late", "rude"][: 1 + rude(text, person)])))
    assert found.source["labels"] == {"late": {}, "rude": {}}
    assert found.labels_of(TEXTS[1], "ann") == {"late": 1, "rude": rude(1, 0)}


def test_rows_that_name_the_annotator(tmp_path):
    rows = [
        {"id": text, "text": TEXTS[text], "label": mood(text, person), "annotator": PEOPLE[person]}
        for text, person in pairs()
    ]
    assert set(way(tmp_path, lines(tmp_path / "r.jsonl", rows)).annotations.users) == set(PEOPLE)


def test_version_one_has_numbers(tmp_path):
    rows = [
        {"id": text, "text": words, "annotations": [{"label": 1 + rude(text, person), "user": person + 1}
                                                    for each, person in pairs() if each == text], "meta": {}}
        for text, words in enumerate(TEXTS)
    ]  # fmt: skip
    found = way(tmp_path, lines(tmp_path / "r.jsonl", rows))
    assert set(found.annotations.users) == {"1", "2", "3", "4"} and found.annotations.task.labels == ("1", "2")


def test_shared_annotations_have_no_annotators(tmp_path):
    message = refusal(lines(tmp_path / "all.jsonl", members(mood)["ann"]))
    assert "no annotators in it" in message and 'with "Share annotations across all users" switched off' in message


def test_spans_are_refused(tmp_path):
    message = refusal(archive(tmp_path, members(lambda text, person: [[0, 3, "X"]])))
    assert "labels of spans" in message and "export.zip/ann.jsonl, row 2" in message

"""One export of every tool: user, text, labels and counts are right, and no other tool's importer takes it for its."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from exports import PEOPLE, TEXTS, lines, pairs, rude, table, way

import beholder as bh
from beholder.datasets.importers import FORMATS, open_export, recognise
from beholder.datasets.io import read_rows
from beholder.util.errors import DataError

WORDS = ("no", "yes")


def label_studio(folder: Path) -> Path:
    tasks = [
        {"id": text, "data": {"text": words}, "annotations": [
            {"id": 10 * text + person, "completed_by": {"id": PEOPLE[person]}, "was_cancelled": False,
             "result": [{"from_name": "rude", "type": "choices", "value": {"choices": [WORDS[rude(text, person)]]}}]}
            for each, person in pairs() if each == text
        ]}
        for text, words in enumerate(TEXTS)
    ]  # fmt: skip
    (folder / "export.json").write_text(json.dumps(tasks))
    return folder / "export.json"


def argilla(folder: Path) -> Path:
    records = [
        {"id": str(text), "fields": {"text": words}, "responses": {"rude": [
            {"value": WORDS[rude(text, person)], "user_id": PEOPLE[person]} for each, person in pairs() if each == text
        ]}}
        for text, words in enumerate(TEXTS)
    ]  # fmt: skip
    (folder / "records.json").write_text(json.dumps(records))
    return folder / "records.json"


def doccano(folder: Path) -> str:
    for person, name in enumerate(PEOPLE):
        rows = [
            {"id": text, "text": TEXTS[text], "label": [WORDS[rude(text, each)]], "Comments": []}
            for text, each in pairs()
            if each == person
        ]
        lines(folder / f"{name}.jsonl", rows)
    return str(folder / "*.jsonl")


def prodigy(folder: Path) -> Path:
    rows = [
        {"text": TEXTS[text], "label": "rude", "answer": ("reject", "accept")[rude(text, person)],
         "_annotator_id": PEOPLE[person], "_input_hash": text}
        for text, person in pairs()
    ]  # fmt: skip
    return lines(folder / "tone.jsonl", rows)


def potato(folder: Path) -> Path:
    rows = [
        {"user_id": PEOPLE[person], "instance_id": str(text), "displayed_text": TEXTS[text],
         "label_annotations": {"rude": {WORDS[rude(text, person)]: "1"}}, "span_annotations": []}
        for text, person in pairs()
    ]  # fmt: skip
    return lines(folder / "annotated_instances.jsonl", rows)


def mturk(folder: Path) -> Path:
    rows = [
        {"HITId": f"3H{text}", "AssignmentId": f"3A{text}{person}", "WorkerId": PEOPLE[person],
         "AssignmentStatus": "Submitted", "Input.text": TEXTS[text], "Answer.rude": WORDS[rude(text, person)]}
        for text, person in pairs()
    ]  # fmt: skip
    return table(folder / "batch.csv", rows)


def appen(folder: Path) -> Path:
    rows = [
        {"_unit_id": text, "_golden": "false", "_id": 10 * text + person, "_trust": 1, "_worker_id": PEOPLE[person],
         "rude": WORDS[rude(text, person)], "rude_gold": "", "text": TEXTS[text]}
        for text, person in pairs()
    ]  # fmt: skip
    return table(folder / "full.csv", rows)


def toloka(folder: Path) -> Path:
    rows = [
        {"INPUT:text": TEXTS[text], "OUTPUT:rude": WORDS[rude(text, person)], "GOLDEN:rude": "",
         "ASSIGNMENT:worker_id": PEOPLE[person], "ASSIGNMENT:status": "APPROVED"}
        for text, person in pairs()
    ]  # fmt: skip
    return table(folder / "assignments.tsv", rows)


def survey(named: bool) -> list[list[str]]:
    """Everybody's answer to every question; those outside `pairs` are not given."""
    given = set(pairs())
    return [
        [
            name if named else "",
            *(WORDS[rude(text, person)] if (text, person) in given else "" for text in range(len(TEXTS))),
        ]
        for person, name in enumerate(PEOPLE)
    ]


def qualtrics(folder: Path) -> Path:
    names = ["ResponseId", "Finished", "PROLIFIC_PID", *(f"Q1_{text}" for text in range(len(TEXTS)))]
    wording = ["Response ID", "Finished", "PROLIFIC_PID", *(f"rude - {text}" for text in TEXTS)]
    rows = [[f"R_{place}", "True", *row] for place, row in enumerate(survey(True))]
    with (folder / "survey.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([names, wording, [json.dumps({"ImportId": name}) for name in names], *rows])
    return folder / "survey.csv"


def google_forms(folder: Path) -> Path:
    names = ["Timestamp", "Email Address", *(f"rude [{text}]" for text in TEXTS)]
    rows = [[f"2024/03/0{1 + place}", *row] for place, row in enumerate(survey(True))]
    with (folder / "form.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([names, *rows])
    return folder / "form.csv"


EXPORTS: dict[str, Callable[[Path], Path | str]] = {
    "label-studio": label_studio, "argilla": argilla, "doccano": doccano, "prodigy": prodigy, "potato": potato,
    "mturk": mturk, "appen": appen, "toloka": toloka, "qualtrics": qualtrics, "google-forms": google_forms,
}  # fmt: skip


def rudeness(annotations) -> dict[tuple[str, str], float]:
    """(text, user) -> whether it is rude, whatever the label is called."""
    labels = annotations.task.labels
    place = next(n for n, name in enumerate(labels) if name == "yes" or "rude" in name or len(labels) == 1)
    rows = zip(annotations.texts, annotations.user_ids, annotations.labels[:, place].tolist(), strict=True)
    return {(text, user): value for text, user, value in rows}


def test_every_importer_is_tried():
    assert {*EXPORTS, "prolific"} == set(FORMATS)  # which only refuses
    assert all(importer.tool for importer in FORMATS.values())


@pytest.mark.parametrize("name", EXPORTS)
def test_user_text_labels_and_counts(tmp_path, name):
    where = EXPORTS[name](tmp_path)
    found = way(tmp_path, where)
    assert found.source["format"] == name and found.made.bad_rows == 0
    expected = {(TEXTS[text], PEOPLE[person]): float(rude(text, person)) for text, person in pairs()}
    assert len(found.annotations) == len(expected)
    assert rudeness(found.annotations) == expected


@pytest.mark.parametrize("name", EXPORTS)
def test_in_python_the_format_is_enough(tmp_path, home, name):
    where = EXPORTS[name](tmp_path)
    expected = {(TEXTS[text], PEOPLE[person]): float(rude(text, person)) for text, person in pairs()}
    assert rudeness(bh.load_dataset(where, format=name)) == expected
    assert rudeness(bh.load_dataset("table", path=where, format="auto")) == expected


@pytest.mark.parametrize("name", EXPORTS)
def test_one_tool_is_recognised_by_far(tmp_path, name):
    rows = read_rows(EXPORTS[name](tmp_path))
    sureness = {each: importer.recognise(rows) for each, importer in FORMATS.items()}
    assert sureness.pop(name) >= 0.8 and max(sureness.values()) < 0.6
    assert recognise(rows) == name


@pytest.mark.parametrize("name", [*EXPORTS, "prolific"])
def test_a_plain_table_is_no_export_and_is_refused_as_one(tmp_path, name):
    path = table(
        tmp_path / "t.csv",
        [{"text": TEXTS[text], "annotator": PEOPLE[person], "rude": rude(text, person)} for text, person in pairs()],
    )
    assert open_export(path).format == "table"
    if name not in ("google-forms", "appen"):
        with pytest.raises(DataError) as error:
            open_export(path, name)
        assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_two_tools_that_look_alike_have_to_be_chosen_from(tmp_path, monkeypatch):
    path = prodigy(tmp_path)
    monkeypatch.setattr("beholder.datasets.importers.potato.recognise", lambda export: 0.9)
    with pytest.raises(DataError, match=r"of Prodigy and of Potato. Choose: --format prodigy or --format potato"):
        open_export(path)
    assert open_export(path, "prodigy").format == "prodigy" and open_export(path, "table").imported is None


def test_settings_that_are_given_win_over_those_of_the_format(tmp_path, home):
    words = {"values": {"no": 1, "yes": 0}}
    polite = bh.load_dataset(mturk(tmp_path), format="mturk", labels={"polite": {"column": "Answer.rude", **words}})
    assert polite.task.labels == ("polite",) and len(polite) == len(pairs())
    classes = bh.load_dataset(mturk(tmp_path), format="mturk", labels="Answer.rude")
    assert classes.task.kind == "multiclass" and classes.task.labels == ("no", "yes")
    impolite = bh.load_dataset(prodigy(tmp_path), format="prodigy", labels={"impolite": {"column": "rude"}})
    assert rudeness(impolite) == {(TEXTS[text], PEOPLE[person]): float(rude(text, person)) for text, person in pairs()}


def test_an_unknown_format_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"unknown format 'prodgy'. Did you mean 'prodigy'"):
        open_export(prodigy(tmp_path), "prodgy")


def test_columns_that_are_named_win(tmp_path):
    path = label_studio(tmp_path)
    assert way(tmp_path, path, labels=("rude",)).source["labels"] == {"rude": {"values": {"no": 0, "yes": 1}}}
    with pytest.raises(DataError, match=r"no label 'funny' for --labels. It has: rude"):
        way(tmp_path, path, labels=("funny",))

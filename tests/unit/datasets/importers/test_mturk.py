"""Batches of Amazon Mechanical Turk."""

from __future__ import annotations

import json

import pytest
from exports import PEOPLE, TEXTS, pairs, refusal, rude, stars, table, way

from beholder.datasets import load, source_class
from beholder.datasets.importers import open_export
from beholder.util.errors import DataError

WORKERS = [f"A{person}QK7NLP" for person in range(len(PEOPLE))]


def assignment(text, person, number=0, **more):
    return {
        "HITId": f"3{text:02d}HIT", "HITTypeId": "3TYPE", "Title": "Judge texts", "Reward": "$0.05",
        "CreationTime": "Mon Mar 04 01:00:00 PST 2024",
        "AssignmentId": f"3ASG{text}x{person}", "WorkerId": WORKERS[person],
        "AssignmentStatus": "Approved", "AcceptTime": f"Mon Mar 04 01:{text:02d}:{person:02d} PST 2024",
        "WorkTimeInSeconds": str(20 + text), "LifetimeApprovalRate": "100% (3/3)", **more, "Approve": "", "Reject": "",
    }  # fmt: skip


def batch(answers):
    return [
        assignment(text, person, **{"Input.text": TEXTS[text], **answers(text, person)}) for text, person in pairs()
    ]


def test_inputs_answers_and_workers(tmp_path):
    found = way(
        tmp_path, table(tmp_path / "batch.csv", batch(lambda text, person: {"Answer.rude": rude(text, person)}))
    )
    assert found.source["format"] == "mturk" and found.source["text"] == "Input.text"
    assert found.source["user"] == "WorkerId" and set(found.annotations.users) == set(WORKERS)
    assert found.source["labels"] == {"Answer.rude": {}} and len(found.annotations) == len(pairs())
    assert found.labels_of(TEXTS[1], WORKERS[0]) == {"Answer.rude": rude(1, 0)}
    assert set(found.made.left_out.values()) == {"of the platform"}


def test_a_rejected_assignment_is_left_out_and_stated(tmp_path):
    rows = batch(lambda text, person: {"Answer.rude": rude(text, person)})
    rows[3]["AssignmentStatus"] = "Rejected"
    found = way(tmp_path, table(tmp_path / "batch.csv", rows))
    assert len(found.annotations) == len(pairs()) - 1
    assert "1 row left out: the requester rejected the work (AssignmentStatus)" in found.made.notes


def test_crowd_elements_store_choices_as_labels_flags_or_json(tmp_path):
    moods = ("glad", "sad", "mad")

    def mood(text, person):
        return moods[(text + person) % 3]

    forms = {
        "label": lambda text, person: {"Answer.mood.label": mood(text, person)},
        "flags": lambda text, person: {
            f"Answer.mood.{each}": str(each == mood(text, person)).lower() for each in moods
        },
        "json": lambda text, person: {"Answer.taskAnswers": json.dumps([{"mood": {"label": mood(text, person)}}])},
        "json flags": lambda text, person: {
            "Answer.taskAnswers": json.dumps([{"mood": {each: each == mood(text, person) for each in moods}}])
        },
    }
    for name, form in forms.items():
        found = way(tmp_path, table(tmp_path / "batch.csv", batch(form)))
        assert found.annotations.task.kind == "multiclass", name
        assert {label.rpartition(".")[2] for label in found.annotations.task.labels} == set(moods), name
        assert sum(found.labels_of(TEXTS[1], WORKERS[0]).values()) == 1
        (tmp_path / "experiment.yaml").unlink()


def test_check_boxes_are_labels(tmp_path):
    def boxes(text, person):
        return {
            "Answer.rude.on": "true" if rude(text, person) else "false",
            "Answer.late.on": str(bool(text % 2)).lower(),
        }

    found = way(tmp_path, table(tmp_path / "batch.csv", batch(boxes)))
    assert found.labels_of(TEXTS[1], WORKERS[0]) == {"Answer.rude.on": rude(1, 0), "Answer.late.on": 1}


def test_several_texts_of_a_row_are_judgements_by_their_number(tmp_path):
    rows = []
    for person in range(len(PEOPLE)):
        for start in range(0, len(TEXTS), 3):
            given = {f"Input.text{n + 1}": TEXTS[start + n] for n in range(3)}
            given |= {f"Answer.q{n + 1}": rude(start + n, person) for n in range(3)}
            rows.append(assignment(start, person, **given))
    rows[0]["Answer.q2"] = ""
    path = table(tmp_path / "batch.csv", rows)
    imported = open_export(path).imported
    assert imported.table.num_rows == len(TEXTS) * len(PEOPLE) - 1 and imported.stands.tolist()[:4] == [0, 0, 1, 1]
    found = way(tmp_path, path)
    assert found.source["text"] == "Input.text" and list(found.source["labels"]) == ["Answer.q"]
    assert found.labels_of(TEXTS[4], WORKERS[2]) == {"Answer.q": rude(4, 2)}
    assert any("3 texts in a row" in note for note in found.made.notes)


def test_several_texts_without_an_answer_to_each_are_refused(tmp_path):
    given = {"Input.first1": "a b c", "Input.first2": "d e f"}
    rows = [assignment(0, person, **given, **{"Answer.better": str(1 + person % 2)}) for person in range(4)]
    message = refusal(table(tmp_path / "batch.csv", rows))
    assert "2 texts a row (Input.first1, Input.first2), and not an answer to each" in message


def test_several_questions_of_one_text_are_not_several_texts(tmp_path):
    rows = batch(lambda text, person: {"Answer.q1": stars(text, person), "Answer.q2": rude(text, person)})
    imported = open_export(table(tmp_path / "batch.csv", rows)).imported
    assert imported.questions == ("Answer.q1", "Answer.q2") and imported.table.num_rows == len(pairs())


def test_a_bad_row_is_named_by_its_row_in_the_export(tmp_path):
    rows = batch(lambda text, person: {"Answer.rude": rude(text, person)})
    rows[1]["AssignmentStatus"], rows[6]["Input.text"] = "Rejected", " "
    path = table(tmp_path / "batch.csv", rows)
    with pytest.raises(DataError, match=r'batch.csv, row 7, column "Input.text": missing value'):
        load(source_class("table")(path=path, format="mturk"))
    found = load(source_class("table")(path=path, format="mturk"), "skip")
    assert found.refused == 1 and "row 7" in found.refused_files[0].read_text()
    assert len(found.annotations) == len(pairs()) - 2


def test_remarks_consent_and_times_are_no_labels(tmp_path):
    def answers(text, person):
        remarks = {"Answer.remarks": f"remark {text} of {person}" if text % 2 else ""}
        times = {"Answer.elapsed": 20_000 + 31 * text + person, "Answer.consent": "on"}
        return {"Answer.rude": rude(text, person), **remarks, **times}

    found = way(tmp_path, table(tmp_path / "batch.csv", batch(answers)))
    assert list(found.source["labels"]) == ["Answer.rude"] and found.made.left_out["Answer.remarks"] == "free text"
    assert found.made.left_out["Answer.consent"] == "the same in every row"
    assert found.made.left_out["Answer.elapsed"].startswith("numbers beyond 1000")
    rows = batch(lambda text, person: {"Answer.remarks": f"remark {text} of {person}"})
    assert "no column with answers that judge a text in it; Answer.remarks: free text" in refusal(
        table(tmp_path / "remarks.csv", rows)
    )


def test_results_without_workers(tmp_path):
    rows = [
        {key: value for key, value in row.items() if key != "WorkerId"}
        for row in batch(lambda t, p: {"Answer.rude": 1})
    ]
    assert "no column WorkerId in it" in refusal(table(tmp_path / "batch.csv", rows))

"""Records of Argilla, of both versions."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset
from exports import PEOPLE, TEXTS, lines, pairs, refusal, rude, stars, way

USERS = [f"{person}0d1c6e5-4b9a-4f39-8a53-5f0c1e7d9b2a" for person in range(len(PEOPLE))]


def by_text(value):
    """Text -> (user, value) of everybody who judged it."""
    return {
        text: [(USERS[person], value(text, person)) for each, person in pairs() if each == text]
        for text in range(len(TEXTS))
    }


def nested(questions):
    """What `records.to_json` writes."""
    return [
        {"id": str(text), "fields": {"text": TEXTS[text]}, "metadata": {"topic": "daily"},
         "suggestions": {}, "vectors": {},
         "responses": {name: [{"value": each, "user_id": user} for user, each in by_text(value)[text]]
                       for name, value in questions.items()},
         "status": "completed", "_server_id": f"s{text}"}
        for text in range(len(TEXTS))
    ]  # fmt: skip


def flat(questions):
    """What `records.to_datasets()` and `to_list(flatten=True)` give."""
    rows = []
    for text in range(len(TEXTS)):
        row = {"id": str(text), "status": "completed", "_server_id": f"s{text}", "text": TEXTS[text]}
        for name, value in questions.items():
            row[f"{name}.responses"] = [each for _, each in by_text(value)[text]]
            row[f"{name}.responses.users"] = [user for user, _ in by_text(value)[text]]
            row[f"{name}.responses.status"] = ["submitted"] * len(by_text(value)[text])
            row[f"{name}.suggestion"] = None
        rows.append(row)
    return rows


def first_version(questions):
    """What `FeedbackDataset.format_as("datasets")` gives."""
    return [
        {"text": TEXTS[text], "metadata": "{}", "external_id": None,
         **{name: [{"user_id": user, "value": each, "status": "submitted"} for user, each in by_text(value)[text]]
            for name, value in questions.items()},
         **{f"{name}-suggestion": None for name in questions}}
        for text in range(len(TEXTS))
    ]  # fmt: skip


def own_json(questions):
    """The records of version 1 as its API gives them."""
    return [
        {"fields": {"text": TEXTS[text]}, "external_id": None,
         "responses": [{"user_id": USERS[person], "status": "submitted",
                        "values": {name: {"value": value(text, person)} for name, value in questions.items()}}
                       for each, person in pairs() if each == text]}
        for text in range(len(TEXTS))
    ]  # fmt: skip


FORMS = {"nested": nested, "flat": flat, "first version": first_version, "own json": own_json}


def saved(folder, records):
    (folder / "records.json").write_text(json.dumps(records))
    return folder / "records.json"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_labels_and_several_labels_of_every_form(tmp_path, form):
    questions = {
        "tone": lambda text, person: ["polite", "rude"][rude(text, person)],
        "topics": lambda text, person: ["time", "animal"][: 1 + text % 2],
    }
    found = way(tmp_path, saved(tmp_path, form(questions)))
    assert found.source["format"] == "argilla" and set(found.annotations.users) == set(USERS)
    labels = {"tone: polite": 1 - rude(1, 0), "tone: rude": rude(1, 0), "topics: animal": 1, "topics: time": 1}
    assert found.labels_of(TEXTS[1], USERS[0]) == labels and len(found.annotations) == len(pairs())


def test_one_label_question_is_a_class_also_from_a_saved_data_set(tmp_path):
    def mood(text, person):
        return ["glad", "sad", "mad"][(text + person) % 3]

    Dataset.from_list(flat({"mood": mood})).save_to_disk(tmp_path / "saved")
    Dataset.from_list(first_version({"mood": mood})).to_parquet(tmp_path / "hub.parquet")
    for path in (tmp_path / "saved", tmp_path / "hub.parquet", lines(tmp_path / "r.jsonl", flat({"mood": mood}))):
        found = way(tmp_path, path)
        assert found.source["label_column"] == "mood" and found.annotations.task.labels == ("glad", "mad", "sad")
        (tmp_path / "experiment.yaml").unlink()


def test_a_rating_is_a_scale(tmp_path):
    found = way(tmp_path, saved(tmp_path, nested({"quality": stars})))
    assert found.source["labels"] == {"quality": {"kind": "ordinal", "range": [1, 5]}}


def test_yes_and_no_beside_other_questions_is_one_label(tmp_path):
    def late(text, person):
        return ["No", "Yes"][text % 2]

    questions = {"rude": lambda text, person: ["no", "yes"][rude(text, person)], "late": late, "quality": stars}
    found = way(tmp_path, saved(tmp_path, nested(questions)))
    values = {"rude": {"values": {"no": 0, "yes": 1}}, "late": {"values": {"No": 0, "Yes": 1}}}
    assert found.source["labels"] == {**values, "quality": {"kind": "ordinal", "range": [1, 5]}}


def test_drafts_and_discarded_responses_are_counted(tmp_path):
    records = flat({"rude": lambda text, person: ["no", "yes"][rude(text, person)]})
    records[1]["rude.responses.status"][0] = "discarded"
    records[2]["rude.responses.status"][0] = "draft"
    found = way(tmp_path, saved(tmp_path, records))
    assert len(found.annotations) == len(pairs()) - 2
    assert {"1 response with status discarded left out", "1 response with status draft left out"} <= set(
        found.made.notes
    )


def test_free_text_and_spans_are_left_out_and_rankings_refused(tmp_path):
    def spans(text, person):
        return [{"start": 0, "end": 3, "label": "X"}]

    questions = {
        "why": lambda text, person: f"because of {text} and {person}",
        "where": spans,
        "rude": lambda text, person: ["no", "yes"][rude(text, person)],
    }
    found = way(tmp_path, saved(tmp_path, nested(questions)))
    assert found.made.left_out == {"why": "free text", "where": "spans: about parts of a text, not the whole"}
    assert "no question judges a text" in refusal(saved(tmp_path, nested({"where": spans})))
    ranking = nested({"best": lambda text, person: [{"rank": 1, "value": "a"}, {"rank": 2, "value": "b"}]})
    assert 'question "best" is a ranking of several texts' in refusal(saved(tmp_path, ranking))


def test_no_users_no_responses_and_no_single_text(tmp_path):
    records = nested({"rude": lambda text, person: ["no", "yes"][rude(text, person)]})
    nobody = [
        {**each, "responses": {"rude": [{"value": one["value"]} for one in each["responses"]["rude"]]}}
        for each in records
    ]
    assert "no response has a user_id" in refusal(saved(tmp_path, nobody))
    assert "no record has a submitted response" in refusal(
        saved(tmp_path, [{**each, "responses": {}} for each in records])
    )
    two = [{**each, "fields": {"left": "a b", "right": "c d"}} for each in records]
    assert "several fields may be the text (left, right)" in refusal(saved(tmp_path, two))


def test_text_classification_of_the_first_version(tmp_path):
    rows = [
        {"text": TEXTS[text], "annotation": ["polite", "rude", "odd"][(text + person) % 3], "id": f"{text}-{person}",
         "annotation_agent": PEOPLE[person], "prediction": None, "status": "Validated", "metadata": {}}
        for text, person in pairs()
    ]  # fmt: skip
    found = way(tmp_path, lines(tmp_path / "r.jsonl", rows))
    assert set(found.annotations.users) == set(PEOPLE) and found.source["label_column"] == "annotation"

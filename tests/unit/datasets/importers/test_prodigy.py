"""Data sets of Prodigy, as `db-out` writes them."""

from __future__ import annotations

from exports import PEOPLE, TEXTS, lines, pairs, refusal, rude, way


def example(text, person, **more):
    return {
        "text": TEXTS[text], "_input_hash": text * 7919, "_task_hash": text * 104729,
        "_timestamp": 1_700_000_000 + text, "_view_id": "classification",
        "_annotator_id": f"tone-{PEOPLE[person]}", "_session_id": f"tone-{PEOPLE[person]}", **more,
    }  # fmt: skip


def binary(label="RUDE", given=rude):
    return [
        example(text, person, label=label, answer=["reject", "accept"][given(text, person)]) for text, person in pairs()
    ]


def choice(chosen, style="single", **more):
    options = [{"id": each, "text": each} for each in ("glad", "sad", "mad")]
    return [
        example(text, person, options=options, accept=chosen(text, person), answer="accept",
                config={"choice_style": style}, **more)
        for text, person in pairs()
    ]  # fmt: skip


def test_accept_is_yes_reject_is_no_and_ignore_is_not_asked(tmp_path):
    rows = binary()
    rows[4]["answer"] = "ignore"
    found = way(tmp_path, lines(tmp_path / "tone.jsonl", rows))
    assert found.source["format"] == "prodigy" and found.source["labels"] == {"RUDE": {}}
    assert len(found.annotations) == len(pairs()) - 1 and found.made.notes == ("1 example with answer ignore left out",)
    assert found.labels_of(TEXTS[1], "tone-ann") == {"RUDE": rude(1, 0)}


def test_several_labels_of_a_text_are_one_judgement(tmp_path):
    rows = [*binary(), *binary("LATE", lambda text, person: text % 2)[:-1]]
    found = way(tmp_path, lines(tmp_path / "tone.jsonl", rows))
    assert found.source["labels"] == {"RUDE": {}, "LATE": {}} and found.source["allow_missing"] is True
    assert len(found.annotations) == len(pairs())
    assert found.labels_of(TEXTS[1], "tone-ann") == {"RUDE": rude(1, 0), "LATE": 1}


def test_one_choice_is_a_class_and_several_are_labels(tmp_path):
    one = choice(lambda text, person: [["glad", "sad", "mad"][(text + person) % 3]])
    found = way(tmp_path, lines(tmp_path / "one.jsonl", one))
    assert found.annotations.task.kind == "multiclass" and found.annotations.task.labels == ("glad", "mad", "sad")
    (tmp_path / "experiment.yaml").unlink()
    several = choice(lambda text, person: ["glad", "sad", "mad"][: (text + person) % 4], "multiple")
    found = way(tmp_path, lines(tmp_path / "several.jsonl", several))
    assert found.source["labels"] == {"glad": {}, "mad": {}, "sad": {}}
    assert found.labels_of(TEXTS[1], "tone-dan") == {"glad": 0, "mad": 0, "sad": 0}


def test_rejected_and_empty_choices_are_counted(tmp_path):
    rows = choice(lambda text, person: [["glad", "sad"][(text + person) % 2]])
    rows[0]["answer"], rows[1]["accept"] = "reject", []
    found = way(tmp_path, lines(tmp_path / "one.jsonl", rows))
    assert len(found.annotations) == len(pairs()) - 2
    assert set(found.made.notes) == {"1 example with answer reject left out", "1 judgement without an answer left out"}


def test_a_question_answered_twice_counts_twice(tmp_path):
    rows = [*binary(), binary()[3] | {"_timestamp": 1_800_000_000}, binary()[4]]
    rows[-2]["answer"] = "accept" if rows[3]["answer"] == "reject" else "reject"
    found = way(tmp_path, lines(tmp_path / "tone.jsonl", rows))
    assert found.source["repeats"] == "keep" and len(found.annotations) == len(pairs()) + 1
    assert "1 row left out: equal to an earlier row of the same file" in found.made.notes


def test_sessions_without_names(tmp_path):
    rows = [{**row, "_annotator_id": None, "_session_id": None} for row in binary()]
    assert "are empty. Give each annotator a session of their own: open /?session=NAME" in refusal(
        lines(tmp_path / "a.jsonl", rows)
    )
    rows = [
        {key: value for key, value in row.items() if key not in ("_annotator_id", "_session_id")} for row in binary()
    ]
    assert "no _annotator_id or _session_id" in refusal(lines(tmp_path / "b.jsonl", rows))
    rows = [
        {**row, "_annotator_id": None, "_session_id": f"2024-02-0{1 + place % 3}_10-17-19"}
        for place, row in enumerate(binary())
    ]
    found = way(tmp_path, lines(tmp_path / "c.jsonl", rows))
    assert any("3 sessions without a name, called after a time" in note for note in found.made.notes)


def test_spans_are_no_judgement_of_a_text(tmp_path):
    rows = [
        example(text, person, answer="accept", spans=[{"start": 0, "end": 3, "label": "X"}]) for text, person in pairs()
    ]
    assert "Spans and entities are not read" in refusal(lines(tmp_path / "spans.jsonl", rows))

"""Annotated instances of Potato."""

from __future__ import annotations

from exports import PEOPLE, TEXTS, lines, pairs, refusal, rude, stars, table, way


def instance(text, person, labels, **more):
    return {"instance_id": f"i{text}", "displayed_text": TEXTS[text], "label_annotations": labels,
            "span_annotations": [], "behavioral_data": {"time_string": "12 s"}, **more}  # fmt: skip


def test_json_lines_that_name_the_user(tmp_path):
    rows = [
        instance(
            text, person, {"tone": {"rude": "1"} if rude(text, person) else {"polite": "2"}}, user_id=PEOPLE[person]
        )
        for text, person in pairs()
    ]
    found = way(tmp_path, lines(tmp_path / "annotated_instances.jsonl", rows))
    assert found.source["format"] == "potato" and set(found.annotations.users) == set(PEOPLE)
    assert found.labels_of(TEXTS[1], "ann") == {"polite": 1 - rude(1, 0), "rude": rude(1, 0)}


def test_the_folder_names_the_user(tmp_path):
    for person, name in enumerate(PEOPLE):
        rows = [
            instance(
                text, person, {"tags": {"rude": "true", "late": "true"} if rude(text, person) else {"late": "true"}}
            )
            for text, each in pairs()
            if each == person
        ]
        lines(tmp_path / "annotation_output" / name / "annotated_instances.jsonl", rows)
    found = way(tmp_path, str(tmp_path / "annotation_output" / "*" / "annotated_instances.jsonl"))
    assert set(found.annotations.users) == set(PEOPLE) and found.source["labels"] == {"late": {}, "rude": {}}
    assert len(found.annotations) == len(pairs()) and found.made.name == "annotated_instances"


def test_tables_with_a_column_for_each_label(tmp_path):
    for name in ("annotated_instances.csv", "annotated_instances.tsv"):
        rows = [
            {"user": PEOPLE[person], "instance_id": f"i{text}", "displayed_text": TEXTS[text],
             "tone:::rude": "rude" if rude(text, person) else "",
             "tone:::polite": "" if rude(text, person) else "polite",
             "why:::text_box": "because" if text == 1 else "", "span_annotation:::X": "[]"}
            for text, person in pairs()
        ]  # fmt: skip
        found = way(tmp_path, table(tmp_path / name, rows))
        assert found.source["label_column"] == "tone" and found.made.left_out == {"why": "free text"}
        assert found.labels_of(TEXTS[1], "ann") == {"polite": 1 - rude(1, 0), "rude": rude(1, 0)}
        (tmp_path / "experiment.yaml").unlink()


def test_likert_scales_and_sliders(tmp_path):
    rows = [
        instance(text, person, {"q": {f"scale_{stars(text, person)}": str(stars(text, person))},
                                "s": {"slider": str(5 * text)}},
                 user=PEOPLE[person])
        for text, person in pairs()
    ]  # fmt: skip
    found = way(tmp_path, lines(tmp_path / "a.jsonl", rows))
    assert found.source["labels"] == {
        "q": {"kind": "ordinal", "range": [1, 5]},
        "s": {"kind": "continuous", "range": [0, 55]},
    }


def test_no_user_and_no_labels(tmp_path):
    rows = [instance(text, person, {"tone": {"rude": "1", "late": "1"}}) for text, person in pairs()]
    assert "no user in it" in refusal(lines(tmp_path / "some.jsonl", rows))
    rows = [instance(text, person, {}, user="ann") for text, person in pairs()]
    assert "no schema judges a whole text" in refusal(lines(tmp_path / "some.jsonl", rows))

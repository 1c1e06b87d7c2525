"""Exports of Label Studio."""

from __future__ import annotations

import json

import pytest
from exports import PEOPLE, TEXTS, pairs, refusal, rude, stars, table, way


def result(name, **value):
    kind = next(iter(value))
    return {"id": "x1", "from_name": name, "to_name": "text", "type": kind, "origin": "manual", "value": value}


def tasks(answers, by=lambda person: person + 1, key="text"):
    """A JSON export with the results that `answers(text, person)` gives."""
    found = []
    for text, words in enumerate(TEXTS):
        annotations = [
            {"id": 100 * text + person, "completed_by": by(person), "result": answers(text, person),
             "was_cancelled": False, "ground_truth": False, "lead_time": 4.2, "created_at": "2024-03-09T22:16:08Z"}
            for each, person in pairs() if each == text
        ]  # fmt: skip
        found.append(
            {"id": text, "data": {key: words, "source": f"s{text % 2}"}, "annotations": annotations, "predictions": [],
             "drafts": [], "created_at": "2024-03-09T21:52:49Z", "project": 83}
        )  # fmt: skip
    return found


def saved(folder, export, name="export.json"):
    (folder / name).write_text(json.dumps(export))
    return folder / name


def test_a_single_choice_is_a_class(tmp_path):
    moods = ("glad", "sad", "mad")
    export = tasks(lambda text, person: [result("mood", choices=[moods[(text + person) % 3]])])
    found = way(tmp_path, saved(tmp_path, export))
    assert found.source["format"] == "label-studio" and found.source["kind"] == "multiclass"
    assert set(found.annotations.users) == {"1", "2", "3", "4"} and len(found.annotations) == len(pairs())
    assert found.labels_of(TEXTS[1], "1") == {"glad": 0, "sad": 1, "mad": 0}
    assert found.source["context"] == ["source"] if "context" in found.source else True


def test_several_choices_are_labels_and_none_of_them_is_an_answer(tmp_path):
    def answers(text, person):
        chosen = [name for name, given in (("rude", rude(text, person)), ("funny", text % 2)) if given]
        return [result("tone", choices=chosen)] if chosen else []

    export = tasks(answers, by=lambda person: {"id": person + 7, "email": f"{PEOPLE[person]}@example.org"})
    found = way(tmp_path, saved(tmp_path, export))
    assert found.source["labels"] == {"funny": {}, "rude": {}} and "allow_missing" not in found.source
    assert set(found.annotations.users) == {"7", "8", "9", "10"}
    for text, person in pairs():
        assert found.labels_of(TEXTS[text], str(person + 7)) == {"rude": rude(text, person), "funny": text % 2}


def test_ratings_and_numbers_are_scales(tmp_path):
    def answers(text, person):
        return [result("quality", rating=stars(text, person)), result("sure", number=10.5 * person + text)]

    found = way(tmp_path, saved(tmp_path, tasks(answers)))
    assert found.source["labels"]["quality"] == {"kind": "ordinal", "range": [1, 5]}
    assert found.source["labels"]["sure"] == {"kind": "continuous", "range": [1, 42.5]}
    assert any('"quality": the export does not state the scale' in note for note in found.made.notes)


def test_a_taxonomy_is_labels_of_its_paths(tmp_path):
    def answers(text, person):
        chosen = [["Tone", "Rude"]] if rude(text, person) else [["Tone", "Kind"], ["Other"]]
        return [result("what", taxonomy=chosen)]

    found = way(tmp_path, saved(tmp_path, tasks(answers)))
    assert list(found.source["labels"]) == ["Other", "Tone / Kind", "Tone / Rude"]


def test_what_was_skipped_and_parts_of_texts_are_left_out_and_stated(tmp_path):
    def answers(text, person):
        span = {"from_name": "words", "type": "labels", "value": {"start": 0, "end": 3, "labels": ["X"]}}
        return [span, result("why", text=["because"]) | {"type": "textarea"}, result("mood", choices=["ab"[text % 2]])]

    export = tasks(answers)
    export[0]["annotations"][0]["was_cancelled"] = True
    found = way(tmp_path, saved(tmp_path, export))
    assert len(found.annotations) == len(pairs()) - 1
    assert "1 annotation skipped by the annotator (was_cancelled) left out" in found.made.notes
    assert found.made.left_out["words"] == "about parts of a text, not the whole"
    assert found.made.left_out["why"] == "free text"


def test_completions_of_early_versions(tmp_path):
    export = tasks(lambda text, person: [result("rude", choices=[["no", "yes"][rude(text, person)]])])
    for task in export:
        task["completions"] = task.pop("annotations")
    found = way(tmp_path, saved(tmp_path, export))
    assert found.source["labels"] == {"rude": {"values": {"no": 0, "yes": 1}}}
    assert found.labels_of(TEXTS[1], "1") == {"rude": rude(1, 0)}


def test_a_row_that_is_refused_is_named_by_its_task(tmp_path):
    export = tasks(lambda text, person: [result("mood", choices=["ab"[text % 2]])])
    export[3]["data"]["text"] = "half \ud83d"
    export[5]["data"]["text"] = " "
    path = saved(tmp_path, export)
    from beholder.datasets import load, source_class
    from beholder.util.errors import DataError

    config = source_class("table")(path=path, format="label-studio")
    with pytest.raises(DataError, match=r"export.json, row 4, column \"data\": half of a character"):
        load(config)
    left = load(config, "skip").annotations
    assert TEXTS[4] in list(left.texts) and " " not in list(left.texts) and len(set(left.texts)) == len(TEXTS) - 2


def test_a_text_that_does_not_show_has_to_be_named(tmp_path):
    export = tasks(lambda text, person: [result("mood", choices=["ab"[text % 2]])], key="left")
    path = saved(tmp_path, export)
    assert "does not state which column holds the text. Name it: --text COLUMN (source.text)" in refusal(path)
    assert way(tmp_path, path, text="left").labels_of(TEXTS[1], "1") == {"a": 0, "b": 1}


def test_exports_without_annotators_or_judgements(tmp_path):
    export = tasks(lambda text, person: [result("mood", choices=["ab"[text % 2]])], by=lambda person: None)
    assert "no annotation has completed_by" in refusal(saved(tmp_path, export))
    spans = tasks(lambda text, person: [result("words", start=0, end=3, labels=["X"])])
    assert "no judgement of whole texts in it (words: about parts" in refusal(saved(tmp_path, spans))
    empty = [task | {"annotations": []} for task in spans]
    assert "no task has an annotation" in refusal(saved(tmp_path, empty), "label-studio")


def flat():
    return [
        {"id": text, "text": TEXTS[text], "annotator": person + 1, "annotation_id": 100 * text + person,
         "created_at": "2024-03-09T22:16:08Z", "updated_at": "2024-03-09T22:16:08Z", "lead_time": 4.2,
         "rude": ["no", "yes"][rude(text, person)]}
        for text, person in pairs()
    ]  # fmt: skip


def test_json_min_and_csv(tmp_path):
    for path in (saved(tmp_path, flat(), "min.json"), table(tmp_path / "min.csv", flat())):
        found = way(tmp_path, path)
        assert found.source["format"] == "label-studio" and found.source["user"] == "annotator"
        assert found.source["text"] == "text" and found.source["labels"] == {"rude": {"values": {"no": 0, "yes": 1}}}
        assert found.labels_of(TEXTS[1], "1") == {"rude": rude(1, 0)} and len(found.annotations) == len(pairs())
        (tmp_path / "experiment.yaml").unlink()


def test_json_min_with_several_choices(tmp_path):
    rows = flat()
    for row, (text, person) in zip(rows, pairs(), strict=True):
        row.pop("rude")
        row["tone"] = {"choices": ["rude", "funny"]} if rude(text, person) else "funny" if text % 2 else "calm"
    cells = [row | {"tone": row["tone"] if isinstance(row["tone"], str) else json.dumps(row["tone"])} for row in rows]
    for path in (saved(tmp_path, rows, "min.json"), table(tmp_path / "min.csv", cells)):
        found = way(tmp_path, path)
        assert set(found.source["labels"]) == {"tone: calm", "tone: funny", "tone: rude"}
        text, person = next(each for each in pairs() if rude(*each))
        assert found.labels_of(TEXTS[text], str(person + 1)) == {"tone: calm": 0, "tone: funny": 1, "tone: rude": 1}
        (tmp_path / "experiment.yaml").unlink()


def test_json_min_without_annotators(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "annotator"} for row in flat()]
    assert 'no "annotator" in it, which names who judged. Export as JSON' in refusal(saved(tmp_path, rows))

"""Responses of Qualtrics, and the export of Prolific."""

from __future__ import annotations

import csv
import json

from exports import PEOPLE, TEXTS, refusal, stars, table, way

FIXED = ["StartDate", "EndDate", "Status", "IPAddress", "Progress", "Duration (in seconds)", "Finished", "RecordedDate",
         "ResponseId", "DistributionChannel", "UserLanguage"]  # fmt: skip
PIDS = [f"5f{person}e1d9c3b7a20001c8e4d2a" for person in range(len(PEOPLE))]
WORDS = ("never", "rarely", "sometimes", "often", "always")


def responses(
    folder, wording, answer=lambda text, person: WORDS[stars(text, person) - 1], embedded=True, name="survey.csv"
):
    """A survey in which everybody judges every text."""
    columns = [f"Q3_{text + 1}" for text in range(len(TEXTS))]
    names = [*FIXED, "Q1", "Q2", *columns, "Q9", *(["PROLIFIC_PID"] if embedded else [])]
    texts = [*FIXED, "How old are you?", "Which group?", *(wording(text) for text in TEXTS), "Any comments?"]
    texts += ["PROLIFIC_PID"] if embedded else []
    rows = [names, texts, [json.dumps({"ImportId": f"QID{place}"}) for place in range(len(names))]]
    for person, pid in enumerate(PIDS):
        fixed = ["2024-03-04 09:00:00", "2024-03-04 09:09:00", "IP Address", "203.0.113.7", "100", "540", "True",
                 "2024-03-04 09:09:01", f"R_{person}", "anonymous", "EN"]  # fmt: skip
        given = [answer(text, person) for text in range(len(TEXTS))]
        rows.append(
            [*fixed, str(31 + person), "ab"[person % 2], *given, f"comment of {person}", *([pid] if embedded else [])]
        )
    rows.append([*rows[-1]])
    rows[-1][2], rows[-1][9] = "Survey Preview", "preview"
    rows.append([*rows[3]])
    rows[-1][6] = "False"
    with (folder / name).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter="\t" if name.endswith(".tsv") else ",").writerows(rows)
    return folder / name


def test_statements_of_a_matrix_table_are_texts(tmp_path):
    for name in ("survey.csv", "survey.tsv"):
        path = responses(
            tmp_path,
            lambda text: f"How often would you like to hear this? - {text}",
            lambda t, p: stars(t, p) % 2,
            name=name,
        )
        found = way(tmp_path, path)
        assert found.source["format"] == "qualtrics" and set(found.annotations.users) == set(PIDS)
        assert set(found.annotations.texts) == set(TEXTS) and len(found.annotations) == len(TEXTS) * len(PEOPLE)
        assert list(found.source["labels"]) == ["How often would you like to hear this?"]
        assert found.labels_of(TEXTS[2], PIDS[1]) == {"How often would you like to hear this?": stars(2, 1) % 2}
        assert found.source["context"] == ["Q2"] and found.made.left_out["Q9"].startswith("free text")
        assert "1 row left out: a preview of the survey" in found.made.notes
        assert "1 row left out: not finished" in found.made.notes
        (tmp_path / "experiment.yaml").unlink()


def test_questions_that_contain_the_text(tmp_path):
    path = responses(tmp_path, lambda text: f'Is this rude: "{text}"?', lambda t, p: ["No", "Yes"][stars(t, p) % 2])
    found = way(tmp_path, path)
    assert set(found.annotations.texts) == set(TEXTS) and set(found.annotations.users) == set(PIDS)
    assert found.labels_of(TEXTS[2], PIDS[1]) == {"Is this rude ?": stars(2, 1) % 2}


def test_a_dash_in_the_question_and_another_grid(tmp_path):
    path = responses(
        tmp_path, lambda text: f"Part 1 - Is it rude? - {text}", lambda t, p: ["No", "Yes"][stars(t, p) % 2]
    )
    rows = list(csv.reader(path.open(newline="")))
    for place, what in enumerate(("books", "films")):
        more = [f"Q7_{place + 1}", f"Do you like these? - {what}", json.dumps({"ImportId": f"QID7{place}"})]
        rows = [[*row, cell] for row, cell in zip(rows, [*more, *["Yes", "No"] * 9], strict=False)]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    found = way(tmp_path, path)
    assert set(found.annotations.texts) == set(TEXTS)
    assert found.labels_of(TEXTS[2], PIDS[1]) == {"Part 1 - Is it rude?": stars(2, 1) % 2}
    assert found.made.left_out["Q7_1"].startswith("describes the person")


def test_without_an_id_of_participants_each_response_is_a_person(tmp_path):
    path = responses(
        tmp_path, lambda text: f"Is it rude? - {text}", lambda t, p: ["No", "Yes"][stars(t, p) % 2], embedded=False
    )
    found = way(tmp_path, path)
    assert set(found.annotations.users) == {f"R_{person}" for person in range(len(PEOPLE))}
    assert any("each response counts as a person (ResponseId)" in note for note in found.made.notes)


def test_missing_headers_and_questions_without_texts(tmp_path):
    path = responses(tmp_path, lambda text: f"Is it rude? - {text}")
    rows = list(csv.reader(path.open(newline="")))
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([rows[0], *rows[3:]])
    assert "the two rows with the wording of the questions and their ids are missing" in refusal(path, "qualtrics")
    path = responses(tmp_path, lambda text: "Is the text rude?")
    assert "no questions that differ only in the text" in refusal(path)


def test_prolifics_export_describes_people(tmp_path):
    rows = [
        {"Submission id": f"66{person}", "Participant id": pid, "Status": "APPROVED",
         "Completion code": "C0DE", "Age": "31", "Sex": "Female"}
        for person, pid in enumerate(PIDS)
    ]  # fmt: skip
    message = refusal(table(tmp_path / "prolific_export_66.csv", rows))
    assert "describes participants and holds no judgements" in message and "PROLIFIC_PID" in message

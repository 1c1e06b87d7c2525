"""Responses of Google Forms."""

from __future__ import annotations

from exports import PEOPLE, TEXTS, refusal, rude, stars, table, way
from workbooks import xlsx


def responses(question, answer, people=True, **more):
    return [
        {"Timestamp": f"2024/03/0{1 + person} 9:0{person}:00 AM GMT+1",
         **({"Email Address": f"{name}@example.org"} if people else {}), **more,
         **{question(text): answer(place, person) for place, text in enumerate(TEXTS)}}
        for person, name in enumerate(PEOPLE)
    ]  # fmt: skip


def test_rows_of_a_grid_are_texts(tmp_path):
    rows = responses(lambda text: f"Is this rude? [{text}]", lambda text, person: ["No", "Yes"][rude(text, person)])
    sheet = [list(rows[0]), *[list(row.values()) for row in rows]]
    for path in (
        table(tmp_path / "form.csv", rows),
        xlsx(tmp_path / "form.xlsx", {"Form Responses 1": [r[:26] for r in sheet]}),
    ):
        found = way(tmp_path, path)
        assert found.source["format"] == "google-forms" and set(found.annotations.texts) == set(TEXTS)
        assert set(found.annotations.users) == {f"{name}@example.org" for name in PEOPLE}
        assert found.labels_of(TEXTS[3], "bob@example.org") == {"Is this rude?": rude(3, 1)}
        (tmp_path / "experiment.yaml").unlink()


def test_several_grids_are_several_labels(tmp_path):
    rows = responses(lambda text: f"Rude? [{text}]", lambda text, person: ["No", "Yes"][rude(text, person)])
    more = responses(lambda text: f"Funny? [{text}]", lambda text, person: ["No", "Yes"][stars(text, person) % 2])
    rows = [row | extra for row, extra in zip(rows, more, strict=True)]
    found = way(tmp_path, table(tmp_path / "form.csv", rows))
    assert found.labels_of(TEXTS[3], "bob@example.org") == {"Rude?": rude(3, 1), "Funny?": stars(3, 1) % 2}
    assert len(found.annotations) == len(TEXTS) * len(PEOPLE)


def test_the_question_is_the_text(tmp_path):
    age = {"How old are you in years?": "34", "Your remarks, if you have any": "none at all"}
    rows = responses(lambda text: text, lambda text, person: ["No", "Yes"][rude(text, person)], people=False, **age)
    found = way(tmp_path, table(tmp_path / "form.csv", rows))
    assert set(found.annotations.users) == {f"response {person + 1}" for person in range(len(PEOPLE))}
    assert any("each response counts as a person" in note for note in found.made.notes)
    assert set(found.annotations.texts) == set(TEXTS)


def test_a_question_for_the_id_names_the_person(tmp_path):
    rows = responses(
        lambda text: f"Is this rude? [{text}]", lambda text, person: ["No", "Yes"][rude(text, person)], people=False
    )
    rows = [
        {"Timestamp": row["Timestamp"], "What is your participant ID?": f"P{n}", **row} for n, row in enumerate(rows)
    ]
    found = way(tmp_path, table(tmp_path / "form.csv", rows))
    assert set(found.annotations.users) == {f"P{person}" for person in range(len(PEOPLE))}


def test_a_form_without_texts(tmp_path):
    rows = [
        {"Timestamp": "2024/03/01", "Do you like this form here?": "Yes", "How old are you in years?": str(30 + n)}
        for n in range(5)
    ]
    assert "no questions that differ only in the text" in refusal(table(tmp_path / "form.csv", rows), "google-forms")

"""Results of Toloka's pools."""

from __future__ import annotations

from exports import PEOPLE, TEXTS, pairs, refusal, rude, table, way


def results():
    return [
        {"INPUT:text": TEXTS[text], "INPUT:lang": "en", "OUTPUT:result": ["OK", "BAD"][rude(text, person)],
         "GOLDEN:result": "", "HINT:text": "", "HINT:default_language": "", "ASSIGNMENT:link": f"https://toloka.dev/{text}",
         "ASSIGNMENT:task_id": f"t{text}", "ASSIGNMENT:assignment_id": f"a{text}-{person}",
         "ASSIGNMENT:worker_id": f"{person}c0ffee{person}", "ASSIGNMENT:status": "APPROVED",
         "ASSIGNMENT:started": "2024-03-04T09:00:00.123"}
        for text, person in pairs()
    ]  # fmt: skip


def test_the_results_of_a_pool(tmp_path):
    rows = results()
    rows[1]["GOLDEN:result"] = "OK"
    rows[2]["ASSIGNMENT:status"] = "REJECTED"
    path = table(tmp_path / "assignments.tsv", rows)
    text = path.read_text().splitlines()
    text[10:10] = ["", "\t" * (len(rows[0]) - 1)]  # between two assignments
    path.write_text("\n".join(text) + "\n")
    found = way(tmp_path, path)
    assert found.source["format"] == "toloka" and found.source["text"] == "INPUT:text"
    assert found.source["user"] == "ASSIGNMENT:worker_id" and found.source["label_column"] == "OUTPUT:result"
    assert set(found.annotations.users) == {f"{person}c0ffee{person}" for person in range(len(PEOPLE))}
    assert len(found.annotations) == len(pairs()) - 2
    assert "1 row left out: control tasks, whose answer is known (GOLDEN)" in found.made.notes
    assert "1 row left out: not accepted (ASSIGNMENT:status)" in found.made.notes
    assert found.labels_of(TEXTS[5], "0c0ffee0") == {"BAD": rude(5, 0), "OK": 1 - rude(5, 0)}


def test_aggregated_results_have_no_performers(tmp_path):
    rows = [{"INPUT:text": text, "OUTPUT:result": "OK", "CONFIDENCE:result": "97%"} for text in TEXTS]
    assert "no column ASSIGNMENT:worker_id in it" in refusal(table(tmp_path / "aggregated.tsv", rows))

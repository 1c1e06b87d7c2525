"""Reports of Appen."""

from __future__ import annotations

from exports import PEOPLE, TEXTS, pairs, refusal, rude, table, way


def report(**more):
    return [
        {"_unit_id": 700 + text, "_created_at": "3/4/2024 09:00:00", "_golden": "false",
         "_id": 9000 + 10 * text + person,
         "_missed": "", "_started_at": "3/4/2024 08:59:00", "_tainted": "false", "_channel": "elite", "_trust": "0.93",
         "_worker_id": 4400 + person, "_country": "DEU", "_region": "", "_city": "", "_ip": "203.0.113.7",
         "is_it_rude": ["no", "yes"][rude(text, person)], "comment_box": "", "orig__golden": "",
         "is_it_rude_gold": "", "source": f"s{text % 3}", "text": TEXTS[text], **more}
        for text, person in pairs()
    ]  # fmt: skip


def test_the_full_report(tmp_path):
    rows = report()
    rows[2] |= {"_golden": "true", "is_it_rude_gold": "yes"}
    rows[5] |= {"_golden": "TRUE", "_missed": "true", "is_it_rude_gold": "no"}
    rows[7] |= {"_tainted": "true"}
    found = way(tmp_path, table(tmp_path / "f1.csv", rows))
    assert found.source["format"] == "appen" and found.source["user"] == "_worker_id"
    assert found.source["labels"] == {"is_it_rude": {"values": {"no": 0, "yes": 1}}}
    assert set(found.annotations.users) == {str(4400 + person) for person in range(len(PEOPLE))}
    assert len(found.annotations) == len(pairs()) - 3
    assert "2 rows left out: test questions of the platform (_golden)" in found.made.notes
    assert "1 row left out: judgements the platform does not trust (_tainted)" in found.made.notes
    assert found.labels_of(TEXTS[1], "4400") == {"is_it_rude": rude(1, 0)}


def test_the_aggregated_report_has_no_workers(tmp_path):
    rows = [
        {"_unit_id": 700 + text, "_golden": "false", "_unit_state": "finalized", "_trusted_judgments": 3,
         "_last_judgment_at": "3/4/2024", "is_it_rude": "yes", "is_it_rude:confidence": 0.66, "text": words}
        for text, words in enumerate(TEXTS)
    ]  # fmt: skip
    message = refusal(table(tmp_path / "a1.csv", rows))
    assert "an aggregated report, without workers. Download the full report" in message

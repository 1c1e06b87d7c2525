"""Tables that do not have one judgement a row: the form is recognised, turned whenever the file is read, or refused."""

from __future__ import annotations

import json
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from judged_tables import drafted, drawn, long, pairs, sentences, written

from beholder.datasets.profile.guesses import UnsureError
from beholder.datasets.table import Table, load
from beholder.util.errors import DataError
from beholder.util.strict_model import build
from beholder.workflows.draft_experiment import draft

TEXTS = sentences(24)
PEOPLE = [f"w{number}" for number in range(1, 7)]


def judgement(text: str, user: str) -> int:
    return crc32(f"{text}{user}".encode()) % 2


def scored(text: str, user: str, steps: int = 5) -> int:
    return 1 + crc32(f"{text}{user}".encode()) % steps


def read(made):
    """(text, user) -> label, of the original file as a run reads it."""
    rows = load(build(Table, made.source, "source")).annotations
    return {(t, u): tuple(given) for t, u, given in zip(rows.texts, rows.user_ids, rows.labels.tolist(), strict=True)}


def people_of(text: str, count: int = 3) -> list[str]:
    start = sum(map(ord, text)) % len(PEOPLE)
    return [PEOPLE[(start + place) % len(PEOPLE)] for place in range(count)]


NAMES = [
    ("rater1", "rater2", "rater3"),
    ("coder_a", "coder_b"),
    ("Annotator 1", "Annotator 2"),
    ("judge-1", "judge-2", "judge-3", "judge-4"),
    ("user1", "user2"),
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("text", ["text", "statement", "Kommentar"])
def test_columns_called_after_people_are_people(names, text, tmp_path):
    table = {text: TEXTS, **{name: [judgement(each, name) for each in TEXTS] for name in names}}
    table["rater_mean"] = [np.mean([table[name][row] for name in names]).round(2) for row in range(len(TEXTS))]
    made = drafted(tmp_path, table)
    assert made.source["reshape"]["users"] == list(names) and "computed of" in made.left_out["rater_mean"]
    assert read(made) == {(each, name): (float(judgement(each, name)),) for each in TEXTS for name in names}
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.csv"]  # no second copy of personal data


@pytest.mark.parametrize("derived", ["rater_mean", "avg", "majority", "gold_label", "hard_label", "std"])
def test_what_was_computed_of_several_people_is_nobody(derived, tmp_path):
    table = {
        "text": TEXTS,
        **{name: [judgement(each, name) for each in TEXTS] for name in ("rater1", "rater2", "rater3")},
    }
    made = drafted(tmp_path, {**table, derived: [row % 2 for row in range(len(TEXTS))]})
    assert "computed of" in made.left_out[derived] and made.facts["users"] == 3


@pytest.mark.parametrize("context", ["user", "author", "poster", "judgement", "annotator"])
def test_a_column_of_the_same_name_stays_apart(context, tmp_path):
    table = {context: [f"a{row}" for row in range(len(TEXTS))], "text": TEXTS}
    table |= {name: [judgement(each, name) for each in TEXTS] for name in ("rater1", "rater2", "rater3")}
    made = drafted(tmp_path, table)
    assert made.facts["users"] == 3 and made.facts["rows"] == 3 * len(TEXTS) and context in made.left_out


def test_people_who_did_not_judge_a_text_have_no_row_of_it(tmp_path):
    table = {"text": TEXTS}
    table |= {f"rater{n}": ["" if (row + n) % 3 == 0 else judgement(text, str(n)) for row, text in enumerate(TEXTS)]
              for n in (1, 2, 3)}  # fmt: skip
    made = drafted(tmp_path, table)
    assert made.facts["rows"] == 2 * len(TEXTS) and made.bad_rows == 0


def test_people_by_name_are_a_question(tmp_path):
    table = {"text": TEXTS, **{name: [scored(each, name) for each in TEXTS] for name in ("Anna", "Ben", "Cleo")}}
    with pytest.raises(UnsureError, match="--users Anna,Ben,Cleo") as unsure:
        drafted(tmp_path, table)
    assert "--user COLUMN" in str(unsure.value) and unsure.value.suggested == "Anna,Ben,Cleo"
    made = drafted(tmp_path, table, users=("Anna", "Ben", "Cleo"))
    assert made.facts["users"] == 3 and made.source["labels"] == {"judgement": {"kind": "ordinal", "range": [1, 5]}}
    made = drafted(tmp_path, table, users=("Anna", "Ben"), labels=("rude",))
    assert list(made.source["labels"]) == ["rude"] and made.facts["users"] == 2
    with pytest.raises(DataError, match="no column 'Bea' for --users"):
        drafted(tmp_path, table, users=("Anna", "Bea"))


@pytest.mark.parametrize("names", [("q1", "q2", "q3"), ("label_1", "label_2"), ("score_a", "score_b", "score_c")])
@pytest.mark.parametrize("user", ["PROLIFIC_PID", "annotator", "worker_id"])
def test_questions_beside_people_are_labels(names, user, tmp_path):
    judged = pairs()
    table = long(judged, **{name: drawn(range(1, 6), place) for place, name in enumerate(names)})
    table = {user if name == "annotator" else name: cells for name, cells in table.items()}
    for made in (drafted(tmp_path, table), drafted(tmp_path, table, labels=names)):
        assert list(made.source["labels"]) == list(names) and made.source["user"] == user
        assert "reshape" not in made.source


@pytest.mark.parametrize(
    ("who", "what"),
    [("annotator_{}", "annotation_{}"), ("worker{}", "label{}"), ("rater_id_{}", "score_{}"),
     ("annotator{}_id", "annotator{}_label"), ("Coder.{}", "Answer.rude.{}")],
)  # fmt: skip
@pytest.mark.parametrize("integers", [False, True])
def test_slots_with_ids(who, what, integers, tmp_path):
    ids = {text: [int(each[1:]) if integers else each for each in people_of(text)] for text in TEXTS}
    table = {"text": TEXTS}
    order = (3, 1, 2)  # columns belong together by their number, not by their order
    table |= {what.format(n): [judgement(text, str(ids[text][n - 1])) for text in TEXTS] for n in (1, 2, 3)}
    table |= {who.format(n): [ids[text][n - 1] for text in TEXTS] for n in order}
    made = drafted(tmp_path, table)
    assert read(made) == {
        (text, str(each)): (float(judgement(text, str(each))),) for text in TEXTS for each in ids[text]
    }


def test_slots_of_several_labels(tmp_path):
    table = {"text": TEXTS}
    for n in (1, 2):
        table[f"annotator_{n}"] = [people_of(text)[n - 1] for text in TEXTS]
        table[f"rude_{n}"] = [judgement(text, people_of(text)[n - 1]) for text in TEXTS]
        table[f"funny_{n}"] = [1 - judgement(text, people_of(text)[n - 1]) for text in TEXTS]
    made = drafted(tmp_path, table)
    assert list(made.source["labels"]) == ["rude", "funny"]
    assert all(rude == 1 - funny for rude, funny in read(made).values())


@pytest.mark.parametrize("names", [("rater{}_rude", "rater{}_funny"), ("rude_rater{}", "funny_rater{}")])
def test_people_with_several_labels(names, tmp_path):
    table = {"text": TEXTS}
    for n in (1, 2, 3):
        table[names[0].format(n)] = [judgement(text, str(n)) for text in TEXTS]
        table[names[1].format(n)] = [1 - judgement(text, str(n)) for text in TEXTS]
    made = drafted(tmp_path, table)
    assert list(made.source["labels"]) == ["rude", "funny"] and made.facts["users"] == 3
    assert read(made) == {
        (text, str(n)): (float(judgement(text, str(n))), float(1 - judgement(text, str(n))))
        for text in TEXTS
        for n in (1, 2, 3)
    }


@pytest.mark.parametrize("text", ["Text {}", "tweet_{}", "sentence.{}"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_several_texts_a_row(text, count, tmp_path):
    rows = [(person, [TEXTS[(start * count + n) % len(TEXTS)] for n in range(count)]) for person in PEOPLE
            for start in range(6)]  # fmt: skip
    table = {"worker": [person for person, _ in rows]}
    table |= {text.format(n + 1): [texts[n] for _, texts in rows] for n in range(count)}
    table |= {f"q{n + 1}": [scored(texts[n], person) for person, texts in rows] for n in range(count)}
    made = drafted(tmp_path, table)
    assert made.source["labels"] == {"q": {"kind": "ordinal", "range": [1, 5]}}
    assert made.facts["texts"] == len({each for _, texts in rows for each in texts}) and made.facts["users"] == 6
    del table[f"q{count}"]
    if count > 2:
        with pytest.raises(DataError, match=f"{count} texts a row"):
            drafted(tmp_path, table)


@pytest.mark.parametrize("separator", [",", ";", "|", "json", "python"])
def test_lists_in_parallel(separator, tmp_path):
    def cell(entries):
        notation = {"json": json.dumps, "python": str}
        return notation[separator](entries) if separator in notation else separator.join(map(str, entries))

    who = {text: people_of(text, 2 + row % 3) for row, text in enumerate(TEXTS)}
    table = {"text": TEXTS, "annotators": [cell(who[text]) for text in TEXTS]}
    table["annotations"] = [cell([judgement(text, each) for each in who[text]]) for text in TEXTS]
    table["hard_label"] = [row % 2 for row in range(len(TEXTS))]
    made = drafted(tmp_path, table)
    assert read(made) == {(text, each): (float(judgement(text, each)),) for text in TEXTS for each in who[text]}
    assert "hard_label" in made.left_out and made.source["user"] == "annotators"


def test_lists_of_parquet_and_a_list_that_is_too_short(tmp_path):
    who = [people_of(text) for text in TEXTS]
    given = [[judgement(text, each) for each in people] for text, people in zip(TEXTS, who, strict=True)]
    given[4] = given[4][:2]
    pq.write_table(pa.table({"text": TEXTS, "workers": who, "labels": given}), tmp_path / "lists.parquet")
    with pytest.raises(DataError):  # the lists do not run in parallel, so nothing identifies the user
        draft(tmp_path / "lists.parquet")
    source = {"name": "table", "path": tmp_path / "lists.parquet", "text": "text", "user": "workers"}
    source |= {"labels": ["labels"], "reshape": {"lists": ["workers", "labels"]}}
    with pytest.raises(DataError, match='row 5, column "workers": these lists differ in length'):
        load(build(Table, source, "source"))
    assert load(build(Table, source, "source"), "skip").refused == 1


@pytest.mark.parametrize(("label", "value"), [("label", "value"), ("dimension", "rating"), ("question", "answer")])
def test_rows_of_a_label_and_its_value(label, value, tmp_path):
    judged = pairs()
    rows = [(text, user, name) for text, user in judged for name in ("rude", "funny", "clear") if (text, name)]
    table = {"text": [text for text, _, _ in rows], "rater": [user for _, user, _ in rows]}
    table |= {label: [name for *_, name in rows], value: [judgement(text, user + name) for text, user, name in rows]}
    made = drafted(tmp_path, table)
    assert list(made.source["labels"]) == ["rude", "funny", "clear"] and made.facts["rows"] == len(judged)
    assert read(made) == {
        (text, user): tuple(float(judgement(text, user + name)) for name in ("rude", "funny", "clear"))
        for text, user in judged
    }


def test_a_label_given_twice_and_otherwise_is_a_bad_row(tmp_path):
    source = {"name": "table", "text": "text", "user": "who", "labels": ["a", "b"], "allow_missing": True}
    source["reshape"] = {"label_column": "label", "value_column": "value"}
    columns = {"text": ["x", "x", "x", "y"], "who": ["u", "u", "u", "v"]}
    columns |= {"label": ["a", "b", "a", "a"], "value": [1, 0, 0, 1]}
    source["path"] = written(tmp_path / "pairs.csv", columns)
    with pytest.raises(DataError, match='row 1, column "value": row 3 gives "a" again, and otherwise'):
        load(build(Table, source, "source"))
    rows = load(build(Table, source, "source"), "skip").annotations
    assert list(rows.texts) == ["y"] and np.isnan(rows.labels[0, 1])


@pytest.mark.parametrize(
    "columns",
    [
        {"response_a": TEXTS, "response_b": TEXTS[::-1], "preference": ["A", "B", "tie"] * 8},
        {"text1": TEXTS, "text2": TEXTS[::-1], "better": ["1", "2"] * 12},
        {"left": TEXTS, "right": TEXTS[::-1], "chosen": TEXTS, "rejected": TEXTS[::-1]},
        {"model_a": ["m1", "m2"] * 12, "model_b": ["m3", "m4"] * 12, "winner": ["model_a", "model_b", "tie"] * 8,
         "response_a": TEXTS, "response_b": TEXTS[::-1]},
    ],
    ids=lambda columns: "-".join(columns),
)  # fmt: skip
def test_pairs_of_texts_are_refused_as_such(columns, tmp_path):
    with pytest.raises(DataError, match="pairwise"):
        drafted(tmp_path, {"judge": [f"j{row % 4}" for row in range(len(TEXTS))], **columns})


def test_conversations_in_pairs_are_refused_as_such(tmp_path):
    turns = [[{"role": "user", "content": text}] for text in TEXTS]
    columns = {"judge": ["j1", "j2"] * 12, "conversation_a": turns, "conversation_b": turns[::-1]}
    pq.write_table(pa.table({**columns, "winner": ["model_a", "model_b", "tie"] * 8}), tmp_path / "arena.parquet")
    with pytest.raises(DataError, match="pairwise"):
        draft(tmp_path / "arena.parquet")


def test_structures_are_named_among_what_is_not_used(tmp_path):
    judged = pairs()
    table = long(judged, rude=drawn((0, 1)))
    table["meta"] = [{"time": row} for row in range(len(judged))]
    pq.write_table(pa.table(table), tmp_path / "nested.parquet")
    assert "structs" in draft(tmp_path / "nested.parquet").left_out["meta"]

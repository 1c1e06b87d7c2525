"""Which column is the text and which names who judged: by kind of table, under many names."""

from __future__ import annotations

import pytest
from judged_tables import WORDS, drafted, drawn, long, pairs, renamed, sentences

from beholder.datasets.profile.guesses import UnsureError
from beholder.datasets.profile.value_forms import form_of
from beholder.util.errors import DataError

JUDGED = pairs()
TEXTS = sentences(25)
RUDE = drawn((0, 1))


def remark(text: str, user: str, row: int) -> str:
    """Longer than the texts, and never the same twice."""
    return f"because {' '.join(WORDS[(row * step) % 15] for step in range(1, 13))} {row}"


MOMENTS = {
    "iso": lambda text, user, row: f"2024-03-{1 + row % 28:02d} 09:{row % 60:02d}:00",
    "zulu": lambda text, user, row: f"2024-03-{1 + row % 28:02d}T09:{row % 60:02d}:00.125Z",
    "american": lambda text, user, row: f"{1 + row % 12}/{1 + row % 28}/2024 {row % 12}:{row % 60:02d} PM",
    "german": lambda text, user, row: f"{1 + row % 28:02d}.03.2024 {row % 24}:{row % 60:02d}",
    "platform": lambda text, user, row: f"Mon Mar 04 01:{row % 60:02d}:37 PST 2024",
    "mail": lambda text, user, row: f"Fri, {1 + row % 28:02d} Mar 2024 10:{row % 60:02d}:00 +0100",
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=list(MOMENTS))
@pytest.mark.parametrize("text", ["headline", "Input.text", "tweet", "текст", "satz"])
def test_a_time_is_never_the_text(moment, text, tmp_path):
    made = drafted(tmp_path, renamed(long(JUDGED, rude=RUDE, when=moment), text=text, annotator="WorkerId"))
    assert (made.source["text"], made.source["user"]) == (text, "WorkerId")
    assert made.left_out["when"] == "dates or times" and list(made.source["labels"]) == ["rude"]


@pytest.mark.parametrize("text", ["text", "tweet", "satz", "Sentence", "Input.utterance"])
@pytest.mark.parametrize("reason", ["reason", "explanation", "notes", "remarks", "Begründung"])
def test_free_text_of_annotators_is_never_the_text_however_long(text, reason, tmp_path):
    made = drafted(tmp_path, renamed(long(JUDGED, why=remark, rude=RUDE), text=text, why=reason))
    assert made.source["text"] == text and "text" in made.left_out[reason]


def test_a_comment_is_the_text_where_there_is_no_clearer_name(tmp_path):
    made = drafted(tmp_path, renamed(long(JUDGED, rude=RUDE), text="comment", annotator="coder"))
    assert made.source["text"] == "comment"


def test_what_a_text_answers_is_not_the_text(tmp_path):
    posts = sentences(5, seed=9)
    table = long(JUDGED, parent_post=lambda text, user, row: posts[len(text) % 5], rude=RUDE)
    made = drafted(tmp_path, renamed(table, text="reply"))
    assert made.source["text"] == "reply" and "parent_post" in made.left_out


def test_two_texts_of_one_rank_are_a_question(tmp_path):
    other = sentences(25, seed=5)
    table = long(JUDGED, sentence2=lambda text, user, row: other[TEXTS.index(text)], similar=RUDE)
    with pytest.raises(UnsureError) as unsure:
        drafted(tmp_path, renamed(table, text="sentence1"))
    assert unsure.value.option == "--text" and "--text sentence1" in str(unsure.value)
    assert drafted(tmp_path, renamed(table, text="sentence1"), text="sentence1").source["text"] == "sentence1"


@pytest.mark.parametrize("values", [MOMENTS["iso"], lambda text, user, row: f"https://a.b/{row}"])
def test_a_column_called_text_that_holds_something_else_is_a_question(values, tmp_path):
    with pytest.raises(UnsureError, match="is called like the text, and its values look like"):
        drafted(tmp_path, {**long(JUDGED, rude=RUDE), "text": [values("", "", row) for row in range(len(JUDGED))]})


@pytest.mark.parametrize("author", ["user_id", "author", "poster", "account_handle", "user"])
@pytest.mark.parametrize("judge", ["coder", "PROLIFIC_PID", "labeled_by", "rater_id"])
def test_who_wrote_a_text_is_not_who_judged_it(author, judge, tmp_path):
    table = long(JUDGED, author=lambda text, user, row: f"poster{len(text) % 7}", rude=RUDE)
    made = drafted(tmp_path, renamed(table, author=author, annotator=judge))
    assert made.source["user"] == judge and "wrote the text" in made.left_out[author]


def test_structure_tells_authors_from_judges_where_names_do_not(tmp_path):
    table = long(JUDGED, a=lambda text, user, row: f"poster{len(text) % 7}", rude=RUDE)
    made = drafted(tmp_path, renamed(table, a="user", annotator="id2"))
    assert made.source["user"] == "id2" and made.guesses["user"].sureness < 0.8


@pytest.mark.parametrize("ids", [("0", "1"), ("1", "2", "3"), ("7", "8", "9", "10", "11")])
def test_small_numbers_are_users_where_they_are_called_so(ids, tmp_path):
    judged = [(text, ids[int(user[1:]) % len(ids)]) for text, user in JUDGED]
    judged = list(dict.fromkeys(judged))
    made = drafted(tmp_path, long(judged, q1=drawn(range(1, 6)), q2=drawn(range(1, 6), 2), q3=drawn(range(1, 6), 3)))
    assert made.source["user"] == "annotator" and list(made.source["labels"]) == ["q1", "q2", "q3"]
    assert "reshape" not in made.source


def test_traits_of_people_are_not_people(tmp_path):
    traits = {
        "Geschlecht": lambda text, user, row: "mw"[int(user[1:]) % 2],
        "Land": lambda text, user, row: ["DE", "AT", "CH"][int(user[1:]) % 3],
    }
    made = drafted(tmp_path, renamed(long(JUDGED, **traits, grob=RUDE), text="Satz", annotator="Wer"))
    assert made.source["user"] == "Wer" and made.source["context"] == ["Geschlecht", "Land"]


def test_sessions_of_people_are_not_people(tmp_path):
    table = long(JUDGED, session=lambda text, user, row: f"{user}-{row % 2}", rude=RUDE)
    assert drafted(tmp_path, renamed(table, annotator="PROLIFIC_PID")).source["user"] == "PROLIFIC_PID"


def test_two_columns_of_people_are_a_question(tmp_path):
    table = long(JUDGED, judge=lambda text, user, row: f"j{row % 5}", rude=RUDE)
    with pytest.raises(UnsureError, match='"annotator" and "judge" may name who judged'):
        drafted(tmp_path, table)
    assert drafted(tmp_path, table, user="judge").source["user"] == "judge"


def test_ids_that_differ_in_case_or_white_space_are_named_and_joined_only_by_request(tmp_path):
    judged = [(text, user.upper() if row % 2 else user) for row, (text, user) in enumerate(JUDGED)]
    apart = drafted(tmp_path, long(judged, rude=RUDE))
    assert apart.facts["users"] == 12 and any("12 user ids differ only in case" in note for note in apart.notes)
    joined = drafted(tmp_path, long(judged, rude=RUDE), join_ids=True)
    assert joined.facts["users"] == 6 and joined.source["user_ids"] == "fold" and not joined.notes


def test_nobody_and_everybody(tmp_path):
    table = long(JUDGED, rude=RUDE)
    with pytest.raises(DataError, match="no column identifies the user"):
        drafted(tmp_path, {"text": table["text"], "rude": table["rude"]})
    with pytest.raises(DataError, match="names one person only"):
        drafted(tmp_path, {**table, "annotator": ["me"] * len(JUDGED)})
    with pytest.raises(DataError, match="another person in almost every row"):
        drafted(tmp_path, {**table, "annotator": [f"u{row}" for row in range(len(JUDGED))]})
    with pytest.raises(DataError, match="no column 'who' for --user"):
        drafted(tmp_path, table, user="who")


def test_how_sure_a_guess_is_and_why(tmp_path):
    made = drafted(tmp_path, long(JUDGED, rude=RUDE))
    assert made.guesses["text"].sureness == 1 and made.guesses["user"].sureness > 0.9
    assert all(guess.why and guess.column for guess in made.guesses.values())
    named = drafted(tmp_path, long(JUDGED, rude=RUDE), text="text", user="annotator", labels=("rude",))
    assert {guess.sureness for guess in named.guesses.values()} == {1.0}


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (["2024-03-01", "2024-03-02"], "dates or times"),
        (["09:00:37", "10:15"], "dates or times"),
        (["https://a.b/c", "www.d.e/f"], "addresses of the web"),
        (["10.0.0.1", "192.168.0.7"], "addresses of computers"),
        (["a@b.de", "c@d.org"], "e-mail addresses"),
        (["12", "13.5", "1,200"], "numbers"),
        (["3fa85f64-5717-4562-b3fc-2c963f66afa6", "t12"], "ids"),
        (["I may go", "may I"], None),
        (["March is cold", "sun"], None),
        (["so 1 of 2", "yes"], None),
    ],
)
def test_what_values_look_like(values, form):
    assert form_of(values) == form

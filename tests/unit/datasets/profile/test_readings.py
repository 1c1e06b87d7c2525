"""How columns of judgements are read: by kind of values, under any name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_tables import drafted, drawn, long, pairs

from beholder.datasets.profile.column import Column
from beholder.datasets.profile.guesses import UnsureError
from beholder.datasets.profile.likert import in_order
from beholder.datasets.profile.readings import reading_of
from beholder.util.errors import DataError

JUDGED = pairs()


def label(folder, values, **given):
    """The rule that a column of these values gets, and the experiment."""
    cells = drawn(values) if not callable(values) else values
    made = drafted(folder, long(JUDGED, q=cells), **given)
    return made.source.get("labels", {}).get("q"), made


def sprinkled(values, other, every=9):
    """Values among which another one stands in every ninth row."""
    cell = drawn(values)
    return lambda text, user, row: other if row % every == 4 else cell(text, user, row)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (["0", "1"], {}),
        (["true", "false"], {}),
        (["true", "1", "0", "false"], {}),
        (["yes", "no"], {"values": {"no": 0, "yes": 1}}),
        (["Yes", "no", "NO"], {"values": {"NO": 0, "Yes": 1, "no": 0}}),
        (["y", "n"], {"values": {"n": 0, "y": 1}}),
        (["T", "F"], {"values": {"F": 0, "T": 1}}),
        (["ja", "nein"], {"values": {"ja": 1, "nein": 0}}),
        (["accept", "reject"], {"values": {"accept": 1, "reject": 0}}),
        (["rude", "not rude"], {"values": {"not rude": 0, "rude": 1}}),
        (["toxic", "non-toxic"], {"values": {"non-toxic": 0, "toxic": 1}}),
        ([1, 2, 3, 4, 5], {"kind": "ordinal", "range": [1, 5]}),
        ([0, 1, 2, 3], {"kind": "ordinal", "range": [0, 3]}),
        ([-2, -1, 0, 1, 2], {"kind": "ordinal", "range": [-2, 2]}),
        ([-1, 0, 1], {"kind": "ordinal", "range": [-1, 1]}),
        (range(0, 101), {"kind": "continuous", "range": [0, 100]}),
        (range(1, 26), {"kind": "continuous", "range": [1, 25]}),
        ([f"{each / 100:.2f}" for each in range(100)], {"kind": "continuous", "range": [0, 1]}),
        (["1", "1.5", "2", "2.5", "3"], {"kind": "continuous", "range": [1, 3]}),
    ],
    ids=str,
)
def test_values_of_a_label(values, rule, tmp_path):
    assert label(tmp_path, list(values))[0] == rule


SCALES = [
    "strongly disagree|disagree|neutral|agree|strongly agree",
    "Strongly Disagree|Somewhat disagree|Neither agree nor disagree|Somewhat agree|Strongly agree",
    "completely disagree|mostly disagree|slightly disagree|slightly agree|mostly agree|completely agree",
    "never|rarely|sometimes|often|always",
    "very unlikely|unlikely|neutral|likely|very likely",
    "very dissatisfied|dissatisfied|neither satisfied nor dissatisfied|satisfied|very satisfied",
    "very bad|bad|ok|good|very good",
    "poor|fair|good|very good|excellent",
    "not at all|slightly|moderately|very|extremely",
    "not at all rude|slightly rude|moderately rude|very rude",
    "not offensive|somewhat offensive|very offensive",
    "none|mild|moderate|severe",
    "Definitely not|Probably not|Maybe|Probably|Definitely",
    "low|medium|high",
    "1 - not at all|2|3|4|5 - extremely",
    "1: never|2: sometimes|3: often",
    "Disagree (1)|Neutral (2)|Agree (3)",
]


@pytest.mark.parametrize("scale", SCALES)
def test_words_of_a_scale_keep_their_order(scale, tmp_path):
    steps = scale.split("|")
    rule, made = label(tmp_path, [steps[place] for place in np.random.default_rng(1).permutation(len(steps))])
    assert rule == {"kind": "ordinal", "steps": steps}
    assert made.facts["rows"] == len(JUDGED) and not made.bad_rows


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SCALES), st.integers(0, 10_000))
def test_the_order_of_a_scale_is_of_its_words_not_of_their_rows(scale, seed):
    steps = scale.split("|")
    random = np.random.default_rng(seed)
    some = [steps[place] for place in random.permutation(len(steps))]
    assert in_order(some) == steps
    upper = [step.upper() for step in some]
    assert in_order(upper) == [step.upper() for step in steps]


@pytest.mark.parametrize("words", [["joy", "anger", "none"], ["hate", "offensive", "normal"], ["polite", "rude"]])
def test_words_without_an_order_are_classes(words, tmp_path):
    _, made = label(tmp_path, words)
    assert (made.source["kind"], made.source["label_column"]) == ("multiclass", "q")
    assert sorted(made.facts["labels"]) == sorted(words)


def test_the_same_step_in_another_case_is_the_same_step(tmp_path):
    rule, made = label(tmp_path, ["Agree", "agree", "Disagree", "neutral"])
    assert len(rule["steps"]) == 3 and rule["values"] == {
        other: rule["steps"].index({"agree": "Agree", "Agree": "agree"}[other]) for other in rule["values"]
    }
    assert not made.bad_rows


@pytest.mark.parametrize("word", ["N/A", "NA", "nan", "null", "-", "n/a", "don't know", "skip", "ignore", ""])
@pytest.mark.parametrize(
    "values",
    [["yes", "no"], ["0", "1"], [1, 2, 3, 4], ["joy", "anger", "fear"], ["never", "sometimes", "always"]],
    ids=str,
)
def test_what_is_no_answer_is_not_asked_and_counted(word, values, tmp_path):
    before, _ = label(tmp_path, values)
    rule, made = label(tmp_path, sprinkled(values, word))
    gone = sum(row % 9 == 4 for row in range(len(JUDGED)))
    assert rule == before and made.source["not_asked"] == [word]
    assert list(made.dropped.values()) == [gone] and made.facts["rows"] == len(JUDGED) - gone
    assert made.bad_rows == 0 and any(str(gone) in note for note in made.notes)


@pytest.mark.parametrize(
    ("values", "bad"),
    [
        (["0", "1"], "None"),
        (["yes", "no"], "yse"),
        (["1", "2", "3"], "three"),
        (["agree", "disagree", "strongly agree"], "agre"),
        (["0", "1"], "2"),
        ([str(each) for each in range(0, 101, 3)], "x"),
    ],
)
def test_a_bad_cell_does_not_drop_a_label_and_its_row_is_named(values, bad, tmp_path):
    cell, other = drawn(values), drawn((0, 1), 2)
    table = long(JUDGED, q=lambda text, user, row: bad if row == 16 else cell(text, user, row), funny=other)
    made = drafted(tmp_path, table)
    assert set(made.source["labels"]) == {"q", "funny"} and made.bad_rows == 1
    assert any('"q": row 17 cannot be read' in note for note in made.notes)
    named = drafted(tmp_path, table, labels=("q", "funny"))
    assert set(named.source["labels"]) == {"q", "funny"}


@pytest.mark.parametrize(
    ("values", "code"),
    [(range(0, 5), "-1"), (range(1, 6), "99"), (range(0, 4), "999"), (range(1, 6), "9"), (range(0, 101), "-1"),
     (range(0, 2), "-1"), (range(0, 2), "9"), (range(1, 8), "-99"), (range(0, 101), "999")],
    ids=str,
)  # fmt: skip
def test_a_number_apart_from_a_scale_is_a_question(values, code, tmp_path):
    low, high = min(values), max(values)
    cells = sprinkled([str(each) for each in values], code)
    with pytest.raises(UnsureError) as unsure:
        label(tmp_path, cells)
    assert f"{code} stands apart" in str(unsure.value) and f"--not-asked={code}" in str(unsure.value)
    assert "row" in str(unsure.value) and f"--scale={low:g}..{high:g}" in str(unsure.value)
    rule, made = label(tmp_path, cells, not_asked=(code,))
    assert made.source["not_asked"] == [code] and made.bad_rows == 0
    assert rule.get("range", [0, 1]) == [low, high]
    gone = sum(row % 9 == 4 for row in range(len(JUDGED)))
    rule, made = label(tmp_path, cells, scale=(low, high))
    assert rule["range"] == [low, high] and made.bad_rows == gone


def test_a_word_that_is_frequent_among_numbers_is_a_question(tmp_path):
    cells = drawn(["1", "2", "3", "4", "5"])
    table = long(JUDGED, q=lambda text, user, row: "no idea" if row % 4 == 0 else cells(text, user, row))
    with pytest.raises(UnsureError, match=r"--not-asked='no idea'.*--scale=1\.\.5"):
        drafted(tmp_path, table)
    assert drafted(tmp_path, table, not_asked=("no idea",)).source["labels"]["q"]["range"] == [1, 5]


@pytest.mark.parametrize("values", [["1,5", "2,5", "3,5"], ["70%", "20%", "10%", "95%"]], ids=str)
def test_numbers_in_other_notations_are_no_classes(values, tmp_path):
    with pytest.raises(DataError, match="no column holds judgements"):
        label(tmp_path, values)


def test_a_code_can_be_a_step(tmp_path):
    rule, made = label(tmp_path, sprinkled([0, 1, 2, 3, 4], -1), scale=(-1.0, 4.0))
    assert rule == {"kind": "ordinal", "range": [-1, 4]} and made.bad_rows == 0


@pytest.mark.parametrize("tick", ["TRUE", "x", "1", "yes", "✓"])
def test_boxes_of_which_only_ticked_ones_are_written(tick, tmp_path):
    table = long(JUDGED, rude=drawn((tick, "")), funny=drawn((tick, ""), 2))
    made = drafted(tmp_path, table)
    assert made.source["labels"]["rude"] == {"values": {tick: 1, "": 0}}
    assert made.facts["rows"] == len(JUDGED) and sum("empty cell is read as no" in note for note in made.notes) == 2


SEVERAL = ["anger", "joy", "fear", "anger joy", "joy fear", "none"]


@pytest.mark.parametrize("separator", ["|", ";", ",", ", ", "; "])
def test_several_labels_in_a_cell(separator, tmp_path):
    _, made = label(tmp_path, [separator.join(each.split()) for each in SEVERAL])
    multiselect = made.source["reshape"]["multiselect"]
    assert multiselect["labels"] == ["anger", "fear", "joy"] and multiselect["separator"] == separator.strip()
    assert multiselect["none"] == ["none"] and list(made.source["labels"]) == ["anger", "fear", "joy"]
    assert made.facts["rows"] == len(JUDGED) and made.bad_rows == 0


@pytest.mark.parametrize("cells", [['["anger"]', "[]", '["anger", "joy"]'], ["['joy']", "['anger', 'joy']", "[]"]])
def test_lists_of_labels(cells, tmp_path):
    _, made = label(tmp_path, cells)
    assert made.source["reshape"]["multiselect"] == {"column": "q", "labels": ["anger", "joy"], "separator": None}
    assert made.facts["rows"] == len(JUDGED)


BOOKKEEPING = {
    "batch": range(1, 6), "weight": (0, 1), "hour": range(8, 17), "skipped": (0, 1), "duration": range(3, 400, 7),
    "WorkTimeInSeconds": range(3, 90), "_trust": [0.1, 0.25, 0.7], "version": (1, 2), "block_no": (1, 2, 3),
    "attention_check": (0, 1), "Answer.hour": range(8, 17), "session": (1, 2, 3), "trial_index": range(1, 10),
}  # fmt: skip


@pytest.mark.parametrize("name", BOOKKEEPING)
def test_bookkeeping_is_no_label_unless_it_is_named(name, tmp_path):
    table = long(JUDGED, rude=drawn((0, 1)), **{name: drawn([str(each) for each in BOOKKEEPING[name]], 3)})
    made = drafted(tmp_path, table)
    assert list(made.source["labels"]) == ["rude"] and "--labels" in made.left_out[name]
    assert list(drafted(tmp_path, table, labels=(name,)).source["labels"]) == [name]


def test_columns_that_were_named_are_used_or_refused(tmp_path):
    table = long(JUDGED, rude=drawn((0, 1)), why=lambda text, user, row: f"because of {text} {row}")
    with pytest.raises(DataError, match="no column 'mood' for --labels"):
        drafted(tmp_path, table, labels=("rude", "mood"))
    with pytest.raises(DataError, match='column "why" cannot be read as judgements: it holds free text'):
        drafted(tmp_path, table, labels=("rude", "why"))


def test_labels_and_classes_are_not_mixed_silently(tmp_path):
    table = long(JUDGED, rude=drawn((0, 1)), emotion=drawn(["joy", "anger", "fear"], 2))
    made = drafted(tmp_path, table)
    assert list(made.source["labels"]) == ["rude"] and "--labels" in made.left_out["emotion"]
    assert drafted(tmp_path, table, labels=("emotion",)).source["label_column"] == "emotion"
    with pytest.raises(DataError, match="Name one of them"):
        drafted(tmp_path, table, labels=("rude", "emotion"))


def test_questions_of_one_series_have_one_scale(tmp_path):
    made = drafted(tmp_path, long(JUDGED, q1=drawn(range(1, 6)), q2=drawn(range(1, 4), 2), q3=drawn(range(2, 5), 3)))
    assert {tuple(rule["range"]) for rule in made.source["labels"].values()} == {(1, 5)}


def test_scales_are_cut_only_by_request(tmp_path):
    rule, _ = label(tmp_path, [1, 2, 3, 4, 5], at_least=4.0)
    assert rule == {"at_least": 4, "range": [1, 5]}
    with pytest.raises(DataError, match="outside the scale 1 to 5"):
        label(tmp_path, [1, 2, 3, 4, 5], at_least=7.0)


def test_a_question_as_a_name_is_shortened_and_noted(tmp_path):
    question = "How rude do you find this text if you think of your own experience with such texts? " * 3
    made = drafted(tmp_path, long(JUDGED, **{question: drawn((0, 1))}))
    (name,) = made.source["labels"]
    assert len(name) <= 60 and made.source["labels"][name] == {"column": question}
    assert any(name in note for note in made.notes)


def test_a_label_is_called_after_the_one_it_is_about(tmp_path):
    table = long(JUDGED, label=lambda text, user, row: "RUDE", answer=drawn(["accept", "reject", "ignore"]))
    made = drafted(tmp_path, table)
    assert made.source["labels"] == {"RUDE": {"column": "answer", "values": {"accept": 1, "reject": 0}}}
    assert made.source["not_asked"] == ["ignore"]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=40, max_size=90), st.integers(0, 4))
def test_one_more_row_changes_no_reading_of_a_scale(values, more):
    def read(cells):
        return reading_of(Column("q", np.asarray([*map(str, cells), None], dtype=object)[:-1]))

    values = [0, 1, 2, 3, 4, *(1 + each % 4 for each in values)]
    before, after = read(values), read([*values, more])
    assert before is not None and before == after
    without_zero = read([each for each in values if each])
    assert without_zero is not None and without_zero.kind == "ordinal"

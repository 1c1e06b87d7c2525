"""Whatever a table holds, `init` makes an experiment that can be read again, or refuses it in one line."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judged_tables import drawn, long, pairs, written

from beholder.data.splits import ByText
from beholder.datasets.profile.guesses import GivenColumns
from beholder.experiment.config import load_experiment, make_experiment
from beholder.util.errors import BeholderError, DataError
from beholder.workflows.draft_experiment import draft, write
from beholder.workflows.prepare import prepare

pytestmark = pytest.mark.long

NAMES = [
    "text", "comment", "user", "annotator", "rater1", "rater2", "rater3", "label", "value", "q1", "q2", "split",
    "reason", "id",
    "text1", "text2", "annotation_1", "annotation_2", "annotator_1", "annotator_2", "emotions", "a|b", "", "date",
    "mean", "title", "worker", "answer", "none", "judgement", "winner", "response_a", "response_b",
]  # fmt: skip
CELLS = {
    "bit": ("0", "1"), "scale": ("1", "2", "3", "4", "5"), "slider": tuple(map(str, range(0, 101, 7))),
    "words": ("yes", "no", "N/A", ""), "likert": ("agree", "disagree", "neutral"), "people": ("w1", "w2", "w3"),
    "lists": ("joy|anger", "joy", "none"), "json": ('["joy"]', "[]"), "codes": ("-1", "0", "1", "99", ""),
    "mixed": ("1.5", "2", "nan", "é"), "parts": ("train", "test"), "commas": ("0,1", "1,1", "1"), "empty": ("",),
    "dates": ("2024-03-01", "2024-03-02", "2024-03-03"), "same": ("x",), "boxes": ("TRUE", ""),
}  # fmt: skip
JUDGED = pairs(12, 4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    columns=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(list(CELLS)), max_size=7),
    judged=st.booleans(),
    rows=st.sampled_from([0, 1, 3, len(JUDGED)]),
    named=st.lists(st.sampled_from(["text", "user", "labels", "users"]), max_size=2, unique=True),
    data=st.data(),
)
def test_any_table_becomes_an_experiment_or_one_line(columns, judged, rows, named, data, tmp_path):
    cells = {name: drawn(CELLS[kind], place) for place, (name, kind) in enumerate(columns.items())}
    table = long(JUDGED[:rows], **{name: cell for name, cell in cells.items() if name != "text"})
    if not judged:
        table = {name: cell for name, cell in table.items() if name in columns} or {"text": table["text"]}
    given_columns = {
        role: data.draw(st.sampled_from(list(table)))
        if role in ("text", "user")
        else (next(iter(table)), next(iter(table)))
        for role in named
    }
    try:
        made = draft(written(tmp_path / "mine.csv", table), GivenColumns(**given_columns))
        write(made, tmp_path / "mine.yaml")
        experiment = load_experiment(tmp_path / "mine.yaml")
    except BeholderError as error:
        assert "\n" not in str(error) and len(str(error)) > 20
        return
    assert json.dumps(made.facts) and set(made.left_out) <= {*table, "user", "judgement"}
    used = json.dumps(made.source)
    for name in given_columns.values():
        assert all(json.dumps(each)[1:-1] in used for each in ([name] if isinstance(name, str) else name))
    try:
        prepare(experiment, "skip")
    except BeholderError as error:
        assert "\n" not in str(error)


def experiment_on(folder, table, rule):
    source = {
        "name": "table",
        "path": str(written(folder / "mine.csv", table)),
        "user": "annotator",
        "labels": {"q": rule},
    }
    settings = {"name": "x", "source": source, "split": ByText().model_dump(), "methods": {"prior": {}}}
    return make_experiment({**settings, "evaluate": {"reference": "prior"}})


@pytest.mark.parametrize("rule", [{"kind": "ordinal", "range": [1, 9]}, {"kind": "continuous", "range": [0, 100]}])
def test_steps_of_a_scale_may_be_unused_and_a_scale_may_not(rule, tmp_path):
    judged = pairs(60)
    table = long(judged, q=drawn((2, 3, 4)))
    assert prepare(experiment_on(tmp_path, table, rule)).split
    table["q"] = [rule["range"][0]] * len(judged)
    with pytest.raises(DataError, match=r'scale "q" has one answer only'):
        prepare(experiment_on(tmp_path, table, rule))

"""Values of traits as tables hold them: one a person, or one clear refusal."""

from __future__ import annotations

import numpy as np
import pytest

from beholder.adapters.trait_values import require_columns, traits_of
from beholder.adapters.traits import trait_lines
from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.experiment.config import make_experiment
from beholder.methods import config_class
from beholder.util.errors import MethodError
from beholder.workflows.run import prepare


def table(values: dict[str, list], users: list[str] | None = None) -> Annotations:
    rows = len(next(iter(values.values()))) if values else 4
    users = users or [f"u{number // 2}" for number in range(rows)]
    labels = np.ones((rows, 1))
    text = [f"text {number}" for number in range(rows)]
    return Annotations.from_columns(Task(("rude",)), text=text, user_id=users, labels=labels, context=values)


def test_traits_are_read_one_value_a_person_and_missing_ones_left_out():
    rows = table({"gender": ["f", None, " ", "unknown", "m", "m "], "age": [30, 30, 41, 41, None, 50]})
    assert traits_of([rows], ["gender", "age", "not there"]) == {
        "u0": {"gender": "f", "age": "30"},
        "u1": {"age": "41"},
        "u2": {"gender": "m", "age": "50"},
    }
    assert traits_of([rows], ["gender"]) == {"u0": {"gender": "f"}, "u1": {}, "u2": {"gender": "m"}}


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (
            table({"mood": list("abcd")}),
            ["mood"],
            r'"mood" has more than one value for 2 of 2 people\. A trait has one',
        ),
        (
            table({"gender": list("ffmm")}),
            ["gendr"],
            r"context column 'gendr'\. Did you mean 'gender'\? Known: gender\.",
        ),
        (table({}), ["gender"], r"no column 'gender': this data has no context columns"),
        (table({"gender": list("ffmm")}), ["user_id"], r"unknown context column 'user_id'"),
    ],
    ids=["a value a row", "misspelt", "no columns", "not a trait"],
)
def test_columns_that_are_no_traits_are_refused_in_one_line(rows, columns, message):
    with pytest.raises(MethodError, match=message) as caught:
        config_class("cls-u")(bank={"prior": {"traits": columns}}).check_rows(rows)
    assert "\n" not in str(caught.value) and "bank.prior.traits" in str(caught.value)
    assert not any(text in str(caught.value) for text in ("text 0", "u0"))


def test_two_tables_that_disagree_about_a_person_are_refused():
    with pytest.raises(MethodError, match="more than one value for 1 of 2 people"):
        traits_of([table({"gender": list("ffmm")}), table({"gender": ["m"]})], ["gender"])
    require_columns(table({"gender": list("ffmm")}), ["gender"])


@pytest.mark.parametrize(
    ("people", "line"),
    [
        ([{"g": "a"}, {"g": "a"}, {"g": "b"}, {"g": "b"}], "trait g: 2 groups."),
        (
            [{"g": "a"}, {"g": "a"}, {"g": "b"}, {"g": "b"}, {}, {"g": "c"}],
            "trait g: 2 groups; 1 without a value and 1 with a value that nobody else has of 6 people are not shifted.",
        ),
        ([{"g": "a"}], "trait g: without effect, everybody has the same value (1 people)."),
        ([{"g": "a"}, {"g": "b"}], "trait g: without effect, fewer than two of its values are shared by 2 people"),
        ([{}, {}], "trait g: without effect, its value is missing for everybody (2 people)."),
    ],
    ids=["all known", "some missing", "one person", "all differ", "none known"],
)
def test_what_a_trait_comes_to_is_said_in_one_line(people, line):
    (said,) = trait_lines(people, ["g"])
    assert said.startswith(line)


def test_a_run_refuses_a_misspelt_trait_before_anything_is_fitted(tmp_path):
    file = tmp_path / "mine.csv"
    rows = [f"u{i % 6},text {i},{i % 2},{'fm'[i % 2]}" for i in range(60)]
    file.write_text("\n".join(["user_id,text,rude,gender", *rows]) + "\n")
    raw = {
        "name": "x",
        "source": {"name": "table", "path": str(file), "labels": {"rude": {}}, "context": ["gender"]},
        "base": "tiny-bert",
        "methods": {"cls": {}, "cls-u": {"init_from": "cls", "bank": {"prior": {"traits": ["gendre"]}}}},
        "evaluate": {"reference": "cls"},
    }
    with pytest.raises(MethodError, match=r"methods\.cls-u: .*Did you mean 'gender'"):
        prepare(make_experiment(raw))
    raw["methods"]["cls-u"]["bank"]["prior"]["traits"] = ["gender"]
    first = {job.name: job.key for job in prepare(make_experiment(raw)).jobs}
    swapped = [row[:-1] + {"f": "m", "m": "f"}[row[-1]] for row in rows]
    file.write_text("\n".join(["user_id,text,rude,gender", *swapped]) + "\n")
    second = {job.name: job.key for job in prepare(make_experiment(raw)).jobs}
    assert first["cls"] == second["cls"] and first["cls-u"] != second["cls-u"]  # other traits are another fit

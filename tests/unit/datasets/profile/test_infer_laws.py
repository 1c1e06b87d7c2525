"""What must not change the reading of a table: order and names of other columns, ids, one more row."""

from __future__ import annotations

import string
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_tables import drawn, long, pairs

from beholder.datasets.profile.guesses import GivenColumns
from beholder.datasets.profile.infer_columns import infer

pytestmark = pytest.mark.long

JUDGED = pairs(share=0.6)
COLUMNS = {
    "when": lambda text, user, row: f"2024-03-{1 + row % 28:02d} 10:{row % 60:02d}",
    "reason": lambda text, user, row: f"because of a long and winding road that never ends {row}",
    "age": lambda text, user, row: 20 + int(user[1:]) // 2,
    "batch": drawn((1, 2, 3), 5),
    "link": lambda text, user, row: f"https://a.b/{row}",
    "meta": lambda text, user, row: "same",
}
LABELS = {"rude": drawn((0, 1), 1), "funny": drawn((1, 2, 3, 4, 5), 2), "clear": drawn(range(0, 101), 3)}


def inferred(table):
    rows = {name: [str(cell) for cell in cells] for name, cells in table.items()}
    return infer(pa.table(rows), GivenColumns(), Path("mine.csv"))


BASE = inferred(long(JUDGED, **LABELS)).settings


@settings(max_examples=40, deadline=None)
@given(st.permutations([*COLUMNS, *LABELS, "text", "annotator"]), st.sets(st.sampled_from(list(COLUMNS))))
def test_order_and_company_of_columns_change_no_reading(order, some):
    table = long(JUDGED, **COLUMNS, **LABELS)
    made = inferred({name: table[name] for name in order if name not in COLUMNS or name in some}).settings
    made.pop("context", None)
    assert made == BASE or {**made, "labels": dict(sorted(made["labels"].items()))} == {
        **BASE,
        "labels": dict(sorted(BASE["labels"].items())),
    }


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.text(string.ascii_letters + string.digits, min_size=3, max_size=9),
        min_size=6,
        max_size=6,
        unique_by=str.casefold,
    )
)
def test_ids_are_names_only(ids):
    names = {f"w{number}": f"p{each}" for number, each in enumerate(ids)}
    table = long(JUDGED, **LABELS)
    table["annotator"] = [names[user] for user in table["annotator"]]
    assert inferred(table).settings == BASE


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(JUDGED) - 1), st.integers(0, 1), st.integers(1, 5), st.integers(0, 100))
def test_one_row_more_or_less_changes_no_reading(place, rude, funny, clear):
    table = long(JUDGED, **LABELS)
    fewer = {name: [*cells[:place], *cells[place + 1 :]] for name, cells in table.items()}
    assert inferred(fewer).settings == BASE
    more = {
        "text": "sun and rain over the old town 99.",
        "annotator": "w1",
        "rude": rude,
        "funny": funny,
        "clear": clear,
    }
    assert inferred({name: [*cells, more[name]] for name, cells in table.items()}).settings == BASE


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(len(JUDGED))))
def test_the_order_of_rows_changes_no_reading(order):
    table = long(JUDGED, **LABELS)
    assert inferred({name: [cells[row] for row in order] for name, cells in table.items()}).settings == BASE

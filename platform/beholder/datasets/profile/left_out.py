"""Why a column holds no judgements: by its values, by what it follows from, and by its name."""

from __future__ import annotations

import numpy as np

from beholder.datasets.profile.column import Column, follows
from beholder.datasets.profile.names import (
    AUTHOR,
    REASON,
    SPLIT,
    core,
    is_bookkeeping,
    is_derived,
    text_rank,
    user_rank,
)
from beholder.datasets.profile.readings import reading_of
from beholder.datasets.profile.value_forms import form_of, is_prose

AUTHORS = "other people: who wrote the text, by its name"
FEWEST_ROWS = 15


def reason(column: Column, text: Column, user: Column, derived: bool) -> str | None:
    """Why a column holds no judgements, before its values are read; None where it may."""
    if not column.values:
        return "empty"
    if column.nested in ("struct", "binary"):
        return f"holds {column.nested}s, which are not read"
    form = form_of(column.distinct)
    if form in ("dates or times", "addresses of the web", "e-mail addresses", "addresses of computers"):
        return form
    if _numbers_rows(column, user):
        return "numbers of rows, or an order of each person's judgements"
    if {value.casefold() for value in column.values} <= SPLIT and len(column.values) > 1:
        return "names parts, but not one for training and one for test"
    words = set(core(column.name))
    if derived and is_derived(column.name):
        return "computed of the judgements of several people"
    ticked = len(column.values) == 1 and column.missing and reading_of(column) is not None
    if len(column.values) == 1 and not ticked:
        return "the same in every row"
    if words & AUTHOR and user_rank(column.name) < 0.6:
        return AUTHORS
    if follows(column, user) and not ticked:
        same = follows(user, column) and user_rank(column.name) > 0
        return "another id of the user" if same else "follows from the user"
    if follows(column, text) and not ticked:
        if user_rank(column.name) >= 0.6:
            return AUTHORS
        return "follows from the text: all who judged it have the same value"
    if is_prose(column.distinct) and reading_of(column) is None:
        return "free text: reasons or remarks" if words & REASON else "another text"
    if is_prose(column.distinct) and text_rank(column.name) >= 0.2:
        return "another text"
    if user_rank(column.name) >= 0.6 and (not column.numeric or reading_of(column) is None):
        return AUTHORS
    if is_bookkeeping(column.name):
        return "came with the collection, by its name; if people judged it: --labels"
    if words & REASON and text_rank(column.name) < 0.8 and reading_of(column) is None:
        return "free text: reasons or remarks"
    return None


def _numbers_rows(column: Column, user: Column) -> bool:
    """Whether a column counts: whole numbers, each once in the table or once for each person, without gaps."""
    if not column.numeric or (column.as_numbers % 1 != 0).any() or len(column.filled) < FEWEST_ROWS:
        return False
    if len(column.distinct) == len(column.filled):
        return True
    both = (column.codes >= 0) & (user.codes >= 0)
    numbers, who = column.as_numbers[column.codes[both]], user.codes[both]
    if len(column.distinct) < 12 or len(np.unique(numbers + who * 1e9)) < len(numbers):
        return False
    lows, highs = (
        np.asarray([ufunc.reduce(numbers[who == each]) for each in np.unique(who)[:200]])
        for ufunc in (np.minimum, np.maximum)
    )
    counts = np.asarray([(who == each).sum() for each in np.unique(who)[:200]])
    return bool((highs - lows + 1 == counts).all())

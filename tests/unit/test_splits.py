"""Splits keep their parts apart, can be rebuilt, and refuse what cannot be split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from beholder.annotations import Annotations, Task, normalise
from beholder.errors import SplitError
from beholder.splits import PARTS, ByColumn, ByNewUsers, ByPaper, ByText, split


def annotations(texts, users, **context) -> Annotations:
    labels = np.arange(len(texts), dtype=float)[:, None] % 2
    ids = [f"t{i}" for i in range(len(texts))]
    return Annotations.from_columns(
        Task(("angry",)), text=texts, user_id=users, labels=labels, text_id=ids, context=context
    )


def crowd(texts=200, users=6, seed=0) -> Annotations:
    rng = np.random.default_rng(seed)
    pairs = [(f"text number {t}", f"u{u}") for t in range(texts) for u in rng.permutation(users)[:3]]
    return annotations([text for text, _ in pairs], [user for _, user in pairs])


VARIANTS = ("{}", " {} ", "{}\u00a0", "\u200a{}")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.text("abcÄ ", min_size=1, max_size=6), st.sampled_from(VARIANTS)), min_size=30),
    st.integers(0, 99),
)
def test_equal_texts_fall_into_one_part(written, seed):
    texts = [variant.format(text) + "." for text, variant in written]
    rows = annotations([*texts, *(text.upper() for text in texts)], ["u"] * 2 * len(texts))
    config = ByText(fractions=(0.4, 0.3, 0.3), seed=seed)
    assigned = config.assign(rows)
    part_of: dict[str, set[str]] = {}
    for text, part in zip(rows.texts, assigned, strict=True):
        part_of.setdefault(normalise(text), set()).add(part)
    assert all(len(parts) == 1 for parts in part_of.values())


def test_a_split_by_text_is_disjoint_whole_seeded_and_hashed():
    rows = crowd()
    first, again, other = split(rows, ByText()), split(rows, ByText()), split(rows, ByText(seed=7))
    assert sorted(np.concatenate([first[part] for part in PARTS])) == list(range(len(rows)))
    assert first.leaked == 0
    assert first.hash == again.hash != other.hash
    assert 0.7 < len(first["train"]) / len(rows) < 0.9


def test_the_hash_does_not_depend_on_the_order_of_rows():
    rows = crowd()
    backwards = rows.select(np.arange(len(rows))[::-1])
    assert split(rows, ByText()).hash == split(backwards, ByText()).hash


def test_a_text_stays_in_its_part_when_the_data_grow():
    small, large = crowd(texts=100), crowd(texts=300)
    part = {text: p for text, p in zip(large.texts, ByText().assign(large), strict=True)}
    assert all(part[text] == p for text, p in zip(small.texts, ByText().assign(small), strict=True))


def test_a_split_by_column_follows_the_table_and_tells_what_leaks():
    rows = annotations(["a", "b", "c", "A ", "d"], list("uvwxy"), split=["train", "train", "dev", "test", "test"])
    made = split(rows, ByColumn(by="column"))
    assert [list(made[part]) for part in PARTS] == [[0, 1], [2], [3, 4]]
    assert made.leaked == 0.5


def test_a_column_that_is_missing_or_says_something_else_is_refused():
    rows = annotations(["a", "b"], ["u", "v"], spilt=["train", "holdout"])
    with pytest.raises(SplitError, match=r"Did you mean 'spilt'"):
        split(rows, ByColumn(by="column"))
    with pytest.raises(SplitError, match=r'row 2, column "spilt": \'holdout\''):
        split(rows, ByColumn(by="column", column="spilt"))


def test_an_empty_part_is_refused_with_the_sizes():
    with pytest.raises(SplitError, match=r"no rows are left for .*train 1"):
        split(annotations(["only one"], ["u"]), ByText(seed=0))


def test_fractions_must_add_up():
    with pytest.raises(ValidationError, match="add up to 1"):
        ByText(fractions=(0.8, 0.1, 0.2))


def paper_rows() -> Annotations:
    """One busy user, three ordinary ones, one who is nearly idle, one without any test row."""
    texts, users, parts = [], [], []
    for user, rows in {"busy": 1000, "a": 300, "b": 300, "c": 300, "idle": 9, "no-test": 300}.items():
        for i in range(rows):
            texts.append(f"{user} {i}")
            users.append(user)
            official = ("train", "train", "train", "val", "test", "")[i % 6]
            parts.append("train" if user == "no-test" and official == "test" else official)
    return annotations(texts, users, official_split=parts)


def test_the_papers_protocol_crops_by_activity_and_keeps_users_present_everywhere():
    rows = paper_rows()
    made = split(rows, ByPaper(by="paper"))
    kept = np.concatenate([made[part] for part in PARTS])
    users, counts = np.unique(rows.user_ids[kept].astype(str), return_counts=True)
    assert set(users) == {"busy", "a", "b", "c"}
    official = sum(
        1 for user, part in zip(rows.user_ids, rows.column("official_split"), strict=True) if user == "busy" and part
    )
    assert counts[list(users).index("busy")] == int(0.6 * official)
    assert counts[list(users).index("a")] == 250
    assert made.hash == split(paper_rows(), ByPaper(by="paper")).hash
    assert made.hash != split(rows, ByPaper(by="paper", seed=1)).hash


def test_new_users_are_unseen_in_training_and_bring_rows_to_enrol():
    rows = crowd(texts=400, users=10)
    made = split(rows, ByNewUsers(by="new-users", enrol=5))
    users = {name: set(rows.user_ids[made[name]]) for name in made.parts}
    assert not users["train"] & users["test"]
    assert users["enrol"] == users["test"]
    assert len(made["enrol"]) == 5 * len(users["test"])
    texts = {name: set(rows.texts[made[name]]) for name in made.parts}
    assert not texts["test"] & (texts["train"] | texts["enrol"])

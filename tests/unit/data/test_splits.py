"""Splits keep their parts apart, can be rebuilt, and refuse what cannot be split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from beholder.data.annotations import Annotations
from beholder.data.splits import CELLS, PARTS, ByColumn, ByNewUsers, ByPaper, ByPeople, ByText, split
from beholder.data.task import Task
from beholder.data.texts import normalise, trimmed
from beholder.util.errors import SplitError


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


VARIANTS = ("{}", " {} ", "{}\u00a0", "\u200a{}", "{}!!", "«{}»", "... {}", "{} ?", "({}.)")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.text("abcÄ ", min_size=1, max_size=6), st.sampled_from(VARIANTS)), min_size=30),
    st.integers(0, 99),
)
def test_equal_texts_fall_into_one_part(written, seed):
    texts = [variant.format(f"a{text}") for text, variant in written]
    rows = annotations([*texts, *(text.upper() for text in texts)], ["u"] * 2 * len(texts))
    config = ByText(fractions=(0.4, 0.3, 0.3), seed=seed)
    assigned = config.assign(rows)
    part_of: dict[str, set[str]] = {}
    for text, part in zip(rows.texts, assigned, strict=True):
        part_of.setdefault(trimmed(text), set()).add(part)
    assert len(part_of) == len({normalise(f"a{text}") for text, _ in written})
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


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.floats(0.05, 0.6), st.permutations(range(300)))
def test_validation_is_cut_from_training_texts_where_a_column_marks_none(seed, share, order):
    rows = crowd(100)
    marked = rows.with_column("split", ["test" if text.endswith("7") else "train" for text in rows.texts])
    config = ByColumn(by="column", valid=share, seed=seed)
    assigned = config.assign(marked)
    assert ((assigned == "test") == [text.endswith("7") for text in rows.texts]).all()
    parts = {part: set(rows.texts[assigned == part]) for part in ("train", "valid")}
    assert not parts["train"] & parts["valid"]
    assert (config.assign(marked.select(order)) == assigned[list(order)]).all()
    fewer = marked.select(order[:200])  # a text stays where it is
    assert (config.assign(fewer) == assigned[list(order[:200])]).all()


def test_validation_that_is_marked_stays_and_none_at_all_is_refused_with_the_remedy():
    rows = crowd(30)
    parts = np.resize(["train", "training", "dev", "test"], len(rows)).tolist()
    assert (ByColumn(by="column", valid=0.5).assign(rows.with_column("split", parts)) == "valid").sum() == parts.count(
        "dev"
    )
    with pytest.raises(SplitError, match=r"no rows are left for valid.*Set split.valid"):
        split(rows.with_column("split", ["train", "test"] * (len(rows) // 2)), ByColumn(by="column"))
    with pytest.raises(ValidationError, match=r"split.seed is of the draw of split.valid"):
        ByColumn(by="column", seed=3)
    assert ByColumn(by="column").model_dump() == {"by": "column", "column": "split"}


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


def people(**settings) -> ByPeople:
    return ByPeople(by="people", **settings)


def test_splits_of_other_kinds_keep_their_hashes():
    rows = crowd(texts=400, users=10)
    assert split(rows, ByText(key=1)).hash[:16] == "9d78cdf229fd862e"
    assert split(rows, ByNewUsers(by="new-users", enrol=5, key=1)).hash[:16] == "de24acc01be18118"


def test_how_texts_were_told_apart_before_is_recorded_and_can_be_asked_for():
    """Bundles of before hold no `key`: what is learned later leaves their test texts alone under theirs."""
    texts = [f"{word}{end}" for word in ("yes", "no", "so", "oh", "well", "right") for end in ("", ".", "!", "?!")]
    rows = annotations(texts, ["u"] * len(texts))
    before, now = (ByText(key=key, fractions=(0.4, 0.3, 0.3)).assign(rows) for key in (1, 2))
    assert any(len(each) > 1 for each in map(set, np.asarray(before).reshape(6, 4)))
    assert all(len(set(each)) == 1 for each in np.asarray(now).reshape(6, 4))
    assert split(rows, ByText(key=1, fractions=(0.4, 0.3, 0.3))).leaked > 0
    with pytest.raises(ValidationError, match=r"near_copies needs split\.key: 2"):
        ByText(key=1, near_copies=0.8)


def test_a_refresh_of_a_bundle_of_before_leaves_its_test_texts_alone(tmp_path, monkeypatch):
    from beholder.lifecycle.refresh import with_earlier
    from beholder.registry.manifest import Manifest
    from beholder.workflows.run import Silent

    monkeypatch.setenv("BEHOLDER_HOME", str(tmp_path))
    rows = crowd(texts=300)
    rows = annotations([f"{text}." for text in rows.texts], list(rows.user_ids))
    said = {"by": "text", "fractions": [0.8, 0.1, 0.1], "seed": 42}
    for split_, config in ((said, ByText(key=1)), (said | {"key": 2, "near_copies": None}, ByText())):
        parts, left = with_earlier(rows, Manifest({"run": "gone", "split": split_}), Silent())
        made = split(rows, config)
        assert {name: set(part.texts) for name, part in parts.items()} == {
            name: set(rows.texts[made[name]]) for name in ("train", "valid")
        }
        assert left == len(made["test"]) > 0
    assert ByText(key=1).assign(rows).tolist() != ByText().assign(rows).tolist()


def near(rows: Annotations, similarity: float) -> Annotations:
    return ByText(near_copies=similarity).prepared(rows)


def test_near_copies_fall_into_one_part_and_count_as_one_text():
    rng = np.random.default_rng(0)
    words = np.asarray([f"{a}{b}" for a in ("ka", "li", "mo", "ru", "te") for b in ("s", "n", "rt", "lm", "ck")])
    stems = [" ".join(words[rng.integers(0, 25, 16)]) for _ in range(60)]
    texts = [text for stem in stems for text in (stem, f"RT @{stem} #now", stem.replace(stem.split()[8], "xx", 1))]
    rows = annotations(texts, ["u"] * len(texts))
    assert len(set(rows.text_keys)) == 180
    grouped = near(rows, 0.6)
    keys = grouped.text_keys.reshape(60, 3)
    assert all(len(set(each)) == 1 for each in keys) and len(set(keys[:, 0])) == 60
    assigned = ByText(near_copies=0.6, fractions=(0.4, 0.3, 0.3)).assign(grouped).reshape(60, 3)
    assert all(len(set(each)) == 1 for each in assigned) and len(set(assigned[:, 0])) == 3
    assert near(rows, 0.99).text_keys.tolist() == rows.text_keys.tolist()  # nobody's copy: keys are as without
    backwards = near(rows.select(np.arange(len(rows))[::-1]), 0.6)
    assert backwards.text_keys[::-1].tolist() == grouped.text_keys.tolist()


def test_short_texts_are_no_near_copies_and_a_copy_of_a_copy_is_of_the_group():
    short = annotations(["yes yes yes yes", "yes yes yes yes!", "yes yes yes no"], ["u"] * 3)
    assert near(short, 0.3).text_keys.tolist() == short.text_keys.tolist()
    chain = ["abcdefghij klmnopqrst uvwxyz 0123456789"]
    for place in (2, 14, 30):
        chain.append(f"{chain[-1][:place]}-{chain[-1][place:]}")
    rows = annotations(chain, ["u"] * 4)
    assert len(set(near(rows, 0.7).text_keys)) == 1
    first_and_last = annotations([chain[0], chain[-1]], ["u"] * 2)
    assert len(set(near(first_and_last, 0.7).text_keys)) == 2


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 999),
    share=st.floats(0.2, 0.6),
    aside=st.sampled_from([0.0, 0.1, 0.4]),
    texts=st.sampled_from(["unseen", "seen"]),
)
def test_a_split_by_people_keeps_people_and_texts_apart_and_drops_no_row(seed, share, aside, texts):
    rows = crowd(texts=120, users=60, seed=seed)
    written = [(text, text.upper(), f"{text} ")[row % 3] for row, text in enumerate(rows.texts)]
    rows = annotations(written, list(rows.user_ids))
    config = people(seed=seed, people=share, seen_texts=aside, texts=texts)
    made = split(rows, config)
    assert sorted(np.concatenate(list(made.parts.values()))) == list(range(len(rows)))
    who = {name: set(rows.user_ids[part]) for name, part in made.parts.items()}
    what = {name: {trimmed(text) for text in rows.texts[part]} for name, part in made.parts.items()}
    new = who["test"] | who["enrol"] | who.get("seen_texts", set()) | who.get("unseen_texts", set())
    assert not new & (who["train"] | who["valid"] | who.get("seen_people", set()) | who.get("seen_both", set()))
    assert not what["test"] & (what["valid"] | what["enrol"]) and not what["train"] & what["valid"]
    for name in ("seen_texts", "seen_both"):
        assert what.get(name, set()) <= what["train"]
    for name in ("seen_people", "unseen_texts"):
        assert not what.get(name, set()) & (what["train"] | what["valid"] | what["enrol"])
    assert what["test"] <= what["train"] if texts == "seen" else not what["test"] & what["train"]
    assert made.leaked == (1 if texts == "seen" else 0)
    assert aside > 0 or not {"seen_texts", "seen_both"} & set(made.parts)


def test_a_split_by_people_is_the_same_again_in_any_order_of_rows_and_another_under_another_seed():
    rows = crowd(texts=200, users=30)
    backwards = rows.select(np.arange(len(rows))[::-1])
    made = split(rows, people())
    assert made.hash == split(backwards, people()).hash != split(rows, people(seed=1)).hash
    assert set(made.parts) == {*PARTS, "enrol", "seen_people", "seen_texts", "seen_both"}
    assert set(made.parts) - {*PARTS, "enrol"} <= set(CELLS)


def test_people_and_their_texts_stay_where_they_are_when_the_data_grow():
    small = crowd(texts=100, users=30)
    more = crowd(texts=300, users=60, seed=1)
    texts, users = [*small.texts, *more.texts], [*small.user_ids, *more.user_ids]
    large = annotations(texts, users)
    before, after = people().assign(small), people().assign(large)[: len(small)]
    assert (before == after)[np.isin(before, ["test", "seen_people", "valid"])].all()
    new = np.asarray([people().holds_out(user) for user in small.user_ids])
    assert set(after[new]) <= {"test", "enrol", "seen_texts"}
    assert set(after[~new]) <= {"train", "valid", "seen_people", "seen_both"}


@given(st.permutations(range(60)), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_order_of_a_persons_judgements_is_their_own(order, seed):
    rows = crowd(texts=40, users=6).select(range(60))
    mixed = rows.select(order)
    turns, again = people(seed=seed).turns(rows), people(seed=seed).turns(mixed)
    assert (turns[list(order)] == again).all()
    for user in rows.users:
        own = rows.user_ids == user
        assert sorted(turns[own]) == list(range(own.sum()))
        alone = rows.select(np.flatnonzero(own))
        assert (people(seed=seed).turns(alone) == turns[own]).all()


def test_the_order_depends_on_the_seed():
    rows = crowd(texts=40, users=6)
    assert (people(seed=0).turns(rows) != people(seed=1).turns(rows)).any()


@pytest.mark.parametrize("adapt", [(), (1, 2), (0, 2, 2), (0, 5, 1), (-1, 0)])
def test_numbers_to_adapt_on_rise_from_zero(adapt):
    with pytest.raises(ValidationError, match="rising numbers from 0"):
        people(adapt=adapt)


@pytest.mark.parametrize(
    ("texts", "users", "config", "message"),
    [
        (50, 1, {}, r"there are 1 people, fewer than 3.*Split by text"),
        (50, 2, {}, r"there are 2 people, fewer than 3"),
        (50, 4, {"people": 0.001}, r"0 of 4 people are held out with people: 0.001 and seed: 42.*split.seed"),
        (50, 4, {"people": 0.999}, r"4 of 4 people are held out"),
        (50, 9, {"fractions": (0.98, 0.01, 0.01), "seed": 3}, r"no rows are left for (valid|test)"),
    ],
)
def test_what_cannot_be_split_by_people_is_refused_in_one_line(texts, users, config, message):
    pairs = [(t, u) for t in range(texts) for u in range(users)]
    rows = annotations([f"text {t}" for t, _ in pairs], [f"u{u}" for _, u in pairs])
    with pytest.raises(SplitError, match=message) as refused:
        split(rows, people(**config))
    assert "\n" not in str(refused.value)


def test_people_who_leave_nothing_to_measure_are_refused():
    """Held-out people who judged tested texts only, and one alone who judged any."""
    config = people(fractions=(0.4, 0.2, 0.4))
    texts = [f"text {t}" for t in range(60)]
    tested = [
        text
        for text, part in zip(
            texts, ByText(fractions=config.fractions).assign(annotations(texts, ["u"] * 60)), strict=True
        )
        if part == "test"
    ]
    users = [f"u{u}" for u in range(40)]
    new = [user for user in users if config.holds_out(user)]
    trained = [(text, user) for text in texts for user in users if user not in new]

    def made(pairs):
        return split(annotations(*zip(*[*trained, *pairs], strict=True)), config)

    only_tested = [(text, user) for text in tested for user in new]
    with pytest.raises(SplitError, match=rf"none of the {len(new)} people tested has a judgement to adapt on"):
        made(only_tested)
    with pytest.raises(SplitError, match=r"only 1 of the people held out has test rows"):
        made([(text, user) for text in texts for user in new if user == new[0] or text not in tested])
    assert len(made([*only_tested, *[(text, new[0]) for text in texts if text not in tested]])["enrol"]) > 0

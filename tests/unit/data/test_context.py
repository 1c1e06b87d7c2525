"""A text and its context: templates over columns, units of a split, and how a base reads the two."""

from __future__ import annotations

import numpy as np
import pytest

from beholder.data.splits import ByText, split
from beholder.datasets.table import Table, load
from beholder.models.loading import load_base
from beholder.models.tokenization import encode
from beholder.prompting.wording import with_user
from beholder.util.errors import DataError, SplitError

ROWS = [("post one", "a reply", "u"), ("post one", "another", "v"), ("", "a comment", "u"), ("post two", "third", "v")]


def table(tmp_path, rows=ROWS, **more):
    file = tmp_path / "rows.csv"
    lines = ["post,reply,who,rude"] + [
        f'"{post}","{reply}",{who},{place % 2}' for place, (post, reply, who) in enumerate(rows)
    ]
    file.write_text("\n".join(lines) + "\n")
    settings = {"text": "{post} [SEP] {reply}", "user": "who", "labels": ["rude"], **more}
    return Table(path=file, **settings)


def test_a_template_joins_context_and_text_and_leaves_an_empty_context_out(tmp_path):
    rows = load(table(tmp_path)).annotations
    assert list(rows.texts) == [
        "post one [SEP] a reply",
        "post one [SEP] another",
        "a comment",
        "post two [SEP] third",
    ]
    assert list(load(table(tmp_path, text="{post}[SEP]{reply}")).annotations.texts) == list(rows.texts)


def test_a_separator_within_a_column_is_none(tmp_path):
    rows = load(table(tmp_path, [("a [SEP] b", "c [SEP] d", "u"), ("x", "y", "v")])).annotations
    assert [text.count("[SEP]") for text in rows.texts] == [1, 1]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{post} [SEP] {replie}", r"unknown column 'replie'"),
        ("{post} [SEP]", r"each part names a column in braces"),
        ("{post!r} [SEP] {reply}", r"without ! and : behind it"),
        ("{post", r"source.text: .* Write it as in"),
        ("{} [SEP] {reply}", r"each part names a column"),
    ],
)
def test_a_template_that_cannot_be_meant_is_one_line(tmp_path, template, message):
    with pytest.raises(DataError, match=message) as caught:
        load(table(tmp_path, text=template))
    assert "\n" not in str(caught.value)


def test_what_is_judged_cannot_be_empty(tmp_path):
    with pytest.raises(DataError, match=r'row 2, column "reply": empty, and source.text needs it'):
        load(table(tmp_path, [("a", "b", "u"), ("c", "", "v")]))


def test_rows_of_a_unit_stay_together_and_an_empty_unit_is_refused(tmp_path):
    rows = [(f"post {place % 40}", f"reply {place}", f"u{place % 5}") for place in range(400)]
    annotations = load(table(tmp_path, rows, unit="post")).annotations
    made = split(annotations, ByText(fractions=(0.6, 0.2, 0.2), seed=1))
    posts = np.asarray([text.partition(" [SEP]")[0] for text in annotations.texts])
    parts = [set(posts[made.parts[name]]) for name in ("train", "valid", "test")]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert len(set(annotations.same_texts)) == 400 and len(set(annotations.text_keys)) == 40
    with pytest.raises(DataError, match=r'row 3, column "post": empty, and rows are split by it'):
        load(table(tmp_path, unit="post"))
    with pytest.raises(SplitError, match=r"source.unit states which rows stay together"):
        ByText(near_copies=0.8).prepared(annotations)


@pytest.mark.parametrize("base", ["tiny-bert", "tiny-llama", "tiny-t5", "minilm-l6"])
def test_a_base_reads_two_segments_apart_and_others_as_ever(base):
    tokenizer = load_base(base).tokenizer
    text, reply = "hello there my friend how are you today", "good bye"
    plain = tokenizer(text)["input_ids"]
    assert encode(tokenizer, [text], 512).tokens[0] == plain
    both = encode(tokenizer, [f"{text} [SEP] {reply}"], 512).tokens[0]
    shown = tokenizer.decode(both)
    assert text.split()[-1] in shown and f"{text}{reply}" not in shown.replace(" ", "  ")
    alone = tokenizer(reply, add_special_tokens=False)["input_ids"]
    short = encode(tokenizer, [f"{text} [SEP] {reply}"], len(both) - 4).tokens[0]
    assert len(short) == len(both) - 4 and short[-len(alone) - 1 :] == both[-len(alone) - 1 :]
    assert [token for token in plain[:1] if token in tokenizer.all_special_ids] == [
        token for token in short[:1] if token in tokenizer.all_special_ids
    ]


def test_a_user_who_is_plain_text_stands_with_what_is_judged():
    assert with_user("a post [SEP] a reply", 3) == "a post [SEP] user 3: a reply"
    assert with_user("a text", 3) == "user 3: a text"

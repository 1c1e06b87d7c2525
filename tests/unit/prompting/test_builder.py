"""What a model is told: whose words, of which rows, in which parts; and how its answers are read back."""

from __future__ import annotations

import string

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_rows import LABELS, rows_of

from beholder.data.annotations import Annotations
from beholder.data.task import Task
from beholder.data.texts import normalise
from beholder.methods import config_class
from beholder.prompting.builder import Prompter
from beholder.prompting.config import ORDER, PromptSettings
from beholder.prompting.few_shot import FewShotExamples
from beholder.prompting.label_text import LabelWords
from beholder.prompting.prompted_model import Prompted
from beholder.prompting.wording import FOLDER, load_wording, wordings
from beholder.training.context import Context
from beholder.util.errors import ExperimentError

WORDS = LabelWords(LABELS)
quick = settings(max_examples=40, deadline=None)


@pytest.mark.parametrize(
    ("answer", "labels"),
    [
        *[
            (said, {"anger"})
            for said in ("Anger.", " - anger", "ANGER", "anger", '"anger"', "**Anger**", "Labels: anger")
        ],
        ("1. anger\n2) very sad", {"anger", "very_sad"}),
        ('["joy", "very_sad"]', {"joy", "very_sad"}),
        ("{'labels': ['anger', 'joy']}", {"anger", "joy"}),
        ("* Joy\n* Anger\n", {"joy", "anger"}),
        ("joy/anger; very-sad", {"joy", "anger", "very_sad"}),
        ("“joy” and anger, anger", {"joy", "anger"}),
        ("None.", set()),
        ("none, but joy", {"joy"}),
        ("very\nsad", None),
        ("angered, enjoyed, nonetheless", None),
        ("", None),
    ],
)
def test_answers_are_read_however_they_are_written(answer, labels):
    read = WORDS.read(answer)
    assert read is None if labels is None else {LABELS[place] for place in np.flatnonzero(read)} == labels


def test_answers_say_which_label_they_name_first():
    assert WORDS.named("joy, then anger, joy") == [1, 0]


names = st.lists(st.text(alphabet="abcABC_ éßñक्ष.", min_size=1, max_size=8), min_size=1, max_size=5, unique=True).map(
    tuple
)


@quick
@given(names, st.data())
def test_what_is_written_is_read_back_whatever_the_labels_are_called(labels, data):
    words = LabelWords(labels)
    try:
        words.require_readable(with_none=True)
    except ExperimentError as error:
        assert "\n" not in str(error) and any(repr(label) in str(error) for label in labels)
        return
    given_labels = np.asarray(data.draw(st.tuples(*[st.booleans()] * len(labels))))
    np.testing.assert_array_equal(words.read(words.write(given_labels)), given_labels)


@pytest.mark.parametrize(
    "shout", [str.upper, str.title, lambda said: said.replace(", ", "\n- "), lambda said: f"[{said}]"]
)
def test_a_name_that_holds_another_counts_for_itself_alone(shout):
    words = LabelWords(("hate", "hate speech", "speech", "no hate speech"))
    for number in range(16):
        asked = np.asarray([bool(number >> place & 1) for place in range(4)])
        np.testing.assert_array_equal(words.read(shout(words.write(asked))), asked)


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (("very_angry", "very angry"), "multilabel", "reads like the label"),
        (("c", "c++"), "multilabel", "'c\\+\\+' reads like the label 'c'"),
        (("anger", "None"), "multilabel", "word for no label, 'none', reads like the label 'None'"),
        (("👍", "anger"), "multiclass", "'👍' has neither letters nor digits"),
    ],
)
def test_labels_that_cannot_be_told_apart_in_an_answer_are_refused(labels, kind, message):
    with pytest.raises(ExperimentError, match=message) as caught:
        Prompter(Task(labels, kind), PromptSettings(), None, personal=False, seed=0)
    assert "\n" not in str(caught.value)


def test_a_class_may_be_called_none():
    Prompter(Task(("anger", "none"), "multiclass"), PromptSettings(), None, personal=False, seed=0)


# Rows whose texts, users and facts can be told apart in any prompt, and texts that differ in case alone.
TEXTS = [f"{mark}{letter} said so" for letter in string.ascii_lowercase[:6] for mark in ("<T>", "<t>")]
USERS = ["ann@home", "bob@home", "cyd@home"]


@st.composite
def judged(draw, min_rows=1) -> Annotations:
    """Some judgements by three users, with context columns."""
    chosen = draw(
        st.lists(
            st.tuples(st.sampled_from(USERS), st.sampled_from(TEXTS), st.tuples(*[st.sampled_from([0.0, 1.0])] * 3)),
            min_size=min_rows,
            max_size=16,
            unique_by=lambda each: (each[0], normalise(each[1])),
        )
    )
    users, texts, labels = zip(*chosen, strict=True)
    context = {
        "age_group": [f"age of {USERS.index(user)}" for user in users],
        "mood": [f"mood of row {row}" for row in range(len(users))],
        "worker": list(users),
        "country": ["everywhere"] * len(users),
    }
    return Annotations.from_columns(
        Task(LABELS), text=list(texts), user_id=list(users), labels=np.asarray(labels), context=context
    )


choices = st.sampled_from(["random", "similar", "divisive"])
blocks = st.lists(st.sampled_from(ORDER), unique=True).map(tuple)


@quick
@given(judged(), choices, st.integers(0, 5), st.booleans(), st.integers(0, 3), st.sampled_from([*TEXTS, "new"]))
def test_examples_are_training_rows_of_whom_they_should_be_and_never_the_text_itself(
    train, choose, shots, own, seed, text
):
    for user in [*USERS, "stranger"]:
        rows = FewShotExamples(train, choose, shots, own, seed).of(user, text)
        shown = [normalise(train.texts[row]) for row in rows]
        assert len(set(shown)) == len(shown) <= shots
        assert normalise(text) not in shown
        assert all((train.user_ids[row] == user) == own for row in rows)
        there = {
            normalise(said)
            for said, who in zip(train.texts, train.user_ids, strict=True)
            if (who == user) == own and normalise(said) != normalise(text)
        }
        assert len(shown) == min(shots, len(there))
        assert rows == FewShotExamples(train, choose, shots, own, seed).of(user, text)


def test_the_seed_chooses_random_examples():
    train = rows_of(8)
    chosen = {tuple(FewShotExamples(train, "random", 3, True, seed).of("ann@home", "new")) for seed in range(8)}
    assert len(chosen) > 3


def test_similar_examples_share_words_and_divisive_ones_differ_from_everybody():
    texts = ["the cat sat", "stocks fell again", "a quiet day"]
    labels = np.asarray([[0.0], [1.0], [0.0]] + [[0.0], [0.0], [0.0]] * 3)
    train = Annotations.from_columns(
        Task(("rude",)), text=texts * 4, user_id=[user for user in "abcd" for _ in texts], labels=labels
    )
    assert FewShotExamples(train, "similar", 1, True, 0).of("a", "this cat sat down") == [0]
    assert FewShotExamples(train, "divisive", 1, True, 0).of("a", "new") == [1]
    assert train.texts[FewShotExamples(train, "similar", 1, False, 0).of("a", "stocks rise")[0]] == texts[1]


@quick
@given(judged(), choices, st.integers(0, 4), blocks, st.sampled_from(["before", "after"]), st.sampled_from(TEXTS))
def test_told_the_user_or_not_a_prompt_is_the_same_but_for_the_users_blocks(
    train, choose, shots, some, placement, text
):
    asked = PromptSettings(blocks=some, shots=shots, choose=choose, placement=placement)
    told, plain = (Prompter(train.task, asked, train, personal, seed=1) for personal in (True, False))
    for user in USERS:
        one, other = told.prompt(text, user), plain.prompt(text, user)
        for part in ("instruction", "text", "answer", "user_first"):
            assert getattr(one, part) == getattr(other, part)
        assert "".join(one.parts).replace(one.user, "", 1) == "".join(other.parts).replace(other.user, "", 1)
        first, second = (one.user, one.text) if placement == "before" else (one.text, one.user)
        assert "".join(one.parts) == one.instruction + first + second + one.answer
        assert [name for name, _ in other.blocks] in ([], ["examples"])


@quick
@given(judged(), blocks, st.integers(1, 4), choices, st.sampled_from(wordings()), st.booleans())
def test_blocks_stand_alone_or_together_and_say_no_ids(train, some, shots, choose, wording, personal):
    asked = PromptSettings(wording=wording, blocks=some, shots=shots, choose=choose)
    prompter = Prompter(train.task, asked, train, personal, seed=0)
    for user in [*USERS, "stranger"]:
        prompt = prompter.prompt("<T>g what is asked", user)
        said = "".join(prompt.parts)
        assert not any(each in said for each in [*USERS, "stranger", "everywhere"])
        assert "mood of" not in said or len(train) == len(train.users)  # one value a user, by chance
        assert all(line.endswith("\n") for _, lines in prompt.blocks for line in lines)
        there = {name for name, _ in prompt.blocks}
        known = personal and user in train.users
        mine = {each for each in some if known and each in ("id", "statistics")}
        assert there - {"examples", "profile"} == mine
        if known and "profile" in some and len(train.users) > 1:
            assert f"age of {USERS.index(user)}" in said
        assert "profile" not in there or known
        assert "examples" not in there or "examples" in some


def test_each_block_says_what_it_is_for():
    train = rows_of(4)
    parts = {
        block: Prompter(train.task, PromptSettings(blocks=(block,), shots=2), train, True, 0)
        .prompt("new", "bob@home")
        .user
        for block in ORDER
    }
    assert parts["id"] == "Reader: 1\n"
    assert "age group 30" in parts["profile"] and "row" not in parts["profile"]
    # anger in 2 of 4 rows, joy in none, sad in all; and one row more at everybody's rates
    assert "anger 50%, joy 0%, very sad 90%" in parts["statistics"]
    assert parts["examples"].splitlines()[0] == "What this reader said of other texts:"
    assert len(parts["examples"].splitlines()) == 3


@pytest.mark.parametrize("method", ["query", "query-p", "lm", "lm-p"])
def test_no_text_of_validation_or_test_is_in_a_prompt_about_another(method, monkeypatch):
    """Of all prompts a method makes, from fit to scores: what is asked about is named once, the rest is training's."""
    parts = {}
    for part in ("train", "valid", "test"):
        rows = rows_of(4)
        parts[part] = Annotations.from_columns(
            rows.task,
            text=[f"{part} {text}" for text in rows.texts],
            user_id=list(rows.user_ids),
            labels=rows.labels.astype(float),
        )
    made: list[tuple[str, str]] = []
    whole = Prompter.prompt

    def listening(self, text, user):
        prompt = whole(self, text, user)
        if text:  # without one, only lengths are measured
            made.append((text, "".join(prompt.parts)))
        return prompt

    monkeypatch.setattr(Prompter, "prompt", listening)
    more = {"epochs": 1} if method.startswith("lm") else {}
    config = config_class(method)(prompt={"shots": 3, "blocks": ("id", "statistics", "examples")}, **more)
    fitted = config.fit(parts["train"], parts["valid"], Context(base="tiny-llama"))
    fitted.score(list(parts["test"].texts), list(parts["test"].user_ids))
    assert isinstance(fitted.prompted, Prompted)
    assert {text.split()[0] for text, _ in made} == ({"train", "valid", "test"} if more else {"valid", "test"})
    for text, prompt in made:
        for word in ("valid", "test"):
            assert prompt.count(f"{word} text") == text.count(word)
        assert prompt.count("train text") == 3 + text.count("train")


@pytest.mark.parametrize("name", wordings())
def test_every_wording_that_ships_is_whole(name):
    wording = load_wording(name)
    assert wording.version >= 1 and len(wording.digest) == 64
    train = rows_of(2)
    prompt = Prompter(train.task, PromptSettings(wording=name, blocks=ORDER, shots=1), train, True, 0).prompt(
        "{braces} stay", "ann@home"
    )
    said = "".join(prompt.parts)
    assert "{braces} stay" in said and said.count("{") == 1
    assert all(label in said for label in ("anger", "joy", "very sad", "none"))


def test_other_words_are_another_wording(tmp_path):
    written = yaml.safe_load((FOLDER / "plain.yaml").read_text())
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(written))
    assert load_wording(str(file)).digest == load_wording("plain").digest
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**written, "none": "nothing"}))
    assert load_wording(str(other)).digest != load_wording("plain").digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "Text"}, r"text.*\{text\}"),
        ({"labels": "{labels} {users}"}, r"labels.*\{labels\}"),
        ({"instruction": "Say {what}"}, "no {field}"),
        ({"text": "{text"}, "text"),
        ({"texts": "{text}"}, "texts"),
        ({"version": 0}, "version"),
    ],
)
def test_a_wording_that_is_not_one_is_refused_in_a_line(tmp_path, change, message):
    written = yaml.safe_load((FOLDER / "plain.yaml").read_text())
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**written, **change}))
    with pytest.raises(ExperimentError, match=message) as caught:
        load_wording(str(file))
    assert "\n" not in str(caught.value) and "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(("name", "message"), [("plane", "Did you mean 'plain'"), ("no/such.yaml", "YAML file's path")])
def test_a_wording_nobody_knows_is_refused_in_a_line(name, message):
    with pytest.raises(ValueError, match=message):
        PromptSettings(wording=name)

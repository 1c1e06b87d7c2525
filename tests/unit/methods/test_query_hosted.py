"""Prompting hosted models: what is asked, how answers are read, what is kept; against a real HTTP server."""

from __future__ import annotations

import socket
import time

import numpy as np
import pytest
from crowd import crowd
from hosts import Host, completion, send
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.data.task import Task
from beholder.methods import METHODS, config_class, load_fitted, save_fitted
from beholder.methods.query_hosted import answers_folder
from beholder.models.hosted import Endpoint, estimate, plan
from beholder.prompting.label_text import LabelWords
from beholder.prompting.wording import FOLDER
from beholder.training.context import Context
from beholder.util.errors import BaseModelError, MethodError

pytestmark = pytest.mark.long

SECRET = "hv-not-to-be-seen-0123456789"
NOWHERE = Endpoint(endpoint="http://127.0.0.1:9/v1", model="m", max_tokens=8)


@pytest.fixture
def host():
    origin = Host()
    yield origin
    origin.close()


def answering(host, answer_to):
    """The host answers the user's message with what `answer_to` makes of it."""

    def answer(handler, number):
        send(handler, 200, completion(answer_to(host.bodies[number - 1]["messages"][-1]["content"])))
        return True

    host.misbehave = answer


def asked_text(content):
    return content.split("Text: ")[-1].split("\n")[0]


def fit(method, rows, endpoint, said=None, **more):
    say = (said if said is not None else []).append
    return config_class(method)(**more).fit(rows, rows, Context(endpoint, seed=3, say=say))


ANSWERS = {
    "a": ("Rude.", [1, 0, 0], 0),
    "b": (" - kind\n - RUDE", [1, 1, 0], 1),
    "c": ("None of them.", [0, 0, 0], 0),
    "d": (f"I cannot say {SECRET}", [0, 0, 0], 0),
    "e": ("", [0, 0, 0], 0),
    "f": ("other, kind", [0, 1, 1], 2),
}


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_answers_are_read_and_those_that_name_nothing_are_counted(kind, host):
    answering(host, lambda content: ANSWERS[asked_text(content)][0])
    said = []
    fitted = fit("query", crowd(kind=kind), Endpoint(endpoint=host.url, model="m"), said)
    texts = [*ANSWERS, "b", "a"]
    scores = fitted.score(texts, ["u0"] * len(texts))
    assert len(host.bodies) == len(ANSWERS) and scores.dtype == np.float32
    for text, row in zip(texts, scores, strict=True):
        _, given, first = ANSWERS[text]
        np.testing.assert_array_equal(row, np.eye(3)[first] * any(given) if kind == "multiclass" else given)
    np.testing.assert_array_equal(fitted.thresholds, [0.5] * 3)
    silent = 3 if kind == "multiclass" else 2
    assert said == [f"query: {silent} of 6 answers named no label and count as none"]


@pytest.mark.parametrize("method", ["query", "query-p"])
def test_saved_and_loaded_it_scores_alike_and_asks_only_what_is_new(method, host, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    answering(host, lambda content: "kind" if len(content) % 2 else "rude, other")
    rows, said, told = crowd(), [], []
    endpoint = Endpoint(endpoint=host.url, model="m", key_variable="MY_KEY")
    config = config_class(method)(prompt={"shots": 2, "blocks": ["id", "statistics", "examples"]})
    context = Context(endpoint, seed=3, say=said.append, progress=lambda *each: told.append(each))
    fitted = config.fit(rows, rows, context)
    assert not host.bodies  # nothing is learned, so that nothing is asked yet
    parts = {"train": rows, "valid": rows.select(np.arange(9)), "test": rows.select(np.arange(5, 20))}
    planned = plan(endpoint, config.questions(parts, context), answers_folder(), context.seed)
    for part in ("valid", "test"):
        scores = fitted.score(list(parts[part].texts), list(parts[part].user_ids))
    assert planned.calls == len(host.bodies) > 10 and planned.cached == 0
    assert told[-1][0] == told[-1][1] and told[-1][2:] == ("m", "answers")
    assert {each["authorization"] for each in host.headers} == {f"Bearer {SECRET}"}
    assert fitted.knows("u1") == config.personal and not fitted.knows("nobody")

    folder = tmp_path / "fitted"
    folder.mkdir()
    save_fitted(fitted, folder)
    host.close()
    gentle = endpoint.model_copy(update={"concurrency": 1, "retries": 0})
    again = load_fitted(folder, gentle)
    np.testing.assert_array_equal(again.score(list(parts["test"].texts), list(parts["test"].user_ids)), scores)
    everyone = again.score_all([parts["test"].texts[0]], [parts["test"].user_ids[0]])
    np.testing.assert_array_equal(everyone[0, 0], scores[0])
    with pytest.raises(BaseModelError, match="cannot be reached"):
        again.score(["never asked"], ["u0"])
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()
    for other in (endpoint.model_copy(update={"model": "n"}), endpoint.model_copy(update={"max_tokens": 9})):
        with pytest.raises(MethodError, match="Give the same base, or fit again"):
            load_fitted(folder, other)
    with pytest.raises(MethodError, match="other weights than 'tiny-llama'"):
        load_fitted(folder, "tiny-llama")


def test_told_who_reads_or_not_a_model_is_told_the_same_but_for_the_user(tmp_path):
    wording = tmp_path / "words.yaml"
    wording.write_text((FOLDER / "plain.yaml").read_text() + "\nsystem: You judge texts.\n")
    rows, more = crowd(), {"prompt": {"wording": str(wording), "shots": 0}}
    (one,), _, _ = fit("query", rows, NOWHERE, **more).prompts(["hello"], ["u1"])
    (own,), _, _ = fit("query-p", rows, NOWHERE, **more).prompts(["hello"], ["u1"])
    (stranger,), _, _ = fit("query-p", rows, NOWHERE, **more).prompts(["hello"], ["nobody"])
    assert one == stranger and [message["role"] for message in one] == ["system", "user"]
    assert own[0] == one[0] == {"role": "system", "content": "You judge texts."}
    assert own[1]["content"].replace("Reader: 1\n", "") == one[1]["content"] != own[1]["content"]


ROWS = crowd()


@settings(max_examples=40, deadline=None)
@given(text=st.text(st.sampled_from("ab ß怒"), min_size=1, max_size=600), room=st.integers(90, 200))
def test_prompts_keep_within_what_was_asked_for_and_say_what_gave_way(text, room):
    config = config_class("query-p")(prompt={"shots": 4, "blocks": ["id", "examples"]}, max_tokens=room)
    fitted = config.fit(ROWS, ROWS, Context(NOWHERE))
    (prompt,), _, cuts = fitted.prompts([text], ["u1"])
    assert estimate(prompt) + NOWHERE.max_tokens <= room
    content = prompt[-1]["content"]
    assert content.startswith("Readers judge") and content.endswith("Labels given:")
    if not cuts["text"]:
        assert text.strip() in content
    if cuts["text"]:
        assert cuts["examples"] and cuts["id"]  # the user's blocks give way first
    assert ("Reader: 1\n" in content) == (not cuts["id"])


def test_cuts_are_told_once(host):
    answering(host, lambda content: "kind")
    said = []
    fitted = fit("query", crowd(), Endpoint(endpoint=host.url, model="m", max_tokens=8), said, max_tokens=100)
    for _ in range(2):
        fitted.score(["long " * 200, "short"], ["u0"] * 2)
    assert len(said) == 1 and "of 2: text in 1" in said[0]


@pytest.mark.parametrize("method", [name for name in METHODS if name.startswith(("cls", "lm"))])
def test_what_needs_weights_is_refused_before_anything_runs(method):
    more = {"init_from": "cls"} if method.endswith(("-u", "-e", "+")) else {}
    config = config_class(method).model_validate(more)
    with pytest.raises(MethodError, match=r"'m' is an endpoint, which can only be prompted\. Use query or query-p"):
        config.check(NOWHERE, Task(("rude",)))
    rows = crowd()
    if not more:  # the others start from a method that would have been refused before
        with pytest.raises(MethodError, match="only be prompted"):
            config.fit(rows, rows, Context(NOWHERE))


def test_no_room_for_a_text_is_refused_before_anything_is_asked():
    task = Task(("rude", "kind"))
    config_class("query")(max_tokens=120).check(NOWHERE, task)
    with pytest.raises(MethodError, match=r"max_tokens: 60 leaves no room for a text.* base.max_tokens: 8"):
        config_class("query")(max_tokens=60).check(NOWHERE, task)


def drop(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        (drop, "cannot be reached"),
        (lambda handler: time.sleep(1.2), "no answer within 1 s"),
        (lambda handler: send(handler, 429, {}), "too many requests (429"),
        (lambda handler: send(handler, 200, "<html>", kind="text/html"), "is not a chat completion"),
    ],
)
def test_what_was_answered_before_a_trouble_is_not_asked_again(trouble, line, host):
    def four_answers(handler, number):
        if number > 4:
            trouble(handler)
        return number > 4

    host.misbehave = four_answers
    endpoint = Endpoint(endpoint=host.url, model="m", retries=0, timeout_s=1, concurrency=1)
    fitted, texts = fit("query", ROWS, endpoint), [str(number) for number in range(7)]
    with pytest.raises(BaseModelError) as raised:
        fitted.score(texts, ["u0"] * 7)
    assert line in str(raised.value) and "4 of 7 answers are kept" in str(raised.value)
    answering(host, lambda content: "kind")
    fitted.score(texts, ["u0"] * 7)
    assert len(host.bodies) == 4 + 1 + 3


@given(order=st.permutations(range(4)).flatmap(lambda order: st.integers(0, 4).map(lambda n: order[:n])))
def test_labels_are_read_in_the_order_in_which_they_are_named(order):
    words = LabelWords(("angry", "very_angry", "joy", "no.joy"))
    answer = "; ".join(words.words[label] for label in order) or "None."
    assert words.named(answer) == list(order)
    read = words.read(answer)
    assert read is not None and set(np.flatnonzero(read)) == set(order)
    assert words.read("nothing that I know") is None

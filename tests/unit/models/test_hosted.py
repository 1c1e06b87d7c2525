"""Asking hosted models, against a real HTTP server that counts, and misbehaves when told to."""

import asyncio
import socket
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from hosts import Host, completion, reply_to, send
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.models.hosted import CallPlan, Endpoint, ask, plan
from beholder.util.errors import BaseModelError, ExperimentError
from beholder.util.strict_model import build

pytestmark = pytest.mark.long

SECRET = "hv-not-to-be-seen-0123456789"


@pytest.fixture
def host():
    origin = Host()
    yield origin
    origin.close()


def prompts_for(*texts):
    return [[{"role": "system", "content": "Say."}, {"role": "user", "content": text}] for text in texts]


def silent(done, total, note, unit):
    pass


def refuse(status, content=None, **headers):
    def misbehave(handler, number):
        send(handler, status, content or {"error": {"message": f"no, {SECRET}", "code": None}}, **headers)
        return True

    return misbehave


@pytest.fixture(scope="module")
def steady_host():
    origin = Host()
    yield origin
    origin.close()


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def failure(endpoint, prompts, folder):
    """The message of the error that asking ends with; one line, in which neither a prompt nor a key can be read."""
    with pytest.raises(BaseModelError) as raised:
        ask(endpoint, prompts, folder, silent)
    message = str(raised.value)
    assert len(message.splitlines()) == 1 and endpoint.endpoint in message and repr(endpoint.model) in message
    shown = "".join(traceback.format_exception(raised.value))
    assert SECRET not in shown
    return message


def test_answers_come_in_order_and_a_rerun_asks_nothing(host, tmp_path):
    endpoint = Endpoint(endpoint=host.url + "/", model="m", max_tokens=7)
    prompts = prompts_for("angry", "calm", "angry", "zażółć 怒")
    seen = []
    assert plan(endpoint, prompts, tmp_path) == CallPlan(calls=3, cached=0, tokens=33)  # 35 bytes, 6 messages
    answers = ask(endpoint, prompts, tmp_path, lambda *told: seen.append(told), seed=5)
    assert answers == [reply_to(prompt) for prompt in prompts]
    assert [told[:2] for told in seen] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert len(host.bodies) == 3
    for body in host.bodies:
        assert {"model": "m", "max_tokens": 7, "temperature": 0, "seed": 5}.items() <= body.items()

    assert plan(endpoint, prompts, tmp_path, seed=5) == CallPlan(calls=0, cached=3, tokens=0)
    host.close()  # nobody there to ask
    assert ask(endpoint, prompts, tmp_path, silent, seed=5) == answers


@pytest.mark.parametrize("change", [{"model": "other"}, {"max_tokens": 8}, {"seed": 6}, {"endpoint": "http://a/v1"}])
def test_another_question_is_not_answered_from_the_cache(change, host, tmp_path):
    settings = {"endpoint": host.url, "model": "m"}
    prompts = prompts_for("a")
    ask(Endpoint(**settings), prompts, tmp_path, silent, seed=5)
    changed = Endpoint(**{**settings, **{key: value for key, value in change.items() if key != "seed"}})
    assert plan(changed, prompts, tmp_path, seed=change.get("seed", 5)).calls == 1


def test_how_hard_is_asked_changes_no_answer(host, tmp_path):
    ask(Endpoint(endpoint=host.url, model="m"), prompts_for("a"), tmp_path, silent)
    gentle = Endpoint(endpoint=host.url, model="m", concurrency=1, timeout_s=5, retries=0, key_variable="OTHER")
    assert plan(gentle, prompts_for("a"), tmp_path).calls == 0


@settings(max_examples=10, deadline=None)
@given(texts=st.lists(st.sampled_from(["", "a", "b", "a\nb", "ß怒", '"{'])), concurrency=st.integers(1, 5))
def test_any_duplicates_keep_their_places(texts, concurrency, steady_host, tmp_path_factory):
    before = len(steady_host.bodies)
    endpoint = Endpoint(endpoint=steady_host.url, model="m", concurrency=concurrency)
    prompts = prompts_for(*texts)
    answers = ask(endpoint, prompts, tmp_path_factory.mktemp("answers"), silent)
    assert answers == [reply_to(prompt) for prompt in prompts]
    assert len(steady_host.bodies) - before == len(set(texts))


def test_the_bound_on_requests_at_a_time_is_reached_and_kept(host, tmp_path):
    host.delay = 0.05
    prompts = prompts_for(*map(str, range(20)))
    ask(Endpoint(endpoint=host.url, model="m", concurrency=4), prompts, tmp_path, silent)
    assert host.most_at_once == 4


@pytest.mark.parametrize("where", ["thread", "loop"])
def test_it_may_be_called_from_anywhere(where, host, tmp_path):
    endpoint, prompts = Endpoint(endpoint=host.url, model="m"), prompts_for("a")

    async def within_a_loop():
        return ask(endpoint, prompts, tmp_path, silent)

    if where == "thread":
        with ThreadPoolExecutor(1) as pool:
            answers = pool.submit(ask, endpoint, prompts, tmp_path, silent).result()
    else:
        answers = asyncio.run(within_a_loop())
    assert answers == [reply_to(prompts[0])]


def test_retry_after_is_waited_for(host, tmp_path):
    def once_too_many(handler, number):
        if number == 1:
            send(handler, 429, {}, retry_after="0.6")  # the client alone would wait half a second at most
        return number == 1

    host.misbehave = once_too_many
    start = time.monotonic()
    assert ask(Endpoint(endpoint=host.url, model="m"), prompts_for("a"), tmp_path, silent) == ["a.yaS"]
    assert time.monotonic() - start >= 0.6 and len(host.bodies) == 2


@pytest.mark.parametrize(
    ("misbehave", "status"),
    [
        (lambda handler: send(handler, 503, {}), "an error"),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "a dropped connection"),
        (lambda handler: time.sleep(0.3), "no answer in time"),
    ],
)
def test_a_passing_failure_is_not_noticed(misbehave, status, host, tmp_path):
    def once(handler, number):
        if number == 1:
            misbehave(handler)
        return number == 1

    host.misbehave = once
    endpoint = Endpoint(endpoint=host.url, model="m", timeout_s=0.25)
    assert ask(endpoint, prompts_for("a"), tmp_path, silent) == ["a.yaS"], status
    assert len(host.bodies) == 2


REFUSALS = [
    (refuse(429, retry_after="0.05"), 3, "too many requests (429; base.retries: 2)", "wait 0.05 s"),
    (refuse(429, retry_after="3600"), 1, "too many requests", "wait 3600 s"),
    (refuse(500, retry_after="0.05"), 3, "the server fails (500; base.retries: 2)", "log"),
    (refuse(401), 1, "a key is wanted (401)", "environment variable OPENAI_API_KEY"),
    (refuse(404), 1, "no such model", "base.model"),
    (refuse(404, "<html>not here</html>", kind="text/html"), 1, "no such address (404)", "/v1"),
    (
        refuse(400, {"error": {"message": SECRET, "code": "context_length_exceeded", "param": SECRET}}),
        1,
        "the request is refused (400, context_length_exceeded)",
        "too long",
    ),
    (refuse(200, "<html>hello</html>", kind="text/html"), 1, "(text/html) is not a chat completion", "base.endpoint"),
    (refuse(200, "{]"), 1, "(application/json) is not a chat completion", "base.endpoint"),
    (refuse(200, {"error": SECRET}), 1, "not a chat completion", "base.endpoint"),
    (refuse(200, {"choices": []}), 1, "not a chat completion", "base.endpoint"),
    (refuse(200, {"choices": [{"message": {"content": [SECRET]}}]}), 1, "not a chat completion", "base.endpoint"),
    (refuse(200, completion(None, "length")), 1, "64 tokens were used up", "base.max_tokens"),
]


@pytest.mark.parametrize(("misbehave", "calls", "what", "remedy"), REFUSALS)
def test_a_refusal_is_one_line_that_says_what_and_what_next(misbehave, calls, what, remedy, host, tmp_path):
    host.misbehave = misbehave
    message = failure(Endpoint(endpoint=host.url, model="m", retries=2), prompts_for(SECRET), tmp_path)
    assert what in message and remedy in message and "0 of 1 answers are kept" in message
    assert len(host.bodies) == calls


def test_an_answer_may_be_empty(host, tmp_path):
    host.misbehave = refuse(200, completion(None))
    assert ask(Endpoint(endpoint=host.url, model="m"), prompts_for("a"), tmp_path, silent) == [""]


def test_a_key_is_sent_and_seen_nowhere_else(host, tmp_path, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("MY_KEY", SECRET + "\n")
    endpoint = Endpoint(endpoint=host.url, model="m", key_variable="MY_KEY")
    ask(endpoint, prompts_for("a"), tmp_path, silent)
    assert host.headers[0]["authorization"] == f"Bearer {SECRET}"
    host.misbehave = refuse(403)
    assert "the key in MY_KEY is refused (403)" in failure(endpoint, prompts_for("b"), tmp_path)
    assert SECRET not in caplog.text + endpoint.identity + repr(endpoint)
    monkeypatch.setenv("MY_KEY", SECRET + "\nż")
    with pytest.raises(BaseModelError, match="MY_KEY holds no key"):
        ask(endpoint, prompts_for("b"), tmp_path, silent)


def test_nobody_there(tmp_path):
    with socket.socket() as taken:  # bound, but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        message = failure(Endpoint(endpoint=url, model="m", retries=1), prompts_for("a"), tmp_path)
    assert "cannot be reached" in message and "base.retries: 1" in message and "Is the server up" in message


def test_too_slow_even_where_bytes_keep_coming(host, tmp_path):
    def dribble(handler, number):
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        for _ in range(20):
            try:
                handler.wfile.write(b" ")
            except OSError:
                break
            time.sleep(0.1)
        return True

    host.misbehave = dribble
    start = time.monotonic()
    message = failure(Endpoint(endpoint=host.url, model="m", timeout_s=0.3, retries=0), prompts_for("a"), tmp_path)
    assert time.monotonic() - start < 1.5
    assert "no answer within 0.3 s" in message and "base.timeout_s" in message


@pytest.mark.parametrize("concurrency", [1, 3])
def test_after_an_outage_only_the_rest_is_asked(concurrency, host, tmp_path):
    prompts = prompts_for(*map(str, range(10)))

    def drop_from_the_seventh_on(handler, number):
        if number > 6:
            handler.connection.shutdown(socket.SHUT_RDWR)
        return number > 6

    host.misbehave = drop_from_the_seventh_on
    endpoint = Endpoint(endpoint=host.url, model="m", concurrency=concurrency, retries=0)
    message = failure(endpoint, prompts, tmp_path)
    kept = plan(endpoint, prompts, tmp_path).cached
    assert f"{kept} of 10 answers are kept" in message
    assert kept == 6 if concurrency == 1 else 6 - concurrency < kept <= 6

    host.misbehave, before = lambda handler, number: False, len(host.bodies)
    assert ask(endpoint, prompts, tmp_path, silent) == [reply_to(prompt) for prompt in prompts]
    assert len(host.bodies) - before == 10 - kept


def test_the_cache_outlives_damage_and_holds_no_prompts(host, tmp_path):
    host.misbehave = lambda handler, number: bool(send(handler, 200, completion("yes\n\udc80ż"))) or True
    endpoint = Endpoint(endpoint=host.url, model="m", concurrency=1)
    prompts = prompts_for(*(f"{SECRET} {number}" for number in range(4)))
    answers = ask(endpoint, prompts, tmp_path, silent)
    (file,) = tmp_path.glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4 and SECRET.encode() not in b"".join(lines)

    damaged = lines[1].replace(b"yes", b"no!")
    file.write_bytes(lines[0] + damaged + b"[1]\n\xff\xfe\n" + lines[2] + lines[3][:40])  # the last is torn
    assert plan(endpoint, prompts, tmp_path).cached == 2
    assert ask(endpoint, prompts, tmp_path, silent) == answers
    assert len(host.bodies) == 6
    assert plan(endpoint, prompts, tmp_path).calls == 0


def test_where_nothing_can_be_written_it_says_so(host, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BaseModelError, match="an answer cannot be written"):
        ask(Endpoint(endpoint=host.url, model="m"), prompts_for("a"), tmp_path / "file", silent)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"endpoint": "localhost:8000"}, "base.endpoint: expected an address such as http"),
        ({"endpoint": "ftp://a/v1"}, "base.endpoint: expected an address such as http"),
        ({"endpoint": "http:///v1"}, "base.endpoint: expected an address such as http"),
        ({"endpoint": "http://a:port/v1"}, "base.endpoint: expected an address such as http"),
        ({"endpoint": "http://a /v1"}, "base.endpoint: expected an address such as http"),
        ({"endpoint": "http://a/v1/chat/completions"}, "ends with /v1"),
        ({"endpoint": f"http://user:{SECRET}@a/v1"}, "no name, password, query or key"),
        ({"endpoint": f"http://a/v1?key={SECRET}"}, "no name, password, query or key"),
        ({"key_variable": SECRET}, "not the key itself"),
        ({"model": ""}, "base.model"),
        ({"concurrency": 0}, "base.concurrency"),
        ({"timeout_s": 0}, "base.timeout_s"),
        ({"temperature": 1}, "unknown key 'temperature'"),
    ],
)
def test_settings_that_cannot_be_are_refused(written, message):
    with pytest.raises(ExperimentError) as raised:
        build(Endpoint, {"endpoint": "http://a/v1", "model": "m", **written}, "base")
    assert message in str(raised.value) and SECRET not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1

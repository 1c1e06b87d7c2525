"""The HTTP side without Ray: what is answered, what is refused and how; and an attack or two."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from datetime import timedelta

import httpx
import pytest
from house import MODEL
from inside import server

from beholder.lifecycle.erase import admit_again
from beholder_serve.api import ApiSettings
from beholder_serve.auth import KeyRing

LABEL = re.compile(r"[a-z_]+")


class Client:
    """Asks an app as a browser or a program would."""

    def __init__(self, app) -> None:
        self.app = app

    def __call__(self, method: str, path: str, **more) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())


@pytest.fixture
def ask(outcome):
    return Client(server(MODEL)[0])


@pytest.fixture
def guarded(outcome):
    """A server that wants tokens, and tokens by scope."""
    ring = KeyRing()

    def token(*scopes: str, user: str = "alice", lifetime: timedelta = timedelta(hours=1)) -> dict[str, str]:
        return {"authorization": f"Bearer {ring.issue(user, list(scopes), lifetime)}"}

    return Client(server(MODEL, ApiSettings(tokens=True, rate=0.001, burst=30))[0]), token, ring


def judgements(outcome, count: int = 20) -> list[dict]:
    labels = outcome.test.task.labels
    seen: dict[str, dict] = {}
    for text, row in zip(outcome.test.texts, outcome.test.labels, strict=True):
        seen[str(text)] = {"text": str(text), "labels": dict(zip(labels, map(bool, row), strict=True))}
    return list(seen.values())[:count]


def test_every_endpoint_answers_and_its_examples_run(ask, outcome):
    document = ask("GET", "/openapi.json").json()
    assert set(document["paths"]) >= {
        "/v1/predict",
        "/v1/perspectives",
        "/v1/users/{user_id}/annotations",
        "/v1/users/{user_id}/enrol",
        "/v1/users/{user_id}",
        "/v1/model",
        "/v1/texts",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    label = outcome.test.task.labels[0]
    for name in ("PredictRequest", "PerspectivesRequest", "AnnotationsRequest"):
        path = {"PredictRequest": "/v1/predict", "PerspectivesRequest": "/v1/perspectives"}.get(name)
        for example in document["components"]["schemas"][name]["examples"]:
            method = "POST" if path else "PUT"
            if not path:
                example["judgements"][0]["labels"] = {label: False}
            answer = ask(method, path or "/v1/users/me/annotations", json=example)
            assert answer.status_code == 200, answer.text
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all(operation.get("description") for operation in operations)
    model = ask("GET", "/v1/model").json()
    assert model["version"] == f"{MODEL} v1" and model["personal_method"] == "cls-u" and model["users"] == 6
    assert ask("GET", "/readyz").json() == {"status": "ok", "version": f"{MODEL} v1"}
    page = ask("GET", "/docs")
    assert page.status_code == 200 and "https://" not in page.text.replace("https://fastapi", "")
    ask("DELETE", "/v1/users/me")
    assert admit_again("me")


def test_a_reader_comes_judges_is_trained_and_goes(ask, outcome):
    me = "me/and you?"
    path = "/v1/users/me%2Fand%20you%3F"
    told = judgements(outcome)
    first = ask("PUT", f"{path}/annotations", json={"judgements": told[:3]})
    assert first.json() == {"stored": 3, "total": 3}
    early = ask("POST", f"{path}/enrol")
    assert early.status_code == 409 and "too few" in early.json()["detail"] and early.json()["request_id"]
    ask("PUT", f"{path}/annotations", json={"judgements": told})
    enrolled = ask("POST", f"{path}/enrol").json()
    assert enrolled["train_rows"] == enrolled["valid_rows"] == len(told)  # all are learned from, and cross-fitted
    assert enrolled["helped"] == (enrolled["route"] == "cls-u") and enrolled["message"]
    known = ask("GET", path).json()
    assert known["user_id"] == me and known["enrolled"] and known["judgements"] == len(told)
    answer = ask("POST", "/v1/predict", json={"user_id": me, "text": told[0]["text"]}).json()
    assert answer["predictions"][0]["route"] == enrolled["route"]
    erased = ask("DELETE", path).json()
    assert erased["judgements"] == len(told) and me not in json.dumps(erased)
    assert erased["priors"] == []  # a newcomer: no prior was learned from what they told
    assert ask("GET", path).json()["known"] is False
    back = ask("PUT", f"{path}/annotations", json={"judgements": told[:3]})
    assert back.status_code == 409 and "was erased" in back.json()["detail"] and me not in back.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user_id": "u"}, "text or texts"),
        ({"user_id": "u", "text": "a", "texts": ["a"]}, "text or texts"),
        ({"user_id": "", "text": "a"}, "user_id"),
        ({"user_id": "u" * 201, "text": "a"}, "user_id"),
        ({"user_id": "u\u0000", "text": "a"}, "user_id"),
        ({"user_id": "u", "text": "  "}, "text"),
        ({"user_id": "u", "text": "a" * 20_000}, "text"),
        ({"user_id": "u", "texts": ["a"] * 300}, "texts"),
        ({"user_id": "u", "text": "a", "surprise": 1}, "surprise"),
        ({"user_id": ["u"], "text": "a"}, "user_id"),
        ([], ""),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(ask, body, field):
    refused = ask("POST", "/v1/predict", json=body)
    assert refused.status_code == 422 and field in refused.text


def test_labels_nobody_knows_are_refused_and_nothing_is_kept(ask):
    body = {"judgements": [{"text": "fine", "labels": {"surprise!": True}}]}
    refused = ask("PUT", "/v1/users/u/annotations", json=body)
    assert refused.status_code == 422 and "judgements[0]: unknown label 'surprise!'" in refused.json()["detail"]
    assert ask("GET", "/v1/users/u").json()["judgements"] == 0


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe not json", b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b"", b'{"user_id": "u", "text": "\xff"}'],
)
def test_bodies_that_are_no_json_are_refused(ask, content):
    refused = ask("POST", "/v1/predict", content=content, headers={"content-type": "application/json"})
    assert 400 <= refused.status_code < 500


def test_large_and_slow_bodies_are_refused_before_they_are_read(outcome):
    app = server(MODEL, ApiSettings(max_bytes=10_000, body_s=0.3))[0]
    ask = Client(app)
    assert ask("POST", "/v1/predict", content=b"x" * 10_001).status_code == 413

    async def endless():
        while True:
            yield b"x" * 1_000

    assert ask("POST", "/v1/predict", content=endless()).status_code == 413

    async def slow():
        while True:
            yield b"{"
            await asyncio.sleep(0.1)

    started = time.monotonic()
    refused = ask("POST", "/v1/predict", content=slow())
    assert (
        refused.status_code == 408 and time.monotonic() - started < 5 and "did not arrive" in refused.json()["detail"]
    )


INJECTIONS = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "'; DROP TABLE judgements; --",
    "{{7*7}}${7*7}<%= 7*7 %>",
    "<script>alert(1)</script>",
    "%00",
    "a" * 200,
    "\u202eeveryone\U0001f600",
]


@pytest.mark.parametrize("strange", INJECTIONS)
def test_strange_ids_and_texts_are_only_ids_and_texts(ask, outcome, strange):
    from urllib.parse import quote

    path = f"/v1/users/{quote(strange, safe='')}"
    text = f"{strange} said I"
    body = {"judgements": [{"text": text, "labels": {outcome.test.task.labels[0]: True}}]}
    assert ask("PUT", f"{path}/annotations", json=body).json() == {"stored": 1, "total": 1}
    assert ask("GET", path).json()["user_id"] == strange
    answer = ask("POST", "/v1/predict", json={"user_id": strange, "text": text})
    assert answer.status_code == 200 and answer.json()["predictions"][0]["route"] == "cls"
    assert ask("DELETE", path).json()["judgements"] == 1
    assert ask("GET", "/v1/users/somebody").status_code == 200  # tables are where they were


def test_ids_of_ten_megabytes_are_refused(ask):
    long = "u" * 10_000_000
    assert ask("GET", f"/v1/users/{long[:60_000]}").status_code == 422  # what a URL can hold at all
    assert ask("POST", "/v1/predict", json={"user_id": long, "text": "a"}).status_code == 413


def test_no_page_of_others_may_call_unless_it_was_named(outcome):
    for origins, allowed in (((), None), (("https://ours.example",), "https://ours.example")):
        ask = Client(server(MODEL, ApiSettings(origins=origins))[0])
        for origin in ("https://ours.example", "https://evil.example"):
            preflight = {"origin": origin, "access-control-request-method": "POST"}
            answer = ask("OPTIONS", "/v1/predict", headers=preflight)
            given = answer.headers.get("access-control-allow-origin")
            assert given == (allowed if origin == allowed else None)


def test_headers_keep_a_page_to_itself(ask):
    answer = ask("GET", "/healthz", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "evil" not in ask("GET", "/healthz", headers={"x-request-id": "evil\tthing"}).headers["x-request-id"]


def test_logs_say_neither_texts_nor_users(ask, outcome, caplog):
    caplog.set_level(logging.DEBUG)
    ask("POST", "/v1/predict", json={"user_id": "secret-person", "text": "a secret text"})
    ask(
        "PUT",
        "/v1/users/secret-person/annotations",
        json={"judgements": [{"text": "a secret text", "labels": {"x": True}}]},
    )
    ask("GET", "/v1/users/secret-person")
    ask("POST", "/v1/users/secret-person/enrol")
    ask("DELETE", "/v1/users/secret-person")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("beholder")]
    told = [json.loads(record.getMessage()) for record in caplog.records if record.name == "beholder.requests"]
    assert [line["status"] for line in told] == [200, 422, 200, 409, 200]
    assert {line["route"] for line in told} >= {"/v1/predict", "/v1/users/{user_id:path}"}
    assert all({"id", "method", "route", "status", "ms"} == set(line) for line in told)
    assert not any("secret" in line for line in lines)


# Access.


def test_without_a_token_nothing_but_probes_and_the_page_answers(guarded):
    ask, _, _ = guarded
    for method, path in [
        ("POST", "/v1/predict"),
        ("POST", "/v1/perspectives"),
        ("PUT", "/v1/users/alice/annotations"),
        ("POST", "/v1/users/alice/enrol"),
        ("GET", "/v1/users/alice"),
        ("DELETE", "/v1/users/alice"),
        ("GET", "/v1/model"),
        ("GET", "/v1/texts"),
    ]:
        refused = ask(method, path, json={})
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer", path
    for path in ("/healthz", "/readyz", "/metrics", "/", "/docs"):
        assert ask("GET", path).status_code == 200


def test_a_users_token_opens_their_own_door_only(guarded, outcome):
    ask, token, _ = guarded
    mine = token("predict:self", "annotate:self")
    body = {"judgements": judgements(outcome, 1)}
    assert ask("POST", "/v1/predict", json={"user_id": "alice", "text": "a"}, headers=mine).status_code == 200
    assert ask("PUT", "/v1/users/alice/annotations", json=body, headers=mine).status_code == 200
    assert ask("GET", "/v1/users/alice", headers=mine).status_code == 200
    for method, path, sent in [
        ("POST", "/v1/predict", {"user_id": "bob", "text": "a"}),
        ("POST", "/v1/perspectives", {"text": "a"}),
        ("PUT", "/v1/users/bob/annotations", body),
        ("POST", "/v1/users/bob/enrol", None),
        ("GET", "/v1/users/bob", None),
        ("DELETE", "/v1/users/bob", None),
    ]:
        refused = ask(method, path, json=sent, headers=mine)
        assert refused.status_code == 403 and "scope" in refused.json()["detail"], path
    assert ask("DELETE", "/v1/users/alice", headers=mine).json()["judgements"] == 1
    others = token("predict:any")
    assert ask("POST", "/v1/predict", json={"user_id": "bob", "text": "a"}, headers=others).status_code == 200
    assert ask("POST", "/v1/perspectives", json={"text": "a"}, headers=others).status_code == 200
    assert ask("PUT", "/v1/users/bob/annotations", json=body, headers=others).status_code == 403
    assert ask("DELETE", "/v1/users/bob", headers=token("admin")).status_code == 200


def test_tokens_that_are_expired_forged_or_revoked_are_refused(guarded):
    import base64

    ask, token, ring = guarded
    good = token("predict:any")
    body = {"user_id": "bob", "text": "a"}
    assert ask("POST", "/v1/predict", json=body, headers=good).status_code == 200
    header, claims, signature = good["authorization"].removeprefix("Bearer ").split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    other = KeyRing(ring.folder.parent / "another").issue("bob", ["admin"], timedelta(hours=1))
    for bad in (
        token("predict:any", lifetime=timedelta(seconds=-60))["authorization"],
        f"Bearer {unsigned}.{claims}.",
        f"Bearer {unsigned}.{claims}.{signature}",
        f"Bearer {header}.{claims}.{signature[::-1]}",
        f"Bearer {other}",
        "Bearer ",
        "Bearer \x7f",
        "Basic YWRtaW46YWRtaW4=",
        "Bearer " + "a" * 5_000,
    ):
        assert ask("POST", "/v1/predict", json=body, headers={"authorization": bad}).status_code == 401, bad
    ring.revoke(good["authorization"].removeprefix("Bearer "))
    assert ask("POST", "/v1/predict", json=body, headers=good).status_code == 401


def test_over_its_limit_a_token_is_told_when_to_come_back(guarded):
    ask, token, _ = guarded
    mine, other = token("predict:any"), token("predict:any", user="bob")
    answers = [ask("GET", "/v1/model", headers=mine) for _ in range(31)]
    assert [answer.status_code for answer in answers] == [200] * 30 + [429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert ask("GET", "/v1/model", headers=other).status_code == 200

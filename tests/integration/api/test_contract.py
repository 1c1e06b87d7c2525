"""The API as it is described: thousands of requests made from the OpenAPI document, and the typed client."""

from __future__ import annotations

import contextlib
import faulthandler

import pytest
import schemathesis
from house import MODEL
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis.errors import Unsatisfiable
from inside import listening, server
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from beholder_serve.client import Client, RefusedError

PATIENCE_S = 120
"""How long an answer may take on a machine that is busy with other tests. It is not the speed that is tested here."""


@pytest.fixture
def app(world, monkeypatch):
    monkeypatch.setenv("BEHOLDER_HOME", str(world[0]))
    return server(MODEL)[0]


def test_no_request_breaks_the_server_and_answers_are_as_described(app):
    """Valid ones and invalid ones alike, of every operation."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    asked = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try_out(operation, mode, asked)
    assert len({operation for operation, _ in asked}) >= 11
    assert {status for _, status in asked} >= {200, 422, 409}


def try_out(operation, mode, asked: set[tuple[str, int]]) -> None:
    @examples(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case) -> None:
        faulthandler.dump_traceback_later(PATIENCE_S / 4)  # where it stands, should it stand
        try:
            answer = case.call(timeout=PATIENCE_S)
        finally:
            faulthandler.cancel_dump_traceback_later()
        asked.add((operation.label, answer.status_code))
        case.validate_response(
            answer, checks=[not_a_server_error, response_schema_conformance, content_type_conformance]
        )

    with contextlib.suppress(Unsatisfiable):  # an operation without parameters cannot be asked wrongly
        run()


def test_the_client_says_what_the_server_says(app, world):
    outcome = world[1]
    labels = outcome.test.task.labels
    with listening(app) as url, Client(url) as client:
        assert client.model().version == f"{MODEL} v1"
        one = client.predict("reader1", "you are a robot")
        many = client.predict("reader1", ["you are a robot", "hello"])
        assert len(one.predictions) == 1 and len(many.predictions) == 2
        assert set(one.predictions[0].scores) == set(labels)
        seen = client.perspectives("you are a robot")
        assert seen.readers_total == 6 == len(seen.readers)
        assert len(client.perspectives("hello", at_most=2).readers) == 2
        assert [r.user_id for r in client.perspectives("hello", ["reader1"]).readers] == ["reader1"]
        texts = client.texts(8).texts
        told = client.annotate("one/of us", [(text, dict.fromkeys(labels, True)) for text in texts])
        assert told.stored == told.total == 8
        assert client.enrol("one/of us").train_rows == 8
        assert client.user("one/of us").enrolled
        assert client.erase("one/of us").judgements == 8
        with pytest.raises(RefusedError, match="unknown label 'x'") as refused:
            client.annotate("u", [("a", {"x": True})])
        assert refused.value.status == 422
        with pytest.raises(RefusedError, match="text: "):
            client.predict("u", "")
    with pytest.raises(RefusedError, match="does not respond"):
        Client("http://127.0.0.1:9").model()

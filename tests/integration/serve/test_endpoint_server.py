"""A hosted model, for real: `transformers serve` with SmolLM2, asked over HTTP and then not needed any more."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from beholder.models import resolve
from beholder.models.hosted import CallPlan, Endpoint, ask, plan
from beholder.util.errors import BaseModelError

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path):
    """A process that serves a model, and its address."""
    folder = resolve("smollm2-135m")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        deadline = time.monotonic() + 90
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield process, Endpoint(endpoint=f"http://127.0.0.1:{port}/v1", model=str(folder), max_tokens=8, retries=0)
    finally:
        process.kill()
        process.wait(30)


def test_a_real_server_is_asked_once(server, tmp_path):
    process, endpoint = server
    prompts = [
        [{"role": "user", "content": f"Answer with one word. What is the capital of {land}?"}]
        for land in ("France", "Italy", "Germany", "Italy")
    ]
    answers = ask(endpoint, prompts, tmp_path / "answers", lambda *told: None)
    assert len(answers) == 4 and answers[1] == answers[3]
    for answer, city in zip(answers, ("Paris", "Rome", "Berlin"), strict=False):
        assert city in answer

    process.kill()
    process.wait(30)
    assert plan(endpoint, prompts, tmp_path / "answers") == CallPlan(calls=0, cached=3, tokens=0)
    assert ask(endpoint, prompts, tmp_path / "answers", lambda *told: None) == answers
    more = [*prompts, [{"role": "user", "content": "And of Spain?"}]]
    with pytest.raises(BaseModelError, match=r"cannot be reached .* 3 of 4 answers are kept"):
        ask(endpoint, more, tmp_path / "answers", lambda *told: None)

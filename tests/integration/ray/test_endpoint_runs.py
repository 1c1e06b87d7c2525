"""A run on a hosted model, from the experiment file to the gain table, with a real server that fails and recovers."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from typer.testing import CliRunner

from beholder.cli.main import app
from beholder.cluster.runtime import on_ray
from beholder.registry import versions as registry

pytestmark = pytest.mark.cluster
ARMS = ["prior", "query", "query-p", "query-p~shuffled-users"]
SECRET = "hv-not-to-be-seen-0123456789"


class Server(ThreadingHTTPServer):
    """Speaks chat completions; when it has given as many answers as its patience lasts for, it refuses."""

    daemon_threads = True
    patience, answered = 3, 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.headers["authorization"] == f"Bearer {SECRET}"
        server = self.server
        if server.answered >= server.patience:
            return self.send(429, {"error": {"message": SECRET}})
        server.answered += 1
        said = body["messages"][-1]["content"]
        answer = ("I would rather not.", "anger", "joy", "None.")[len(said) % 4]
        return self.send(200, {"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]})

    def send(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    with Server(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join(10)


@pytest.fixture(scope="module", autouse=True)
def ray_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_KEY", SECRET)  # workers have the environment Ray was started in
        with on_ray():
            yield


def test_a_run_outlives_its_endpoints_troubles_and_asks_for_nothing_twice(server, tmp_path, home):
    base = {"endpoint": f"http://127.0.0.1:{server.server_port}/v1", "model": "m", "key_variable": "MY_KEY"}
    source = {"name": "simulated", "texts": "templates", "users": 3, "rows_per_user": 20, "distinct_texts": 30}
    written = {
        "name": "hosted",
        "source": {**source, "labels": ["anger", "joy"]},
        "split": {"by": "text", "fractions": [0.6, 0.2, 0.2]},
        "base": {**base, "retries": 0, "concurrency": 1},
        "methods": {"prior": {}, "query": {}, "query-p": {"prompt": {"shots": 2}, "controls": ["shuffled-users"]}},
        "evaluate": {"reference": "query"},
        "register": {"name": "hosted"},
    }
    file = tmp_path / "hosted.yaml"
    file.write_text(yaml.safe_dump(written))

    def beholder(*more):
        return CliRunner().invoke(app, ["run", str(file), *more])

    def dry_run():
        return json.loads(beholder("--dry-run", "--json").stdout)

    before = dry_run()
    calls = before["total"]["calls"]
    assert list(before["methods"]) == ARMS and before["methods"]["prior"]["calls"] == 0
    assert before["total"]["cached"] == 0 and not server.answered and not (home / "runs").exists()

    # The run ends with one line, and what was answered is kept.
    failed = beholder()
    assert failed.exit_code == 2, failed.output
    said = failed.stderr.splitlines()[-1]
    assert said.startswith(f"error: base 'm' at {base['endpoint']}: too many requests (429")
    assert "answers are kept; run it again to ask only for the rest" in said
    assert SECRET not in failed.output and "Traceback" not in failed.output
    kept = dry_run()["total"]
    assert kept["cached"] == 3 and kept["cached"] + kept["calls"] == calls

    # The endpoint is well again: only the rest is asked, and the run ends with its table.
    server.patience = calls
    done = beholder()
    assert done.exit_code == 0, done.output
    assert server.answered == calls
    assert all(arm in done.stdout for arm in ARMS) and "named no label and count as none" in done.stderr
    assert "would rather" not in done.output
    assert dry_run()["total"] == {"calls": 0, "cached": calls, "tokens": 0, "answer_tokens": 0}

    # What was registered, opened, asks the endpoint again; the key is nowhere.
    (results,) = (json.loads(file.read_text()) for file in (home / "runs").glob("*/results.json"))
    assert results["base"] == f"{base['endpoint']} m" and set(results["methods"]) - {"routed"} == set(ARMS)
    for path in [*(home / "runs").rglob("*"), *(home / "store").rglob("*"), *(home / "answers").iterdir()]:
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    server.patience += 1
    assert registry.open_version(registry.find("hosted")).predict(["I am furious"], ["a stranger"]).scores.shape == (
        1,
        2,
    )

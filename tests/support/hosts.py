"""A real HTTP server that speaks chat completions, counts, and misbehaves where a test wants it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Host:
    """A chat server. `misbehave` may answer a request instead; what it returns True for is left at that."""

    def __init__(self):
        self.misbehave: Callable[[BaseHTTPRequestHandler, int], bool] = lambda handler, number: False
        self.delay = 0.0
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                host.answer(self)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            number = len(self.bodies)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.delay)
            if not self.misbehave(handler, number):
                # No longer at work once the answer is on its way: the next request may be there before this returns.
                with self.lock:
                    self.at_once -= 1
                send(handler, 200, completion(reply_to(body["messages"])))
                with self.lock:
                    self.at_once += 1
        finally:
            with self.lock:
                self.at_once -= 1

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


def send(handler, status, content, kind="application/json", **headers):
    data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    handler.send_response(status)
    for name, value in {"content-type": kind, "content-length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def completion(text, reason="stop"):
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}]}


def reply_to(messages):
    return "".join(message["content"] for message in messages)[::-1]

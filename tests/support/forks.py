"""Code run in forks of a warm process, so that it can be killed at a moment that is its own and not Python's start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any


class Forks:
    """A process that has imported what the registry needs and waits for code to run in forks of itself."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.ask() == "ready"

    def ask(self, **what: Any) -> Any:
        """One line there and one back."""
        assert self.process.stdin is not None and self.process.stdout is not None
        if what:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def run(self, code: str, kill_after: float | None = None) -> tuple[float, bool]:
        """Seconds until the fork was over, and whether it was killed; code that fails by itself fails the test."""
        seconds, killed, status = self.ask(code=code, kill_after=kill_after)
        assert killed or status == 0, f"status {status}"
        return seconds, killed

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def serve() -> None:
    """Run what is asked for, until nothing more is."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a pool of threads would not live on in a fork
    import torch

    from beholder.lifecycle import erase as erasure  # noqa: F401
    from beholder.registry import pyfunc  # noqa: F401

    torch.set_num_threads(1)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            try:
                exec(asked["code"], {"Path": Path})
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        killed, status, over = False, 0, 0
        while not over:
            over, status = os.waitpid(child, os.WNOHANG)
            if not over and asked["kill_after"] is not None and time.monotonic() - started > asked["kill_after"]:
                os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                killed, over = os.WIFSIGNALED(status), child  # it may have come to its end just before
            time.sleep(0.0005)
        print(json.dumps([time.monotonic() - started, bool(killed), status]), flush=True)


if __name__ == "__main__":
    serve()

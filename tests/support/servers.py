"""Real servers for tests, on loopback: PostgreSQL, MLflow on it, and object storage that speaks S3."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from needs import program


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def running(
    command: list[str],
    log: Path,
    ready: Callable[[], bool],
    user: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
    **env,
) -> Iterator[None]:
    """A server, from when it is ready until the block ends."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, user=user, env={**os.environ, **env}, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 240
            while not ready():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2_000:]
                time.sleep(0.1)
            yield
        finally:
            process.send_signal(stop)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what it started and left behind


def answers(url: str) -> Callable[[], bool]:
    """Whether a server answers."""

    def ready() -> bool:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    return ready


def listens(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def postgres_tool(name: str) -> str:
    """Where a program of PostgreSQL's is; Debian puts most of them beside the path."""
    return program("PostgreSQL", name, beside=f"/usr/lib/postgresql/*/bin/{name}")


@contextlib.contextmanager
def postgres(log: Path) -> Iterator[str]:
    """A PostgreSQL of one's own; its address as SQLAlchemy says it. It refuses to run as root."""
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="postgres-") as temporary:
        if user:
            shutil.chown(temporary, user)
        data, port = f"{temporary}/data", free_port()
        made = [postgres_tool("initdb"), "-D", data, "-U", "beholder", "--auth=trust", "--no-sync"]
        subprocess.run(made, user=user, check=True, capture_output=True, cwd=temporary)
        server = [postgres_tool("postgres"), "-D", data, "-p", str(port), "-k", temporary, "-h", "127.0.0.1"]
        address = f"postgresql://beholder@127.0.0.1:{port}/postgres"
        with running([*server, "-c", "fsync=off"], log, lambda: takes_connections(address), user, signal.SIGINT):
            yield address


def takes_connections(address: str) -> bool:
    """Whether a PostgreSQL has begun its work; it listens before that."""
    import psycopg

    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return False
    return True


@contextlib.contextmanager
def mlflow_server(folder: Path, database: str, port: int | None = None) -> Iterator[str]:
    """An MLflow server that keeps artifacts in a folder; its address."""
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts")]
    address = f"http://127.0.0.1:{port}"
    with running(command, folder / "mlflow.log", answers(f"{address}/health")):
        yield address


@contextlib.contextmanager
def object_storage(folder: Path, bucket: str) -> Iterator[tuple[str, object]]:
    """A server that speaks S3, with an empty bucket: a store's address in it, and boto3's client."""
    import boto3

    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with running(command, folder / "s3.log", lambda: listens(port)):
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=address, **keys)
        client.create_bucket(Bucket=bucket)
        yield f"s3://{bucket}/kept?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1", client

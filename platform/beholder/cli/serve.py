"""`beholder serve` and `beholder ui`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import typer

from beholder.cli.console import console
from beholder.errors import RegistryError


def add_to(app: typer.Typer) -> None:
    """Register this file's commands."""
    app.command("serve")(serve_command)
    app.command("ui")(ui_command)


def serve_command(
    model: Annotated[
        str | None, typer.Option(help="A registered model; the only one, or the newest, where left out.")
    ] = None,
    version: Annotated[str, typer.Option(help="A number or an alias.")] = "champion",
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen.", min=1, max=65535)] = 8000,
) -> None:
    """Serve a registered model over HTTP until Ctrl-C.

    Ask it: curl localhost:8000/v1/predict -H 'content-type: application/json' -d '{"user_id": "7", "text": "hi"}'
    """
    from beholder.registry import registry
    from beholder_serve.app import serve_forever

    names = registry.models()
    if model is None:
        if not names:
            raise RegistryError(
                "nothing is registered yet. Publish a model with: make demo, or beholder run EXPERIMENT"
            )
        model = max(names, key=lambda name: registry.versions(name)[0].created)
    found = registry.find(model, version)
    bundle, store = registry.bundle_of(found), registry.store_of(found)

    def ready() -> None:
        console.print(
            f"serving {found.model} v{found.number} on http://{host}:{port} (POST /v1/predict). Ctrl-C stops it.",
            markup=False,
        )

    serve_forever(store.uri, bundle, f"{found.model} v{found.number}", host, port, ready)


def ui_command(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen.", min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow on beholder's store, to compare runs and see registered models."""
    from beholder.tracking import artifact_folder, client, tracking_uri

    client()
    console.print(f"MLflow on http://{host}:{port} ({tracking_uri()}); Ctrl-C stops it", markup=False)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)]
    command += [
        "--backend-store-uri",
        tracking_uri(),
        "--default-artifact-root",
        artifact_folder().as_uri(),
        "--workers",
        "1",
    ]
    raise typer.Exit(subprocess.run(command, env={**os.environ, "GIT_PYTHON_REFRESH": "quiet"}).returncode)

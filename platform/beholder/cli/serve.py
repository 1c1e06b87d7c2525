"""`beholder serve` and `beholder ui`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from beholder.cli.console import AsJson, console
from beholder.util.errors import RegistryError


def add_to(app: typer.Typer) -> None:
    """Register this file's commands."""
    serving = typer.Typer(help="Serve a registered model over HTTP, and check what is served.")
    serving.callback(invoke_without_command=True, help=serve_command.__doc__)(serve_command)
    serving.command("check")(check_command)
    app.add_typer(serving, name="serve")
    app.command("ui")(ui_command)


def serve_command(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="A registered model; the only one, or the newest, where left out.")
    ] = None,
    version: Annotated[str, typer.Option(help="A number, or an alias, which is followed.")] = "champion",
    host: Annotated[str, typer.Option(help="Address to listen on. Beyond loopback only with --tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    tokens: Annotated[bool, typer.Option("--tokens", help="Require an access token: beholder token issue.")] = False,
    replicas: Annotated[int, typer.Option(help="Engines, each with a copy of the base.", min=1)] = 1,
    up_to: Annotated[int | None, typer.Option(help="Most engines; they are added as the load grows.", min=1)] = None,
    sticky: Annotated[bool, typer.Option("--sticky", help="Send a user to the same engine again.")] = False,
    rate: Annotated[float, typer.Option(help="Requests a second of each token, on average.", min=0.01)] = 50.0,
    burst: Annotated[int, typer.Option(help="Requests of a token at once.", min=1)] = 200,
    origin: Annotated[
        list[str] | None, typer.Option(help="A web page's origin that may call from a browser; may be repeated.")
    ] = None,
) -> None:
    """Serve a registered model over HTTP until Ctrl-C: a page at /, the API described at /docs.

    Ask it: curl localhost:8000/v1/predict -H 'content-type: application/json' -d '{"user_id": "7", "text": "hi"}'
    """
    if context.invoked_subcommand is not None:
        return
    from beholder.registry import versions as registry
    from beholder_serve.api import ApiSettings
    from beholder_serve.deployment import serve_forever

    names = registry.models()
    if model is None:
        if not names:
            raise RegistryError(
                "nothing is registered yet. Publish a model with: make demo, or beholder run EXPERIMENT"
            )
        model = max(names, key=lambda name: registry.versions(name)[0].created)
    found = registry.find(model, version)
    settings = ApiSettings(tokens=tokens, rate=rate, burst=burst, origins=tuple(origin or ()), sticky=sticky)
    scale = {"min_replicas": replicas, "max_replicas": up_to} if up_to and up_to > replicas else replicas

    def ready() -> None:
        others = [name for name in names if name != found.model]
        console.print(
            f"serving {found.model} v{found.number} on http://{host}:{port}/ (API: /docs). Ctrl-C stops it."
            + (f" Also registered: {', '.join(others)} (--model)." if others else ""),
            markup=False,
        )

    serve_forever({"model": model, "version": version}, host, port, settings, scale, ready)


def check_command(
    model: Annotated[str, typer.Argument(help="The registered model that is served.")],
    url: Annotated[str, typer.Option(help="The server's address.")] = "http://127.0.0.1:8000",
    seconds: Annotated[float, typer.Option(help="How long; every user is requested once at least.", min=0)] = 10.0,
    connections: Annotated[int, typer.Option(help="Requests at once.", min=1, max=256)] = 16,
    most: Annotated[int, typer.Option("--users", help="The most users to request, drawn seeded.", min=1)] = 1_000,
    token: Annotated[
        str | None,
        typer.Option(envvar="BEHOLDER_TOKEN", help="A token with the scope predict:any, if the server requires one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a server's answers with the bundles, under load: does every score come from the adapter it names?

    Run it where the store is, on the server's machine or another. Versions may switch meanwhile, and users may be
    enrolled or erased.
    """
    import asyncio
    from dataclasses import asdict

    import numpy as np

    from beholder.cli.console import print_json
    from beholder.registry import versions as registry
    from beholder.util.errors import ServeError
    from beholder_serve.check import check

    bundle = registry.open_version(registry.find(model))
    drawn = np.random.default_rng(0).permutation(len(bundle.users))[:most]
    users = [*(bundle.users[each] for each in sorted(drawn.tolist())), "nobody of this name"]
    texts = [f"text number {number}, to see who answers" for number in range(4)] + ["you are kind", "you are a fool"]
    found = asyncio.run(check(url, model, users, texts, seconds=seconds, connections=connections, token=token))
    if as_json:
        print_json(asdict(found))
    else:
        console.print(
            f"{found.answers:,} answers to {found.users:,} users by {', '.join(found.versions)} in "
            f"{found.seconds:.0f} s ({found.answers / found.seconds:,.0f} a second): {found.own:,} by adapters, "
            f"{found.wrong:,} wrong, {found.fallbacks:,} fallbacks, {found.refused:,} requests refused; "
            f"{found.expected_seconds:.1f} s went into computing what is right",
            markup=False,
        )
    if found.wrong:
        raise ServeError(f"{found.wrong:,} answers are not of the adapter they name: {found.first_wrong[0]}.")


def ui_command(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow on beholder's store, to compare runs and see registered models."""
    from beholder.tracking.client import artifact_folder, client, tracking_uri

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
    # MLflow takes this process's place, so that ending this process ends MLflow and leaves nothing running.
    sys.stdout.flush()
    os.execve(sys.executable, command, {**os.environ, "GIT_PYTHON_REFRESH": "quiet"})

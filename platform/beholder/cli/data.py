"""`beholder data`: what there is to learn from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.console import AsJson, console, errors, facts_in_words, print_json, print_rows

app = typer.Typer(help="Data sets: list them, describe one, fetch one.", no_args_is_help=True)


@app.command("ls")
def ls(as_json: AsJson = False) -> None:
    """Known sources, and where each was found."""
    from beholder.datasets import SOURCES, locate

    rows = [
        {"source": name, "description": description, "found": str(locate(name) or "")}
        for name, description in SOURCES.items()
    ]
    print_rows(rows, as_json)


@app.command("describe")
def describe(
    source: Annotated[str, typer.Argument(help="A source's name, or an experiment file with its settings.")],
    as_json: AsJson = False,
) -> None:
    """Rows, texts, users, how often each label is given, how far people agree, how much a number per user explains.

    Example: beholder data describe convabuse
    """
    from beholder.datasets import SOURCES, load, source_class
    from beholder.datasets.profile.agreement import agreement, offset_share
    from beholder.datasets.profile.describe import describe as describe_annotations
    from beholder.experiment.config import load_experiment
    from beholder.util.errors import ExperimentError, unknown
    from beholder.util.strict_model import build

    if source.endswith((".yaml", ".yml")):
        config = load_experiment(Path(source)).source
    elif source in SOURCES:
        config = build(source_class(source), {"name": source}, "source")
    else:
        raise ExperimentError(unknown("source", source, SOURCES))
    loaded = load(config)  # type: ignore[arg-type]
    facts = {
        "origin": loaded.origin,
        **describe_annotations(loaded.annotations),
        "agreement": agreement(loaded.annotations),
        "user_offset": offset_share(loaded.annotations),
    }
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        console.print(f"{key}: {facts_in_words(value)}", markup=False)


@app.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(help="goemotions or unhealthy.")],
    download: Annotated[bool, typer.Option("--download", help="Allow the download from the public origin.")] = False,
    origin: Annotated[str | None, typer.Option(help="Another base URL to fetch from, such as a mirror.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a public data set into the cache, checked and resumable.

    Example: beholder data prepare goemotions --download
    """
    from beholder.datasets.download import prepare as prepare_source

    folder = prepare_source(name, download, origin, lambda line: errors.print(line, markup=False))  # type: ignore[arg-type]
    if as_json:
        print_json({"source": name, "folder": str(folder)})
        return
    console.print(f"{name}: ready in {folder}", markup=False)

"""`beholder registry`: versions, and which one counts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from beholder.cli.console import console, print_json

app = typer.Typer(help="Registered models: list, show, promote, export, verify.", no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="A registered model's name.")]
Which = Annotated[str, typer.Option("--version", help="A number or an alias.")]
AsJson = Annotated[bool, typer.Option("--json")]


@app.command("ls")
def ls(as_json: AsJson = False) -> None:
    """Every version of every registered model, newest first."""
    from beholder.registry import registry

    found = [version for model in registry.models() for version in registry.versions(model)]
    if as_json:
        print_json([version.to_json() for version in found])
        return
    if not found:
        console.print("nothing registered yet; publish with: beholder run EXPERIMENT", markup=False)
        return
    table = Table()
    for column in ("model", "v", "aliases", "best", "macro-F1", "gain", "made"):
        table.add_column(column, no_wrap=True)
    for version in found:
        tags = version.tags
        made = datetime.fromtimestamp(version.created / 1000, UTC).strftime("%Y-%m-%d")
        table.add_row(
            version.model,
            str(version.number),
            "\n".join(version.aliases),
            tags.get("best", ""),
            f"{100 * float(tags['macro_f1']):.1f}" if "macro_f1" in tags else "",
            f"{float(tags['gain_points']):+.1f}" if "gain_points" in tags else "",
            made,
        )
    console.print(table)


@app.command("show")
def show(model: Model, version: Which = "champion", as_json: AsJson = False) -> None:
    """What a version is, where it came from, and what its bundle holds."""
    from beholder.registry import registry
    from beholder.registry.bundle import read_manifest

    found = registry.find(model, version)
    folder = registry.bundle_folder(found)
    manifest = read_manifest(folder)
    if as_json:
        print_json({**found.to_json(), "manifest": manifest})
        return
    console.print(f"{found.model} v{found.number} ({', '.join(found.aliases) or 'no alias'})", markup=False)
    console.print(f"bundle: {folder}", markup=False)
    for key in ("task", "base", "methods", "routes", "split_hash", "evaluation", "code_version"):
        console.print(f"{key}: {manifest[key]}", markup=False)


@app.command("promote")
def promote(
    model: Model,
    version: Annotated[int, typer.Argument(help="The version's number.")],
    force: Annotated[bool, typer.Option(help="Also where it is worse, or was measured on another split.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a version the champion. Refuses a worse one unless forced."""
    from beholder.registry import registry

    found = registry.promote(model, version, force)
    if as_json:
        print_json(found.to_json())
        return
    console.print(f"{model}: v{version} is the champion", markup=False)


@app.command("export")
def export(
    model: Model,
    user: Annotated[str, typer.Option(help="Whose adapter.")],
    version: Which = "champion",
    form: Annotated[str, typer.Option("--format", help="peft: an adapter that plain PEFT loads.")] = "peft",
    to: Annotated[Path | None, typer.Option(help="A new folder; default: MODEL-vN-adapter here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one user's adapter for use without beholder.

    Example: beholder registry export convabuse-minilm --user Annotator1 --to annotator1
    """
    from beholder.errors import RegistryError, unknown
    from beholder.registry import registry
    from beholder.registry.bundle import open_bundle

    if form != "peft":
        raise RegistryError(f"--format: {unknown('format', form, ['peft'])}")
    found = registry.find(model, version)
    folder = to or Path(f"{model}-v{found.number}-adapter")
    open_bundle(registry.bundle_folder(found)).export(user, folder)
    if as_json:
        print_json({"model": model, "version": found.number, "format": form, "folder": str(folder)})
        return
    console.print(
        f"{model} v{found.number}: an adapter and a head in {folder}; its README says how to load them", markup=False
    )


@app.command("verify")
def verify(model: Model, version: Which = "champion", as_json: AsJson = False) -> None:
    """Check every file of a version against its checksum."""
    from beholder.registry import bundle, registry

    found = registry.find(model, version)
    manifest = bundle.verify(registry.bundle_folder(found))
    if as_json:
        print_json({"model": model, "version": found.number, "files": len(manifest["files"]), "intact": True})
        return
    console.print(f"{model} v{found.number}: {len(manifest['files'])} files, all intact", markup=False)

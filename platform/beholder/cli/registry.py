"""`beholder registry`: versions of registered models, and the store of their bundles."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from beholder.cli import erasure
from beholder.cli.console import AsJson, console, facts_in_words, print_json
from beholder.util.errors import FeedbackError, counted

app = typer.Typer(
    help="Registered models: list, compare, promote and verify versions; erase users.",
    no_args_is_help=True,
)
ModelArgument = Annotated[str, typer.Argument(help="A registered model's name.")]
Which = Annotated[str, typer.Option("--version", help="A number or an alias.")]


@app.command("ls")
def ls(as_json: AsJson = False) -> None:
    """Every version of every registered model, newest first."""
    from beholder.registry import versions as registry

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
def show(
    model: ModelArgument,
    version: Which = "champion",
    user: Annotated[str | None, typer.Option(help="Show only how it serves this user.")] = None,
    as_json: AsJson = False,
) -> None:
    """A version's source, methods and evaluation; with --user, how it serves that user."""
    from beholder.registry import versions as registry
    from beholder.registry.feedback import Feedback
    from beholder.registry.memory import took_in

    found = registry.find(model, version)
    bundle, store = registry.bundle_of(found), registry.store_of(found)
    manifest = store.manifest(bundle)
    if user is not None:
        enrolled, note = None, "Enrolled since: a server answers them by what they were enrolled with."
        try:
            with contextlib.closing(Feedback()) as feedback:
                stamp = feedback.enrolled(model, manifest.backbone_digest).get(user)
            enrolled = stamp is not None and not took_in(manifest, store, user, stamp)
        except FeedbackError as error:
            note = f"Whether they were enrolled since is not known: {error}"
        _print_users(model, [{**registry.user_row(found, user), "enrolled": enrolled}], as_json)
        if enrolled is not False and not as_json:
            console.print(note, markup=False)
        return
    if as_json:
        print_json({**found.to_json(), "manifest": manifest})
        return
    console.print(f"{found.model} v{found.number} ({', '.join(found.aliases) or 'no alias'})", markup=False)
    console.print(f"bundle: {bundle} in {store.uri}", markup=False)
    for key in ("task", "base", "methods", "routes", "split_hash", "evaluation", "code_version"):
        console.print(f"{key}: {facts_in_words(manifest[key])}", markup=False)


@app.command("history")
def history(model: ModelArgument, user: Annotated[str, typer.Option(help="User id.")], as_json: AsJson = False) -> None:
    """How each version serves one user, newest first."""
    from beholder.registry import versions as registry

    _print_users(model, [registry.user_row(version, user) for version in registry.versions(model)], as_json)


def _print_users(model: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    table = Table("v", "aliases", "route", "rows to learn from", "to choose by", "gain", "expected")
    for row in rows:
        gains = [row.get("gain"), row.get("expected")]
        table.add_row(
            str(row["version"]),
            ", ".join(row["aliases"]),
            row["route"] if row["known"] else "global (not known)",
            *(str(row.get(key, "")) for key in ("train_rows", "valid_rows")),
            *("" if gain is None else f"{gain:+.4f}" for gain in gains),
        )
    console.print(table)
    console.print(
        f"{model}; gain: log-loss the personal method saves on this user's validation rows, nats a row and label; "
        "expected: the same, shrunk toward everybody's",
        markup=False,
    )


@app.command("diff")
def diff(
    model: ModelArgument,
    one: Annotated[str, typer.Argument(help="First version: a number or an alias.")],
    other: Annotated[str, typer.Argument(help="Second version.")],
    as_json: AsJson = False,
) -> None:
    """Users whom the second version is expected to serve better, or worse, than the first."""
    from beholder.registry import versions as registry

    first, second = registry.find(model, one), registry.find(model, other)
    found = registry.difference(first, second)
    if as_json:
        print_json({"model": model, "from": first.number, "to": second.number, **found})
        return
    counts = ", ".join(f"{found[key]:,} {key}" for key in ("better", "worse", "same", "joined", "left"))
    console.print(f"{model} v{first.number} -> v{second.number}: {counts}", markup=False)
    if not found["users"]:
        return
    table = Table("user", "from", "to", "route")
    for change in found["users"][:20]:
        routes = " -> ".join(dict.fromkeys(change["routes"]))
        table.add_row(change["user_id"], f"{change['from']:+.4f}", f"{change['to']:+.4f}", routes)
    console.print(table)
    console.print("expected gain over the global method, nats a row and label; the largest changes", markup=False)


@app.command("promote")
def promote(
    model: ModelArgument,
    version: Annotated[int, typer.Argument(help="The version's number.")],
    force: Annotated[bool, typer.Option(help="Promote even if it is worse, or was measured on another split.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a version the champion. Refuses a worse one unless forced."""
    from beholder.registry import versions as registry

    found = registry.promote(model, version, force)
    if as_json:
        print_json(found.to_json())
        return
    console.print(f"{model}: v{version} is the champion", markup=False)


@app.command("rollback")
def rollback(model: ModelArgument, as_json: AsJson = False) -> None:
    """Make the champion before this one the champion again."""
    from beholder.registry import versions as registry

    found = registry.rollback(model)
    if as_json:
        print_json(found.to_json())
        return
    console.print(f"{model}: v{found.number} is the champion again", markup=False)


@app.command("export")
def export(
    model: ModelArgument,
    user: Annotated[str, typer.Option(help="User id.")],
    version: Which = "champion",
    form: Annotated[str, typer.Option("--format", help="peft: an adapter that plain PEFT loads.")] = "peft",
    to: Annotated[Path | None, typer.Option(help="A new folder; default: MODEL-vN-adapter here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one user's adapter for use without beholder.

    Example: beholder registry export convabuse-minilm --user Annotator1 --to annotator1
    """
    from beholder.registry import versions as registry
    from beholder.util.errors import RegistryError, unknown

    if form != "peft":
        raise RegistryError(f"--format: {unknown('format', form, ['peft'])}")
    found = registry.find(model, version)
    folder = to or Path(f"{model}-v{found.number}-adapter")
    registry.open_version(found).export(user, folder)
    if as_json:
        print_json({"model": model, "version": found.number, "format": form, "folder": str(folder)})
        return
    console.print(
        f"{model} v{found.number}: an adapter and a head in {folder}; its README has the code that loads them",
        markup=False,
    )


@app.command("verify")
def verify(
    model: Annotated[str | None, typer.Argument(help="A registered model; the whole store where left out.")] = None,
    version: Which = "champion",
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="First restore missing or damaged files of the store, from the runs kept here or from another store.",
        ),
    ] = False,
    copy: Annotated[
        str | None, typer.Option("--from", help="With --repair: another store, or a folder with a backup of this one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every file of a version, or of the whole store, against its checksum."""
    from beholder.registry import bundle_store as stored
    from beholder.registry import maintenance as upkeep
    from beholder.registry import versions as registry
    from beholder.registry.blob_store import Store
    from beholder.registry.repair import repair as repaired
    from beholder.util.errors import RegistryError
    from beholder.util.paths import home

    if copy is not None and not repair:
        raise RegistryError("--from is the place --repair takes files from. Give both.")
    if model is not None and repair:
        raise RegistryError("--repair is for the whole store: leave the model out.")
    if model is not None:
        found = registry.find(model, version)
        files = stored.check(registry.bundle_of(found), registry.store_of(found))
        if as_json:
            print_json({"model": model, "version": found.number, "files": files, "intact": True})
            return
        console.print(f"{model} v{found.number}: {files} files, all intact", markup=False)
        return
    store, done = Store(), {}
    if repair:
        found_again = repaired(store, [home() / "runs"], Store(copy) if copy else None)
        done = {"repaired": found_again.files}
        if not as_json:
            console.print(f"{store.uri}: {found_again.files:,} files restored", markup=False)
    checked = upkeep.verify(store)
    if as_json:
        print_json({"store": store.uri, **done, **asdict(checked), "intact": not checked.problems})
    else:
        orphans = f"; {checked.orphans:,} that no bundle needs (beholder registry gc)" if checked.orphans else ""
        bundles, files = counted(checked.bundles, "bundle"), counted(checked.files, "distinct file")
        console.print(f"{store.uri}: {bundles}, {files} intact{orphans}", markup=False)
    for first in checked.problems[:1]:
        others = len(checked.problems) - 1
        raise RegistryError(first + (f" And {others} more." if others else ""))


@app.command("gc")
def gc(
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than", min=0, help="Keep bundles without a version that are younger than this, in hours."
        ),
    ] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Delete bundles of the store that no version names any more, and the files that no bundle needs."""
    from beholder.registry import maintenance as upkeep
    from beholder.registry import versions as registry
    from beholder.registry.blob_store import Store
    from beholder.registry.repair import delete_unnamed
    from beholder.tracking.client import identity

    store = Store()
    bundles = delete_unnamed(store, registry.bundles_named(store), identity(), 3600 * older_than)
    deleted = upkeep.gc(store)
    if as_json:
        print_json({"store": store.uri, "deleted": deleted, "bundles": bundles})
        return
    console.print(f"{store.uri}: {bundles:,} bundles that no version names and {deleted:,} files deleted", markup=False)


erasure.add_to(app)

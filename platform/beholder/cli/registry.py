"""`beholder registry`: versions, and which one counts."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from beholder.cli.console import RunReporter, console, print_json
from beholder.cli.refresh import print_retrained
from beholder.util.errors import FeedbackError, counted

app = typer.Typer(
    help="Registered models: versions, which one counts, how they serve whom, and their upkeep.", no_args_is_help=True
)
ModelArgument = Annotated[str, typer.Argument(help="A registered model's name.")]
Which = Annotated[str, typer.Option("--version", help="A number or an alias.")]
AsJson = Annotated[bool, typer.Option("--json")]


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
    user: Annotated[str | None, typer.Option(help="Only what it says of this user.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a version is, where it came from, and what its bundle holds; or how it serves one user."""
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
        console.print(f"{key}: {manifest[key]}", markup=False)


@app.command("history")
def history(model: ModelArgument, user: Annotated[str, typer.Option(help="Whose.")], as_json: AsJson = False) -> None:
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
    one: Annotated[str, typer.Argument(help="A version's number or alias.")],
    other: Annotated[str, typer.Argument(help="Another's.")],
    as_json: AsJson = False,
) -> None:
    """Which users another version is expected to serve better or worse than one."""
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
    force: Annotated[bool, typer.Option(help="Also where it is worse, or was measured on another split.")] = False,
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
    user: Annotated[str, typer.Option(help="Whose adapter.")],
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
        f"{model} v{found.number}: an adapter and a head in {folder}; its README says how to load them", markup=False
    )


@app.command("verify")
def verify(
    model: Annotated[str | None, typer.Argument(help="A registered model; the whole store where left out.")] = None,
    version: Which = "champion",
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="First put back what is missing or damaged in the store, from the runs kept here or another store.",
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
        raise RegistryError("--from says where --repair takes files from. Give both.")
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
            console.print(f"{store.uri}: {found_again.files:,} files put back", markup=False)
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
        float, typer.Option("--older-than", min=0, help="Hours: bundles without a version that are younger stay.")
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


@app.command("erase")
def erase(
    user: Annotated[str, typer.Option(help="User id.")],
    retrain_prior: Annotated[
        bool,
        typer.Option(
            "--retrain-prior",
            help="Where a champion's prior was learned from their judgements, learn it again from everybody else's and "
            "publish a candidate (beholder refresh MODEL --retrain-prior).",
        ),
    ] = False,
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain",
            help="Where a champion was trained on their judgements, run its experiment again without them, and publish "
            "a candidate: the global model and the prior are trained again.",
        ),
    ] = False,
    verify_only: Annotated[
        bool,
        typer.Option("--verify", help="Erase nothing: search all places for them, and fail where anything is found."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take a person out of every version of every model, of MLflow's artifacts, and of the runs kept here.

    Their share in what was learned of people in general, the prior, remains until it is learned again: how large it is
    is printed for each version. The global model was trained on their judgements, too; only a new run without them
    changes that (--retrain). Their judgements in your own files are yours to remove; runs, refreshes and enrolments
    leave them out from now on, until they are admitted again (beholder registry admit).
    """
    from beholder.lifecycle.erase import erase_everywhere, retrain_priors, train_all_again, trained_on
    from beholder.util.errors import RegistryError

    if verify_only + retrain + retrain_prior > 1:
        raise RegistryError("give one of --verify, which changes nothing, --retrain and --retrain-prior.")
    if verify_only:
        _verify_erased(user, as_json)
        return
    models, again = trained_on(user) if retrain else [], retrain or retrain_prior
    found = erase_everywhere(user)
    retrained: list[dict[str, Any]] = []
    if again:
        with RunReporter(quiet=as_json).live() as reporter:
            retrained = train_all_again(models, reporter) if retrain else retrain_priors(reporter)
    if as_json:
        print_json({**found, **({"retrained": retrained} if again else {})})
    else:
        _print_erased(found, retrained, again)
    refused = [f"erased, but {each['error']}" for each in retrained if "error" in each]
    if refused:
        raise RegistryError(refused[0] + (f" And {len(refused) - 1} more." if len(refused) > 1 else ""))


def _verify_erased(user: str, as_json: bool) -> None:
    from beholder.lifecycle.traces import find_traces
    from beholder.util.errors import RegistryError

    traces = find_traces(user)
    if as_json:
        print_json(traces.to_json())
    else:
        for line in traces.found:
            console.print(f"found in {line}", markup=False, soft_wrap=True)
        for line in traces.not_seen:
            console.print(f"not searched: {line}", markup=False, soft_wrap=True)
        console.print(
            f"searched {traces.bundles:,} bundles, {traces.runs:,} runs and searches, the database and rows "
            "that were refused. Not searched: memory of servers, files of yours, backups, runs on other machines",
            markup=False,
        )
    if traces.found:
        raise RegistryError(f"they are in {len(traces.found)} places. Erase them: beholder registry erase --user ID")
    if traces.not_seen:
        raise RegistryError(f"{len(traces.not_seen)} places could not be searched. Fix them, then verify again.")


@app.command("admit")
def admit(user: Annotated[str, typer.Option(help="User id.")], as_json: AsJson = False) -> None:
    """Admit somebody again who was erased and wants to come back: judgements they give from now on are kept."""
    from beholder.lifecycle.erase import admit_again

    admitted = admit_again(user)
    if as_json:
        print_json({"admitted": admitted})
        return
    console.print("admitted again" if admitted else "nobody of this id was erased: nothing to do", markup=False)


def _print_erased(found: dict[str, Any], retrained: list[dict[str, Any]], again: bool) -> None:
    console.print(
        f"erased from {counted(found['bundles'], 'bundle')} and {counted(found['runs'], 'run')}; "
        f"{counted(found['objects'], 'file')} deleted. "
        f"On record as {found['record']}, which says nothing of who",
        markup=False,
    )
    for each in found["priors"]:
        of = f"{each['of_rows']:,} judgements of {each['of_people']:,} people that it was learned from"
        share = "an unknown part" if each["rows"] is None else f"{each['rows']:,}"
        percent = "" if each["rows"] is None else f" ({100 * each['rows'] / each['of_rows']:.1f} %)"
        console.print(
            f"{each['model']} v{each['version']}: the prior still holds {share} of the {of}{percent}", markup=False
        )
    if found["priors"] and not again:
        for model in dict.fromkeys(each["model"] for each in found["priors"]):
            console.print(f"to remove that from {model}: beholder refresh {model} --retrain-prior", markup=False)
    for each in retrained:
        if "run" in each:
            console.print(
                f"{each['model']} v{each['version']} (candidate): trained again without them, run {each['run']}. To "
                f"serve it: beholder registry promote {each['model']} {each['version']}",
                markup=False,
            )
        elif "error" not in each:
            print_retrained(each)

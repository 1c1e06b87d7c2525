"""`beholder registry erase` and `admit`: taking a user out of everything that is kept, and letting them back in."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from beholder.cli.console import AsJson, RunReporter, console, print_json
from beholder.cli.refresh import print_retrained
from beholder.util.errors import counted


def add_to(app: typer.Typer) -> None:
    """Register this file's commands."""
    app.command("erase")(erase)
    app.command("admit")(admit)


def erase(
    user: Annotated[str, typer.Option(help="User id.")],
    retrain_prior: Annotated[
        bool,
        typer.Option(
            "--retrain-prior",
            help="Learn the prior of each champion that learned from the user again, without them, and publish a "
            "candidate (beholder refresh MODEL --retrain-prior).",
        ),
    ] = False,
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain",
            help="Run the experiment of each champion that was trained on the user again, without them, and publish a "
            "candidate: global model and prior are trained again.",
        ),
    ] = False,
    verify_only: Annotated[
        bool,
        typer.Option("--verify", help="Erase nothing: search everywhere for the user, and fail if anything is found."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a user from every bundle of every store, from served judgements, and from runs and searches.

    Runs and searches are those on this machine and in BEHOLDER_STORAGE. The user's share in a prior stays until the
    prior is learned again (--retrain-prior); it is printed for each version. The global model was trained on their
    judgements, too, which only a new run changes (--retrain). Your own files and backups are not changed. Runs,
    refreshes and enrolments leave the user out until they are admitted again (beholder registry admit).
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


def admit(user: Annotated[str, typer.Option(help="User id.")], as_json: AsJson = False) -> None:
    """Admit a user again who was erased: judgements that they give from now on are kept."""
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
        f"On record as {found['record']}, which does not identify the user",
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

"""`beholder submit` and `beholder jobs`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TextIO

import typer

from beholder.cli.console import AsJson, console, print_json, print_rows
from beholder.cli.run import Overrides
from beholder.util.errors import ClusterError

Address = Annotated[
    str, typer.Option(help="The cluster's dashboard.", envvar="BEHOLDER_CLUSTER", metavar="http://HOST:8265")
]
JobId = Annotated[str, typer.Argument(help="A job, as beholder submit and beholder jobs ls print it.")]

app = typer.Typer(help="Jobs submitted to a cluster.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register this file's commands."""
    app.command("submit")(submit_command)


def submit_command(
    what: Annotated[str, typer.Argument(help="An experiment file; with --refresh a registered model's name.")],
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", help="Print the job's output; end with its exit code.")] = False,
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="BEHOLDER_STORAGE",
            help="Where runs are stored: s3://bucket/prefix and the like, or a folder that all nodes share.",
        ),
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="An MLflow server, as the cluster reaches it.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="The folder of known data sets on the cluster.")] = None,
    bare: Annotated[
        bool,
        typer.Option("--bare", help="For nodes that have only Ray: install the packages of this machine there first."),
    ] = False,
    search: Annotated[str | None, typer.Option(metavar="ARM", help="Search this arm's settings instead.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="With --search: how many in all.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Refresh a model from feedback instead.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run an experiment on a Ray cluster. The code travels; data, storage and MLflow are where the cluster finds them.

    Example: beholder submit experiments/convabuse.yaml --address http://head:8265 --storage s3://bucket/runs --follow
    """
    from beholder.cluster.jobs import Job, submit
    from beholder.cluster.jobs import follow as followed
    from beholder.experiment.config import load_experiment

    variables = {"BEHOLDER_DATA": data} if data else {}
    if refresh:
        if search or overrides:
            raise ClusterError("--refresh: a model is refreshed as it was made; leave out --search and --set.")
        job = Job(["refresh", what, "--feedback"], f"refresh {what}", {}, storage, mlflow, bare, variables)
    else:
        file = Path(what)
        settings = load_experiment(file, overrides or ())  # errors in it are reported before anything is submitted
        more = [part for each in overrides or () for part in ("--set", each)]
        command = ["run", file.name, *more]
        name = settings.name
        if search:
            settings.searched(search)
            command = ["search", file.name, "--arm", search, *more]
            command += ["--trials", str(trials)] if trials else []
            name = f"search {settings.name} {search}"
        job = Job(command, name, {file: file.name}, storage, mlflow, bare, variables)
    made = submit(job, address)
    if as_json:
        print_json({"job": made, "name": job.name, "address": address})
    else:
        console.print(f"submitted: {made} ({job.name}). It keeps running when this command ends.", markup=False)
        console.print(f"  beholder jobs logs {made} --address {address} --follow", markup=False)
        console.print(f"  beholder jobs stop {made} --address {address}", markup=False)
    if follow:
        raise typer.Exit(followed(made, address, _write_on(sys.stderr if as_json else sys.stdout)))


@app.command("ls")
def list_command(address: Address, as_json: AsJson = False) -> None:
    """Jobs, the newest first."""
    from beholder.cluster.jobs import listed

    rows = listed(address)
    if rows or as_json:
        print_rows(rows, as_json)
    else:
        console.print("none yet; make one with: beholder submit EXPERIMENT", markup=False)


@app.command("logs")
def logs_command(
    job: JobId,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", help="Keep printing until it ends.")] = False,
) -> None:
    """What a job printed."""
    from beholder.cluster.jobs import follow as followed
    from beholder.cluster.jobs import logs

    if follow:
        raise typer.Exit(followed(job, address, _write_on(sys.stdout)))
    sys.stdout.write(logs(job, address))


@app.command("stop")
def stop_command(job: JobId, address: Address) -> None:
    """Stop a job. What it finished is kept; submit it again to resume."""
    from beholder.cluster.jobs import stop

    words = "stopped; submit it again to resume from what is finished" if stop(job, address) else "had ended before"
    console.print(f"{job}: {words}", markup=False)


def _write_on(stream: TextIO) -> Callable[[str], None]:
    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write

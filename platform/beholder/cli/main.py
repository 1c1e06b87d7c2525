"""`beholder`: the entry point, and what happens to errors."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from beholder import __version__
from beholder.cli import (
    compare,
    data,
    doctor,
    gain,
    init,
    jobs,
    methods,
    models,
    refresh,
    registry,
    run,
    search,
    serve,
    submit_format,
    token,
)
from beholder.cluster.runtime import apply_settings
from beholder.util.errors import BeholderError
from beholder.util.paths import home, unusable


class OneLineErrors(TyperGroup):
    """A refusal is one line on stderr and exit code 2; Ctrl-C, or SIGTERM, prints what is kept."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BeholderError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(2) from None
        except BrokenPipeError:  # who reads stdout stopped reading, as `| head -1` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            if not error.filename or not Path(os.fsdecode(error.filename)).absolute().is_relative_to(home()):
                raise
            print(f"error: {unusable(os.fsdecode(error.filename), error)}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("interrupted: finished methods are kept; run the same command to resume.", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="beholder",
    cls=OneLineErrors,
    help="Learn each reader's view: compare personalised models, measure the gain, register and serve the winner.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
init.add_to(app)
run.add_to(app)
search.add_to(app)
compare.add_to(app)
gain.add_to(app)
submit_format.add_to(app)
serve.add_to(app)
refresh.add_to(app)
jobs.add_to(app)
methods.add_to(app)
doctor.add_to(app)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(registry.app, name="registry")
app.add_typer(token.app, name="token")
app.add_typer(jobs.app, name="jobs")


def _print_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Set the environment, keep libraries quiet (`BEHOLDER_DEBUG=1` lets them speak), run a command."""
    apply_settings()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not os.environ.get("BEHOLDER_DEBUG"):
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
    app()


if __name__ == "__main__":
    main()

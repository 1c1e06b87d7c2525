"""`beholder`: the entry point, and what happens to errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated

import click
import typer

from beholder import __version__
from beholder.cli import data, doctor, models, registry, run, serve
from beholder.cluster.local import apply_settings
from beholder.errors import BeholderError

app = typer.Typer(
    name="beholder",
    help="Learn each reader's view: compare personalised models, measure the gain, register and serve the winner.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
run.add_to(app)
serve.add_to(app)
doctor.add_to(app)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(registry.app, name="registry")


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run a command. A refusal is one line on stderr and exit code 2; Ctrl-C leaves what was finished and says so."""
    apply_settings()
    if not os.environ.get("BEHOLDER_DEBUG"):
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except BeholderError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        print("interrupted: finished methods are kept; the same command goes on from there.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

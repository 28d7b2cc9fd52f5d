"""The command line: one command per verb, no logic. A refusal is one line and an exit code, never a traceback.

Exit codes: 0 done; 1 the books do not balance, or an engine failed; 2 bad input; 3 integrity; 4 unavailable.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from fleetmill.cli import (
    asked,
    datasets,
    deciding,
    devices,
    factory,
    gateway,
    keeping,
    labels,
    learned,
    lines,
    showing,
    telling,
)
from fleetmill.core.errors import last_words


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fleetmill {installed_version('fleetmill')}, Python {platform.python_version()}")
        raise typer.Exit


app = typer.Typer(
    name="fleetmill",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(devices.app, name="device")
app.add_typer(lines.new_app, name="line")
app.add_typer(labels.app, name="labels")
app.add_typer(datasets.app, name="dataset")
app.add_typer(gateway.app, name="serve")
for part in (showing, factory, asked, learned, telling, deciding, keeping, lines):
    app.add_typer(part.app)


@app.callback()
def _start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """An AI factory that you own: a fleet records, the factory learns, proves, signs and ships back."""


def main() -> None:
    """The entry point: translates what goes wrong into one line and an exit code."""
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("FLEETMILL_DEBUG"):
            raise
        text, code = last_words(error)
        typer.echo(f"fleetmill: {text}", err=True)
        sys.exit(code)

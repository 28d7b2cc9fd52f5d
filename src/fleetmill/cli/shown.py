"""What commands share: their options, tables and progress on a person's screen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

HomeOption = Annotated[Path | None, typer.Option("--home", help="Home folder. [FLEETMILL_HOME, ./fleetmill-home]")]
LineOption = Annotated[str, typer.Option("--line", help="Production line, e.g. driving, arm, rccar.")]
LogLevelOption = Annotated[str | None, typer.Option(help="debug, info, warning or error. [FLEETMILL_LOG_LEVEL, info]")]
LogFileOption = Annotated[
    str | None,
    typer.Option(help="Log to this file, turned over at 10 MB; warnings go to stderr too. [FLEETMILL_LOG_FILE]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]


def say(text: str) -> None:
    """Tell a person what happens, on stderr."""
    typer.echo(text, err=True)


def table(names: list[str], rows: list[list[str]]) -> None:
    """Rows under their names on stdout; not wrapped where stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False)
    for name in names:
        grid.add_column(name.replace("_", " "), overflow="fold", no_wrap=not sys.stdout.isatty())
    for row in rows:
        grid.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(grid)


class progress:  # noqa: N801 - reads as a verb where it is used
    """A progress bar on stderr for long work; nothing where stderr is no terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        self._title, self._task = title, None

    def __enter__(self) -> Any:
        self._bar.start()
        task = self._bar.add_task(self._title)
        return lambda step, of, metrics: self._bar.update(task, completed=step, total=of)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

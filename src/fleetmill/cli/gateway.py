"""The gateway itself: `fleetmill serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from fleetmill.cli.receipts import app
from fleetmill.cli.shown import HomeOption

__all__ = ["app"]


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    home: HomeOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0: any free one. [8790]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes at that port. [1]")] = None,
    provider: Annotated[
        list[str] | None, typer.Option(help="Of ONNX Runtime, for the lines' models; may be repeated. [CPU]")
    ] = None,
    follow: Annotated[int, typer.Option(hidden=True, help="One more process at the port of that process.")] = 0,
) -> None:
    """Answer for models: the OpenAI API for the servers in [[serve.backend]], the Open Inference Protocol for lines.

    Ends when it is told to (SIGTERM, Ctrl-C), and first finishes what it has begun.
    """
    if context.invoked_subcommand is not None:
        return
    from dataclasses import replace

    from fleetmill import logs
    from fleetmill.seams.processes import be_child_of
    from fleetmill.serving.gateway import serve as answer
    from fleetmill.settings import read_settings

    if follow:
        be_child_of(follow)
    settings = read_settings(home=home)
    given = {
        "host": host,
        "port": port,
        "workers": 1 if follow else workers,
        "providers": tuple(provider or ()) or None,
    }
    asked = replace(settings.serve, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    logs.set_up(settings.log_level, settings.log_file)
    if not answer(
        replace(settings, serve=asked),
        ready=lambda address: None if follow else typer.echo(f"gateway {address}"),
        follows=bool(follow),
    ):
        raise typer.Exit(4)

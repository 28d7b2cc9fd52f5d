"""Devices: enrol them, run one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fleetmill.cli.shown import HomeOption, JsonOption, LineOption
from fleetmill.core.errors import NotFoundError

app = typer.Typer(help="Devices: enrol them, run one.", no_args_is_help=True, rich_markup_mode=None)


@app.command("enrol")
def device_enrol(
    name: Annotated[str, typer.Argument(help="Name of the device, or @FILE with one name per line.")],
    line: LineOption,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a token that lets one device in, once. The factory may be running."""
    from fleetmill.core.ids import sha256
    from fleetmill.device.enrolment import Token
    from fleetmill.home import open_home
    from fleetmill.lines import find
    from fleetmill.receive import roll
    from fleetmill.settings import read_settings

    names = _names(Path(name[1:])) if name.startswith("@") else [name]
    with open_home(read_settings(home=home), own=False) as opened:
        root = sha256(opened.repository.root())
        tokens = {
            n: Token(name=n, secret=roll.invite(opened.ledger, n, line=find(line).name), root_sha256=root).text()
            for n in names
        }
    if as_json:
        typer.echo(json.dumps(tokens))
        return
    for n, token in tokens.items():
        typer.echo(token if len(tokens) == 1 else f"{n} {token}")


@app.command("run")
def device_run(
    factory: Annotated[str, typer.Option(help="The factory's address, e.g. http://127.0.0.1:8787.")],
    line: LineOption,
    device_home: Annotated[Path, typer.Option("--device-home", help="This device's own folder.")],
    token: Annotated[str | None, typer.Option(help="Token of `fleetmill device enrol`; needed once.")] = None,
    hardware: Annotated[str, typer.Option(help="Hardware kind.")] = "cpu",
    simulator_log: Annotated[
        Path | None, typer.Option(help="Where the simulated machine itself notes what it lived, for the audit.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(help="Live the MCAP recordings in this folder, one a session, instead of the line's world."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Do what can be done now, then end.")] = False,
    log_level: Annotated[
        str, typer.Option(envvar="FLEETMILL_LOG_LEVEL", help="debug, info, warning or error.")
    ] = "info",
    log_file: Annotated[
        str, typer.Option(envvar="FLEETMILL_LOG_FILE", help="Log to this file, turned over at 10 MB. [stderr]")
    ] = "",
) -> None:
    """Run one device agent: update, live, record, keep, hand over. Its log is JSON lines on stderr."""
    import logging

    import httpx

    from fleetmill import logs
    from fleetmill.demo.meter import metered
    from fleetmill.device.agent import open_agent
    from fleetmill.device.enrolment import checked_address, enrol, read_enrolled, read_token
    from fleetmill.device.replay import Recordings
    from fleetmill.lines import find

    logs.set_up(log_level, log_file)
    found = find(line)
    world = Recordings(line=found, folder=replay) if replay else found.world
    world = metered(world, simulator_log) if world and simulator_log else world
    if token is not None:
        with httpx.Client(base_url=checked_address(factory), timeout=30.0) as client:
            enrol(device_home, read_token(token), factory=factory, hardware=hardware, client=client)
    told = logging.getLogger("fleetmill.device").info
    with (
        logs.bound(device=read_enrolled(device_home).name, line=line),
        open_agent(device_home, found, factory=factory, world=world, say=lambda text: told("%s", text)) as agent,
    ):
        if once:
            agent.once()
        else:
            agent.forever()


def _names(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise NotFoundError(f"{path}: no list of names here. Give a text file with one name per line") from error

"""Devices: enrol them, run one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleetmill.cli.shown import HomeOption, JsonOption, LineOption
from fleetmill.core.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    import httpx

    from fleetmill.core.line import Line
    from fleetmill.device.asking import Desk
    from fleetmill.device.asking_rule import Permit

GatewayOption = Annotated[str, typer.Option(help="Address of the owner's gateway, `fleetmill serve`. [none]")]
KeyOption = Annotated[str, typer.Option(envvar="FLEETMILL_KEY", help="API key at the gateway.")]
ModelOption = Annotated[str, typer.Option("--model", help="Model to ask for at the gateway. [the line's name]")]
LabelOption = Annotated[
    str, typer.Option(help="open, attested, premises or device: how far a question may go. `device`: nowhere.")
]
ConsentOption = Annotated[bool, typer.Option("--partner", help="A question may go to a partner, as far as its label.")]

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
    gateway: GatewayOption = "",
    key: KeyOption = "",
    model: ModelOption = "",
    label: LabelOption = "premises",
    partner: ConsentOption = False,
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
    from fleetmill.device.answered import answering
    from fleetmill.device.enrolment import checked_address, enrol, read_enrolled, read_token
    from fleetmill.device.replay import Recordings
    from fleetmill.lines import find

    logs.set_up(log_level, log_file)
    found = find(line)
    world = Recordings(line=found, folder=replay) if replay else found.world
    desk = None
    if found.talk is not None and gateway:
        desk = _desk(found, _permit(label, partner, offline=False), _client(gateway), key, model)
        world = answering(world, desk, found) if world else None
    world = metered(world, simulator_log) if world and simulator_log else world
    if token is not None:
        with httpx.Client(base_url=checked_address(factory), timeout=30.0) as client:
            enrol(device_home, read_token(token), factory=factory, hardware=hardware, client=client)
    told = logging.getLogger("fleetmill.device").info
    with (
        logs.bound(device=read_enrolled(device_home).name, line=line),
        open_agent(
            device_home, found, factory=factory, world=world, desk=desk, say=lambda text: told("%s", text)
        ) as agent,
    ):
        if once:
            agent.once()
        else:
            agent.forever()


@app.command("ask")
def device_ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    device_home: Annotated[Path, typer.Option("--device-home", help="This device's own folder.")],
    gateway: GatewayOption = "",
    key: KeyOption = "",
    model: ModelOption = "",
    label: LabelOption = "premises",
    partner: ConsentOption = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nobody else.")] = False,
    learn: Annotated[
        bool, typer.Option("--learn", help="Your yes: question and answer are recorded, and the factory may learn.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask this device's model; where it is not sure and may, it asks the gateway. Works with the network cut.

    The answer goes to stdout, who gave it and why to stderr. The agent need not run.
    """
    import time

    from fleetmill.core.errors import UnavailableError
    from fleetmill.core.talk import Said
    from fleetmill.device import asked
    from fleetmill.device.agent import ASKED
    from fleetmill.device.enrolment import read_enrolled
    from fleetmill.lines import find

    line = find(read_enrolled(device_home).line)
    permit = _permit(label, partner, offline=offline)
    desk = _desk(line, permit, _client(gateway) if gateway else None, key, model)
    release = _open(desk, line, device_home)
    said = [Said(role="user", text=question)]
    reply = desk.answer(said)
    if reply.source is None:
        raise UnavailableError(f"nobody answered: {reply.why}")
    who, sure = reply.source.tier.name.lower(), reply.source.sure
    if learn:
        asked.keep(device_home / ASKED, said, reply.text, reply.source, time_ns=time.time_ns())
    if as_json:
        told = {
            "answer": reply.text,
            "who": who,
            "sure": None if sure != sure else sure,
            "why": reply.why,
            "may_train": reply.source.may_train,
            "model": reply.model,
            "release": release,
            "recorded": learn,
        }
        typer.echo(json.dumps(told))
        return
    typer.echo(reply.text)
    runs = f"model {reply.model[:12]}, release {release}" if reply.model else "no model of its own"
    typer.echo(f"answered by: {who}; {reply.why}; {runs}", err=True)


def _desk(line: Line, permit: Permit, client: httpx.Client | None, key: str, model: str) -> Desk:
    from fleetmill.device.asking import Desk, Gateway

    if line.talk is None:
        raise InvalidInputError(f"line {line.name}: nobody can speak with its model. Give a device of another line")
    return Desk(
        talk=line.talk,
        permit=permit,
        gateway=Gateway(client=client, key=key, model=model or line.name) if client else None,
    )


def _open(desk: Desk, line: Line, folder: Path) -> int:
    """Load what runs on the device, within the memory that was signed for it; the release's number, 0: nothing runs."""
    from fleetmill.device.health import bound_memory
    from fleetmill.device.running import running
    from fleetmill.engines.runtime_onnx import OnnxRuntime
    from fleetmill.seams.runtime import policies

    found = running(folder)
    if found is None:
        return 0
    release, data = found
    bound_memory(release.memory_bytes)
    desk.runs(policies(line, OnnxRuntime(), {"model.onnx": data}), release.model, release.talk)
    return release.counter


def _permit(label: str, partner: bool, *, offline: bool) -> Permit:
    from fleetmill.core.serve import Label
    from fleetmill.device.asking_rule import Permit

    if label.upper() not in Label.__members__:
        choices = ", ".join(found.name.lower() for found in Label)
        raise InvalidInputError(f"--label {label}: must be one of {choices}")
    return Permit(label=Label[label.upper()], consent=partner, offline=offline)


def _client(gateway: str) -> httpx.Client:
    import httpx

    from fleetmill.device.enrolment import checked_address

    return httpx.Client(base_url=checked_address(gateway), timeout=60.0)


def _names(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise NotFoundError(f"{path}: no list of names here. Give a text file with one name per line") from error

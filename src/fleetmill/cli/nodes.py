"""The servers behind the gateway: how one is started, how it comes in and goes, how all stand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from fleetmill.cli.serving import app
from fleetmill.cli.shown import HomeOption, JsonOption, table
from fleetmill.core.errors import InvalidInputError
from fleetmill.core.plain import plain

if TYPE_CHECKING:
    from fleetmill.serve.servers.roster import Seen
    from fleetmill.serve.servers.running import Running

__all__ = ["app"]

NameArgument = Annotated[str, typer.Argument(help="Name of the server in the pool.")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
def engine(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Kind of server; without --model all kinds are listed.")] = "",
    model: Annotated[str, typer.Option(help="File or folder of the model; of `onnx` and `coreml` a home.")] = "",
    called: Annotated[str, typer.Option("--name", help="Under which clients ask for it.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.")] = 8080,
    context_tokens: Annotated[int, typer.Option("--context", help="Tokens per answer. [the engine's own]")] = 0,
    at_once: Annotated[int, typer.Option(help="Answers side by side. [the engine's own]")] = 0,
    run: Annotated[bool, typer.Option("--run", help="Start it in place of this process.")] = False,
) -> None:
    """Print the command that starts a server of a kind; what follows `--` is handed on to it."""
    import os
    import shlex
    import sys

    from fleetmill.core.errors import NotFoundError
    from fleetmill.engines.serving import known
    from fleetmill.seams.engine import Start

    if not name:
        engines = known.ENGINES.values()
        rows = [[e.name, "yes" if e.goes_on else "no", ", ".join(sorted(e.capabilities))] for e in engines]
        table(["engine", "goes on", "capabilities"], rows)
        return
    kind = known.find(name)
    if not model:
        raise InvalidInputError("--model: say what it shall serve")
    asked = Start(
        model=model,
        name=called,
        host=host,
        port=port,
        context=context_tokens,
        at_once=at_once,
        more=tuple(context.args),
    )
    words = kind.start(asked)
    if not run:
        typer.echo(shlex.join(words))
        return
    try:
        program = sys.executable if words[0] == "python" else words[0]  # what is installed beside us
        os.execvp(program, words)  # noqa: S606 - the words are the adapter's and the owner's
    except FileNotFoundError:
        raise NotFoundError(f"{words[0]}: is not on the PATH. See docs/engines/{kind.name}.md") from None


@app.command()
def join(
    name: NameArgument,
    address: Annotated[str, typer.Argument(help="http://host:port. [one of the settings that left comes back]")] = "",
    kind: Annotated[str, typer.Option("--engine", help="Kind of server, see `fleetmill serve engine`.")] = "openai_url",
    tier: Annotated[str, typer.Option(help="device, premises, attested or partner.")] = "premises",
    capacity: Annotated[int, typer.Option(help="Requests at once.")] = 8,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Only this of its models, NAME or NAME=DIGEST of its weights; may be repeated. [all]"),
    ] = None,
    key_env: Annotated[str, typer.Option(help="Environment variable of the gateway with the key that it wants.")] = "",
    supplier: Annotated[str, typer.Option(help="Who made or runs it.")] = "",
    hardware: Annotated[str, typer.Option(help="What it runs on.")] = "",
    price_in: Annotated[float, typer.Option(help="Money per million tokens that it reads.")] = 0.0,
    price_out: Annotated[float, typer.Option(help="Money per million tokens that it writes.")] = 0.0,
    watts: Annotated[float, typer.Option(help="Power while it writes.")] = 0.0,
    tokens_per_second: Annotated[float, typer.Option(help="That it writes in all, when busy.")] = 0.0,
    money_per_kwh: Annotated[float, typer.Option(help="Price of energy.")] = 0.0,
    money_per_hour: Annotated[float, typer.Option(help="Amortisation, rent.")] = 0.0,
    contract: Annotated[
        str, typer.Option(help="Where it stands that its answers may become training data. [they may not]")
    ] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a server into the pool, without a restart and for good. It is asked what it serves first."""
    from fleetmill.serving import nodes
    from fleetmill.settings import BackendSettings, ModelSettings, read_settings

    settings = read_settings(home=home)
    if not address:
        nodes.come_back(settings, name)
        typer.echo(f"server {name} comes back; gateways take it in within a second")
        return
    named = [m.partition("=") for m in model or ()]
    backend = BackendSettings(
        name=name,
        address=address,
        models=tuple(ModelSettings(name=m, digest=digest) for m, _, digest in named),
        tier=tier,
        engine=kind,
        capacity=capacity,
        key_env=key_env,
        supplier=supplier,
        hardware=hardware,
        money_per_million_in=price_in,
        money_per_million_out=price_out,
        watts=watts,
        tokens_per_second=tokens_per_second,
        money_per_kwh=money_per_kwh,
        money_per_hour=money_per_hour,
        may_train=bool(contract),
        contract=contract,
    )
    found = nodes.join(settings, backend)
    chosen = {n for n in found if not named or n in {m for m, _, _ in named}}
    if as_json:
        typer.echo(json.dumps(plain({"name": name, "models": sorted(chosen)})))
        return
    typer.echo(f"server {name} joins with {', '.join(sorted(chosen))}; gateways take it in within a second")


@app.command()
def leave(
    name: NameArgument,
    seconds: Annotated[float, typer.Option(help="Wait so long for its answers to be whole.")] = 60.0,
    home: HomeOption = None,
) -> None:
    """Let a server go: it gets nothing new, what it has begun it finishes. Exit code 4: it had not finished in time."""
    from fleetmill.core.errors import UnavailableError
    from fleetmill.serving import nodes
    from fleetmill.settings import read_settings

    left = nodes.leave(read_settings(home=home), name, seconds=seconds)
    if left:
        raise UnavailableError(f"server {name}: {left} processes finish its answers still, after {seconds:g} s")
    typer.echo(f"server {name} has left")


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show how each server of the running gateways stands. Exit code 4: no gateway runs."""
    from fleetmill.core.errors import UnavailableError
    from fleetmill.serving import nodes
    from fleetmill.settings import read_settings

    settings = read_settings(home=home)
    found = nodes.stand(settings)
    if as_json:
        typer.echo(json.dumps(plain(found)))
    if not found:
        raise UnavailableError(f"{settings.home}: no gateway of this home runs. Start `fleetmill serve`")
    if not as_json:
        names = ["process", "server", "state", "tier", "engine", "in_flight", "says", "models", "why"]
        table(names, [_row(one, seen) for one in found for seen in one.servers])


def _row(one: Running, seen: Seen) -> list[str]:
    load = seen.load
    says = "" if load is None else f"{load.running} running, {load.waiting} waiting"
    return [
        str(one.pid),
        seen.name,
        seen.state,
        seen.tier,
        seen.engine,
        str(seen.in_flight),
        says,
        ", ".join(seen.models),
        seen.why,
    ]

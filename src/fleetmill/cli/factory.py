"""The factory: make a home, run it, bring recordings in, turn by hand, score."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from fleetmill.cli.shown import (
    HomeOption,
    JsonOption,
    LineOption,
    LogFileOption,
    LogLevelOption,
    progress,
    say,
    table,
)
from fleetmill.core.plain import plain
from fleetmill.core.verdict import Verdict

app = typer.Typer()
_ROOT_KEY = """
The root key is {place}
  Move it to a medium that you lock away: who has it decides what your devices run. The factory works without it.
  Needed once a year, and when another key is lost or stolen: fleetmill renew --home {home} --root-key PATH
  If it is lost: everything goes on until the root expires, a year after it was last renewed. Before that day make a new
  home and enrol the devices anew. After it they run what they have and take nothing new. Steps: docs/operations.md
"""


@app.command()
def init(
    home: HomeOption = None,
    root_key: Annotated[
        Path | None, typer.Option(help="Where the private root key goes, outside the home. [beside the home]")
    ] = None,
) -> None:
    """Make a home: ledger, blobs, keys, the signed repository. The root key goes elsewhere: lock it away."""
    from fleetmill.home import init_home, is_made, root_key_beside
    from fleetmill.settings import read_settings

    settings = read_settings(home=home)
    made_before = is_made(settings.home)
    init_home(settings, now_ns=time.time_ns(), root_key=root_key)
    if made_before:
        typer.echo(f"home {settings.home} is there already; nothing was changed")
        return
    place = root_key or root_key_beside(settings.home)
    typer.echo(f"home {settings.home} is ready. Next: fleetmill up --home {settings.home}")
    say(_ROOT_KEY.format(place=place, home=settings.home))


@app.command()
def up(
    home: HomeOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    loop: Annotated[bool, typer.Option(help="Turn by itself when enough recordings have arrived.")] = True,
    serve: Annotated[
        bool | None, typer.Option(help="Answer for models at the same address. [if the settings have [serve]]")
    ] = None,
    log_level: LogLevelOption = None,
    log_file: LogFileOption = None,
) -> None:
    """Run the factory: HTTP for devices, and the loop that turns by itself. Its log is JSON lines on stderr."""
    from fleetmill import logs
    from fleetmill.api.up import up as run
    from fleetmill.settings import read_settings

    settings = read_settings(home=home, host=host, port=port, log_level=log_level, log_file=log_file)
    logs.set_up(settings.log_level, settings.log_file)
    code = run(
        settings,
        ready=lambda address: typer.echo(f"factory {address}"),
        turning=loop,
        serving=serve,
    )
    raise typer.Exit(code)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="Folder, zip archive or file: Donkeycar v2 tub, MCAP.")],
    line: LineOption,
    device: Annotated[str, typer.Option(help="Device that the recordings are booked on.")],
    tag: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, may be repeated, e.g. room=a.")] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Pass over broken records; the books call their time unreadable.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring foreign recordings in."""
    from fleetmill.home import open_home
    from fleetmill.lines import find
    from fleetmill.receive.imports import import_path
    from fleetmill.settings import read_settings

    tags = dict(_tag(t) for t in tag or [])
    with open_home(read_settings(home=home), own=False) as opened:
        sessions = import_path(
            opened.ledger,
            opened.books,
            opened.blobs,
            find(line),
            path,
            device=device,
            tags=tags,
            skip_broken=skip_broken,
        )
    if as_json:
        typer.echo(json.dumps([plain(s) for s in sessions]))
        return
    seconds = sum(s.end_ns - s.start_ns for s in sessions) / 1e9
    typer.echo(f"{len(sessions)} sessions, {seconds:.0f} s, {sum(s.recorded_bytes for s in sessions) / 1e6:.1f} MB")


@app.command()
def turn(line: LineOption, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Turn the loop once by hand: what has arrived becomes a candidate, and is accepted or held."""
    from fleetmill import due, loop
    from fleetmill.home import open_home
    from fleetmill.lines import find
    from fleetmill.settings import read_settings

    settings, found = read_settings(home=home), find(line)
    with open_home(settings, workers=settings.workers) as opened, progress("training") as told:
        examined = loop.examine(opened, found)
        turned = loop.turn(opened, found, progress=told)
        waiting = due.waiting(opened, found)
    if as_json:
        said = plain(turned) if turned else {"waiting_for_sessions": waiting.sessions, "waiting": plain(waiting)}
        typer.echo(json.dumps({**said, "examined": plain(examined) if examined else None}))
        return
    if examined is not None:
        _tell(f"model {examined.candidate[:12]}, made elsewhere", examined)
    if turned is None:
        typer.echo(f"nothing to turn: {waiting.sentence()}")
        return
    if turned.anew:
        typer.echo(turned.anew)
    _tell(f"turn {turned.number}, model {turned.candidate.digest[:12]}", turned.verdict)
    if turned.release:
        typer.echo(f"release {turned.release.counter} is signed and published")


def _tell(what: str, verdict: Verdict) -> None:
    typer.echo(f"{what}: {verdict.decision.replace('_', ' ')}")
    for reason in verdict.sentences():
        typer.echo(f"  {reason}")


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="champion, a release number, or a digest.")],
    path: Annotated[Path, typer.Argument(help="Recordings, foreign formats included.")],
    line: LineOption,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a model on recordings that the factory need never have seen."""
    from fleetmill.home import open_home
    from fleetmill.lines import find
    from fleetmill.score import score as judge
    from fleetmill.settings import read_settings

    with open_home(read_settings(home=home), own=False) as opened:
        result = judge(opened, find(line), model, path)
    if as_json:
        sessions = [{**plain(s), "seen": s.seen} for s in result.sessions]
        typer.echo(json.dumps({**plain(result), "sessions": sessions}))
        return
    names = sorted(result.total)
    rows = [[s.session, "seen" if s.seen else "unseen", str(s.frames)] for s in result.sessions]
    rows = [[*row, *(f"{s.metrics.get(n, float('nan')):.3f}" for n in names)] for row, s in zip(rows, result.sessions)]
    for title, metrics in (("all", result.total), ("seen", result.seen), ("unseen", result.unseen)):
        if metrics:
            rows.append([title, "", "", *(f"{metrics.get(n, float('nan')):.3f}" for n in names)])
    table(["session", "factory", "frames", *names], rows)


def _tag(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not key or not value:
        raise typer.BadParameter(f"{text!r}: must be KEY=VALUE")
    return key, value

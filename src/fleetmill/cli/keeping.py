"""Living with a home: settings, doctor, upgrade, renew, gc."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from fleetmill.cli.shown import HomeOption, JsonOption, table
from fleetmill.core.plain import plain

app = typer.Typer()


@app.command()
def settings(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show every setting in force, those of each line too, and where it came from."""
    from fleetmill.home import check_format, is_made
    from fleetmill.settings import explain

    found = explain(home=home)
    place = Path(found[0].value)
    if is_made(place):
        check_format(place)  # a newer version's file may mean something else
    if as_json:
        rows = [{"name": s.name, "value": _shown(s.value), "source": s.source} for s in found]
        typer.echo(json.dumps(rows))
        return
    table(["setting", "value", "source"], [[s.name, _text(s.value), s.source] for s in found])


@app.command()
def doctor(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Look the home over: disk, clock, port, keys, lines, ledger, leftovers. Exit code 1: something is to be done."""
    from fleetmill.care.doctor import examine
    from fleetmill.care.doctor_rule import is_well
    from fleetmill.settings import read_settings

    chosen = read_settings(home=home)
    found = examine(chosen, now_ns=time.time_ns())
    if as_json:
        typer.echo(json.dumps(plain(found)))
    for s in () if as_json else found:
        typer.echo(f"{s.severity:<8} {s.where}: {s.what}\n{'':<8} {s.do}")
    if not as_json and is_well(found):
        typer.echo(f"home {chosen.home} is well")
    raise typer.Exit(0 if is_well(found) else 1)


@app.command()
def upgrade(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Bring the home to this version's format. Copies what changes first; may be called again after a crash."""
    from fleetmill.care.upgrade import upgrade as bring_up
    from fleetmill.settings import read_settings

    done = bring_up(read_settings(home=home), now_ns=time.time_ns())
    if as_json:
        typer.echo(json.dumps(plain(done)))
    elif not done.backup:
        typer.echo(f"home {done.home} is of format {done.format} already; nothing was changed")
    else:
        typer.echo(
            f"home {done.home}: format {done.format_before} became {done.format}, {done.facts} facts, chain whole"
        )
        typer.echo(f"what it was before lies in {done.backup}")


@app.command()
def renew(
    home: HomeOption = None,
    root_key: Annotated[
        Path | None, typer.Option(help="The root key, from where you keep it. [beside the home]")
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(help="targets, snapshot or timestamp: make a new key for it; may be repeated."),
    ] = None,
    ahead: Annotated[
        bool,
        typer.Option("--ahead", help="Instead: raise every number that devices remember, after a copy was restored."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Sign the root of trust for another year, and replace lost or stolen keys. The factory may be running."""
    from fleetmill.care import renewal
    from fleetmill.settings import read_settings

    chosen, now_ns = read_settings(home=home), time.time_ns()
    if ahead and (root_key or replace):
        raise typer.BadParameter("--ahead goes alone: it needs no root key and replaces none")
    if ahead:
        done = renewal.go_ahead(chosen, now_ns=now_ns)
    else:
        done = renewal.renew(chosen, now_ns=now_ns, root_key=root_key, replace=replace or ())
    if as_json:
        typer.echo(json.dumps(plain(done)))
        return
    if done.root_key:
        typer.echo(f"root {done.root} is signed with {done.root_key}; new keys: {', '.join(done.replaced) or 'none'}")
    else:
        typer.echo("the list is signed under higher numbers than any that devices can have seen")
    for role, until_ns in done.expires_ns.items():
        until = datetime.fromtimestamp(until_ns // 10**9, tz=timezone.utc)
        typer.echo(f"  {role} is good until {until:%Y-%m-%d %H:%M} UTC")


@app.command()
def gc(
    home: HomeOption = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it. Without this it is only shown.")] = False,
    older_than: Annotated[float, typer.Option(min=0.0, help="Hours: what is younger stays, whatever it is.")] = 24.0,
    as_json: JsonOption = False,
) -> None:
    """Show, or delete, what nobody needs: blobs that no fact names, ended trainings, old metadata, leftovers."""
    from fleetmill.care.collect import collect
    from fleetmill.settings import read_settings

    chosen = read_settings(home=home)
    done = collect(chosen, now_ns=time.time_ns(), delete=delete, young_ns=int(older_than * 3.6e12))
    if as_json:
        typer.echo(json.dumps({**plain(done), "bytes": done.bytes}))
        return
    if done.waste:
        table(["kind", "path", "bytes"], [[w.kind, w.path, str(w.bytes)] for w in done.waste])
    word = "are deleted" if done.deleted else "can go: run again with --delete"
    typer.echo(f"{len(done.waste)} things, {done.bytes / 1e6:.1f} MB, {word}" if done.waste else "nothing can go")
    kept = f"{done.needed_blobs} blobs that facts need, {done.needed_bytes / 1e6:.1f} MB"
    typer.echo(f"kept: {kept}; {done.young} things are too young")


def _shown(value: object) -> object:
    return str(value) if isinstance(value, Path) else plain(value)


def _text(value: object) -> str:
    shown = _shown(value)
    return shown if isinstance(shown, str) else json.dumps(shown)

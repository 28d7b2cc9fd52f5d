"""What the factory answers: what stands where, and whether the books balance."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fleetmill.cli.shown import HomeOption, JsonOption, table
from fleetmill.core.plain import plain

app = typer.Typer()

_SILENT_SECONDS = 3600.0  # after which the books say that a device does not report


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show devices, datasets, models, releases and turns."""
    from fleetmill.home import open_home
    from fleetmill.settings import read_settings
    from fleetmill.status import status as look

    with open_home(read_settings(home=home), own=False) as opened:
        found = look(opened)
    if as_json:
        typer.echo(json.dumps(plain(found)))
        return
    table(
        ["device", "line", "sessions", "lived s", "release", "last report"],
        [
            [d.name, d.line, str(d.sessions), f"{d.lived_seconds:.0f}", str(d.release), d.last_report[:60]]
            for d in found.devices
        ],
    )
    table(
        ["dataset", "line", "sessions", "frames"],
        [[d["digest"][:12], d["line"], str(d["sessions"]), str(d["frames"])] for d in found.datasets],
    )
    table(
        ["turn", "line", "candidate", "decision", "release"],
        [[str(t["turn"]), t["line"], t["candidate"][:12], t["decision"], str(t["release"])] for t in found.turns],
    )
    for line, waiting in found.waiting.items():
        typer.echo(f"next turn of {line}: {waiting.sentence()}")


@app.command()
def books(
    home: HomeOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="Make the books again from the facts and compare.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the balance of the experience ledger; exit code 1 when it does not balance."""
    from fleetmill.home import open_home
    from fleetmill.settings import read_settings
    from fleetmill.status import accounts, unreported

    with open_home(read_settings(home=home), own=False) as opened:
        rows, faults, silent = accounts(opened), opened.books.faults(), unreported(opened)
        if verify:
            opened.ledger.verify()
            faults += opened.books.verify()
    if as_json:
        typer.echo(json.dumps({"rows": rows, "unreported": silent, "faults": faults, "balanced": not faults}))
    else:
        names = ["device", "day", "account", "reason", "seconds", "bytes"]
        table(names, [[*(str(r[n]) for n in names[:4]), f"{r['seconds']:.3f}", str(r["bytes"])] for r in rows])
        for row in silent:
            if row["heard_seconds_ago"] > _SILENT_SECONDS:
                hours = row["heard_seconds_ago"] / 3600
                typer.echo(f"unreported: {row['device']}: nothing was heard for {hours:.1f} h; since then: unknown")
        for fault in faults:
            typer.echo(f"NOT BALANCED: {fault}")
        if not faults:
            typer.echo(f"balanced: {sum(r['ns'] for r in rows) / 1e9:.3f} s lived, every one in exactly one account")
    if faults:
        raise typer.Exit(1)

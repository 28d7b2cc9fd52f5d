"""The command line: one command per verb, no logic. A refusal is one line and an exit code, never a traceback.

Exit codes: 0 done; 1 the books do not balance, or an engine failed; 2 bad input; 3 integrity; 4 unavailable.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fleetmill.core.errors import NotFoundError, last_words
from fleetmill.core.plain import plain

app = typer.Typer(
    name="fleetmill",
    help="An AI factory that you own: a fleet records, the factory learns, proves, signs and ships back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
devices = typer.Typer(help="Devices: enrol them, run one.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(devices, name="device")

_SILENT_SECONDS = 3600.0  # after which the books say that a device does not report

HomeOption = Annotated[Path | None, typer.Option("--home", help="Home folder. [FLEETMILL_HOME, ./fleetmill-home]")]
LineOption = Annotated[str, typer.Option("--line", help="Production line, e.g. driving, arm, rccar.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]


@app.command()
def init(home: HomeOption = None) -> None:
    """Make a home: ledger, blobs, keys, the signed repository."""
    from fleetmill.home import init_home
    from fleetmill.settings import read_settings

    settings = read_settings(home=home)
    init_home(settings, now_ns=time.time_ns())
    typer.echo(f"home {settings.home} is ready. Next: fleetmill up --home {settings.home}")


@app.command()
def up(
    home: HomeOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    loop: Annotated[bool, typer.Option(help="Turn by itself when enough recordings have arrived.")] = True,
) -> None:
    """Run the factory: HTTP for devices, and the loop that turns by itself."""
    from fleetmill.api.up import up as serve
    from fleetmill.settings import read_settings

    code = serve(
        read_settings(home=home, host=host, port=port),
        ready=lambda address: typer.echo(f"factory {address}"),
        turning=loop,
    )
    raise typer.Exit(code)


@devices.command("enrol")
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


@devices.command("run")
def device_run(
    factory: Annotated[str, typer.Option(help="The factory's address, e.g. http://127.0.0.1:8787.")],
    line: LineOption,
    device_home: Annotated[Path, typer.Option("--device-home", help="This device's own folder.")],
    token: Annotated[str | None, typer.Option(help="Token of `fleetmill device enrol`; needed once.")] = None,
    hardware: Annotated[str, typer.Option(help="Hardware kind.")] = "cpu",
    simulator_log: Annotated[
        Path | None, typer.Option(help="Where the simulated machine itself notes what it lived, for the audit.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Do what can be done now, then end.")] = False,
) -> None:
    """Run one device agent: update, live, record, keep, hand over."""
    import httpx

    from fleetmill.demo.meter import metered
    from fleetmill.device.agent import open_agent
    from fleetmill.device.enrolment import checked_address, enrol, read_token
    from fleetmill.lines import find

    found = find(line)
    world = metered(found.world, simulator_log) if found.world and simulator_log else None
    if token is not None:
        with httpx.Client(base_url=checked_address(factory), timeout=30.0) as client:
            enrol(device_home, read_token(token), factory=factory, hardware=hardware, client=client)
    with open_agent(device_home, found, factory=factory, world=world, say=_say) as agent:
        if once:
            agent.once()
        else:
            agent.forever()


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
    with open_home(read_settings(home=home)) as opened:
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
    from fleetmill import loop
    from fleetmill.home import open_home
    from fleetmill.lines import find
    from fleetmill.settings import read_settings

    settings = read_settings(home=home)
    with open_home(settings, workers=settings.workers) as opened, _progress("training") as progress:
        turned = loop.turn(opened, find(line), progress=progress)
        waiting = loop.waiting_for(opened, find(line)) if turned is None else 0
    if as_json:
        typer.echo(json.dumps(plain(turned) if turned else {"waiting_for_sessions": waiting}))
        return
    if turned is None:
        typer.echo(f"nothing to turn: {waiting} more closed sessions are needed")
        return
    typer.echo(f"turn {turned.number}: {turned.verdict.decision} ({turned.candidate.digest[:12]})")
    for reason in turned.verdict.reasons:
        typer.echo(f"  {reason.sentence()}")
    if turned.release:
        typer.echo(f"release {turned.release.counter} is signed and published")


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
    _table(["session", "factory", "frames", *names], rows)


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
    _table(
        ["device", "line", "sessions", "lived s", "release", "last report"],
        [
            [d.name, d.line, str(d.sessions), f"{d.lived_seconds:.0f}", str(d.release), d.last_report[:60]]
            for d in found.devices
        ],
    )
    _table(
        ["dataset", "line", "sessions", "frames"],
        [[d["digest"][:12], d["line"], str(d["sessions"]), str(d["frames"])] for d in found.datasets],
    )
    _table(
        ["turn", "line", "candidate", "decision", "release"],
        [[str(t["turn"]), t["line"], t["candidate"][:12], t["decision"], str(t["release"])] for t in found.turns],
    )


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
        _table(names, [[*(str(r[n]) for n in names[:4]), f"{r['seconds']:.3f}", str(r["bytes"])] for r in rows])
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


@app.command()
def demo(
    line: Annotated[str | None, typer.Option("--line", help="A line with a simulated fleet.")] = None,
    generations: Annotated[int | None, typer.Option(help="How often the loop turns.")] = None,
    fleet: Annotated[int | None, typer.Option("--devices", help="Number of devices.")] = None,
    seed: Annotated[int, typer.Option(help="Of training, gate and the fleet's worlds.")] = 0,
    labels: Annotated[str, typer.Option(help="oracle (the expert relabels) or driver (what he did).")] = "oracle",
    out: Annotated[Path | None, typer.Option(help="Folder for everything. [demo-LINE-SEED]")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two generations in about a minute.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a factory and a simulated fleet on this machine: the loop turns, the fleet gets better, a report says so."""
    from fleetmill.demo import run
    from fleetmill.demo.picture import sentence

    chosen = line or run.default_line(quick=quick)
    plan = run.make_plan(
        chosen, generations=generations, devices=fleet, seed=seed, labels=labels, folder=out, quick=quick
    )
    found = run.demo(plan, say=_say)
    if as_json:
        typer.echo(json.dumps({k: v for k, v in found.items() if k != "tallies"}))
        return
    _generations(found)
    typer.echo(f"{found['cpu_seconds']:.0f} CPU-seconds over all processes, {found['wall_seconds']:.0f} s")
    typer.echo(sentence(found))
    typer.echo(found["audit"]["line"])
    typer.echo(f"report: {plan.folder / 'report.html'}")


def _generations(found: dict[str, Any]) -> None:
    metric, rows = found["metric"], []
    names = [n for n in found["control"] if n not in (metric, "ci_low", "ci_high", "generation")]
    for g in [*found["generations"], found["control"]]:
        last = g is found["control"]
        share = 0 if last else 100 * g["uploaded_bytes"] / max(g["recorded_bytes"], 1)
        rows.append(
            [
                "control" if last else str(g["generation"]),
                f"{g[metric]:.3g}",
                f"{g['ci_low']:.3g} to {g['ci_high']:.3g}",
                *(f"{g.get(n, 0):.3g}" for n in names),
                "" if last else g["decision"].replace("_", " "),
                "" if last else f"{share:.0f} %",
            ]
        )
    _table(["generation", metric, "95 %", *names, "gate", "uploaded"], rows)


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


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _names(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise NotFoundError(f"{path}: no list of names here. Give a text file with one name per line") from error


def _tag(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not key or not value:
        raise typer.BadParameter(f"{text!r}: must be KEY=VALUE")
    return key, value


def _table(names: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold", no_wrap=not sys.stdout.isatty())
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


class _progress:  # noqa: N801 - reads as a verb where it is used
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


if __name__ == "__main__":
    main()

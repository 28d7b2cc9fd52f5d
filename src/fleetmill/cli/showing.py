"""The demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fleetmill.cli.shown import JsonOption, say, table
from fleetmill.core.plain import plain

app = typer.Typer()


@app.command()
def demo(
    line: Annotated[
        str | None, typer.Option("--line", help="A line with a world, or with recordings to replay.")
    ] = None,
    generations: Annotated[int | None, typer.Option(help="How often the loop turns.")] = None,
    fleet: Annotated[int | None, typer.Option("--devices", help="Number of devices, 3 to 99.")] = None,
    seed: Annotated[int, typer.Option(help="Of training, gate and the fleet's worlds; 0 to 89.")] = 0,
    labels: Annotated[str, typer.Option(help="oracle (the expert relabels) or driver (what he did).")] = "oracle",
    sessions: Annotated[int | None, typer.Option(help="Sessions of each device in a generation.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Recordings that the fleet of a line without world replays. [made up]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for everything. [demo-LINE-SEED]")] = None,
    calm: Annotated[bool, typer.Option("--calm", help="Leave the accidents and attacks out.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Two generations in about a minute.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a factory and a fleet, simulated or replayed, on this machine: the loop turns, a report says what came."""
    from fleetmill.demo import run
    from fleetmill.demo.picture import sentence

    chosen = line or run.default_line(quick=quick)
    plan = run.make_plan(
        chosen,
        generations=generations,
        devices=fleet,
        seed=seed,
        labels=labels,
        folder=out,
        quick=quick,
        calm=calm,
        data=data,
        sessions=sessions,
    )
    found = run.demo(plan, say=say)
    if as_json:
        typer.echo(json.dumps({k: v for k, v in found.items() if k != "tallies"}))
        return
    _generations(found)
    typer.echo(f"{found['cpu_seconds']:.0f} CPU-seconds over all processes, {found['wall_seconds']:.0f} s")
    typer.echo(sentence(found))
    typer.echo(found["audit"]["line"])
    typer.echo(f"report: {plan.folder / 'report.html'}")


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="The report.html of a demo.")],
    verify: Annotated[bool, typer.Option("--verify", help="Make every number again from the facts.")] = False,
    home: Annotated[Path | None, typer.Option("--home", help="The demo's home. [beside FILE]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a demo's report: each number on it is made again from its fact; exit code 3 when one differs."""
    from fleetmill.core.errors import IntegrityError, InvalidInputError
    from fleetmill.demo.numbers import read_page
    from fleetmill.demo.numbers import verify as check
    from fleetmill.home import open_home
    from fleetmill.settings import read_settings

    if not verify:
        raise InvalidInputError(f"report {file}: open it in a browser; to make its numbers again add --verify")
    html = read_page(file)
    with open_home(read_settings(home=home or file.parent / "home"), own=False) as opened:
        found = check(html, opened)
    if as_json:
        typer.echo(json.dumps(plain(found)))
    for fault in found.faults if not as_json else ():
        typer.echo(f"DIFFERS: {fault}")
    if found.faults:
        raise IntegrityError(f"{file}: {len(found.faults)} of its numbers do not follow from the facts of this home")
    if not as_json:
        typer.echo(f"{file}: all {found.numbers} numbers follow again from {found.facts} facts")


def _generations(found: dict[str, Any]) -> None:
    metric, rows = found["metric"], []
    names = [n for n in found["control"] if n not in (metric, "ci_low", "ci_high", "generation")]
    sides = {name: found[name] for name in ("control", "baseline") if name in found}
    for name, g in [*((str(g["generation"]), g) for g in found["generations"]), *sides.items()]:
        last = name in sides
        share = 0 if last else 100 * g["uploaded_bytes"] / max(g["recorded_bytes"], 1)
        rows.append(
            [
                name,
                f"{g[metric]:.3g}",
                f"{g['ci_low']:.3g} to {g['ci_high']:.3g}",
                *(f"{g.get(n, 0):.3g}" for n in names),
                "" if last else g["decision"].replace("_", " "),
                "" if last else f"{share:.0f} %",
            ]
        )
    table(["generation", metric, "95 %", *names, "gate", "uploaded"], rows)

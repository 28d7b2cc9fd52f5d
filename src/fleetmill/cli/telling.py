"""What the champion tells beforehand, for those who run no model: forecasts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleetmill.cli.learned import OneLine
from fleetmill.cli.shown import HomeOption, JsonOption
from fleetmill.core.moment import short
from fleetmill.core.plain import plain

if TYPE_CHECKING:
    from fleetmill.core.forecast import Metric, TrackRecord
    from fleetmill.findings.foretold import Told

app = typer.Typer()


@app.command()
def forecasts(
    line: OneLine = None,
    device: Annotated[str | None, typer.Option("--device", help="Of this device alone.")] = None,
    after: Annotated[
        int | None, typer.Option("--after", help="All that were told after this fact. [the newest of each device]")
    ] = None,
    look: Annotated[
        bool, typer.Option("--look", help="First score what is known by now, and tell what is not; needs --line.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what the champion says of each device's next time: signed, with how well that turned out so far."""
    from fleetmill import forecasts as telling
    from fleetmill.findings.foretold import TrackRecords, line_of, told
    from fleetmill.home import open_home
    from fleetmill.lines import find
    from fleetmill.settings import read_settings

    if look and line is None:
        raise typer.BadParameter("--look needs --line")
    with open_home(read_settings(home=home), own=False) as opened:
        looked = telling.look(opened, find(line)) if look and line else None
        named = find(line_of(opened.ledger, line))
        found = told(
            opened.ledger,
            opened.blobs,
            named,
            device=device,
            after=after,
            verify=lambda data, signature: opened.repository.verify_statement(data, signature, what="forecast"),
        )
        record = TrackRecords(opened.ledger).of(named, device)
    if as_json:
        shown = {"line": named.name, "track_record": plain(record), "forecasts": [t.shown() for t in found]}
        typer.echo(json.dumps({**shown, "looked": plain(looked)}))
        return
    if looked is not None:
        typer.echo(f"looked: {looked.scored} scored, {looked.told} told")
    for each in found:
        _print(each)
    typer.echo(_said(record))


def _print(told: Told) -> None:
    f = told.foretold
    typer.echo(
        f"{f.device}: at {short(f.at_ns)}, by release {f.release} (model {f.model[:12]}, version {f.line_version} of "
        f"line {f.line}; fact {told.fact}, signed by key {told.signature.keyid[:12]})"
    )
    if told.alarm:
        rung = ", ".join(short(at) for at in f.alarms(told.alarm))
        since = f"{short(f.times_ns[0])} to {short(f.times_ns[-1])}, {len(f.times_ns)} instants"
        typer.echo(f"  looked at {since}: {f'alarm at {rung}' if rung else 'no alarm'}")
    else:
        typer.echo(f"  of {short(f.due.start_ns)} to {short(f.due.end_ns)}")
        for name, told_of in f.values.items():
            typer.echo(f"  {name} [{told_of.unit}]: {_numbers(told_of.rows[-1])}")
    if told.scored is not None:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in sorted(told.scored.items()))
        typer.echo(f"  came out: {metrics or 'nothing to score it by'}")


def _numbers(value: Any) -> str:
    return " ".join(_numbers(item) for item in value) if isinstance(value, list) else f"{value:.4g}"


def _said(record: TrackRecord) -> str:
    counts = f"{record.told} told, {record.scored} scored, {record.unmeasured} with nothing to score them by"
    if not record.metrics:
        return f"track record: {counts}"
    metrics = ", ".join(f"{name} {_metric(metric)}" for name, metric in sorted(record.metrics.items()))
    newest = f"the newest {record.of}" if record.of < record.scored else "all"
    return f"track record: {counts}\n  {newest}, 95 % over {record.resampled}: {metrics}"


def _metric(metric: Metric) -> str:
    ends = ["unknown" if end is None else f"{end:.4g}" for end in (metric.low, metric.high)]
    return f"{metric.value:.4g} [{', '.join(ends)}]"

"""What the factory learned, and receipts in both directions: findings, why, fate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleetmill.cli.shown import HomeOption, JsonOption, table
from fleetmill.core.plain import plain

if TYPE_CHECKING:
    from fleetmill.core.finding import Evidence, Finding
    from fleetmill.findings.published import Published
    from fleetmill.home import Home
    from fleetmill.receipts.check import Checked
    from fleetmill.receipts.dataset import LabelsUsed, Made
    from fleetmill.receipts.fate import Fate, Held, Reached
    from fleetmill.receipts.why import Owed, Why

app = typer.Typer()

OneLine = Annotated[str | None, typer.Option("--line", help="Production line; not needed where there is only one.")]
_SHOWN = 5  # pieces of evidence; --json gives all


@app.command()
def findings(
    line: OneLine = None,
    turn: Annotated[int | None, typer.Option("--turn", help="Of this turn. [the last that ended]")] = None,
    sheets: Annotated[Path | None, typer.Option("--sheets", help="Write the contact sheets into this folder.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what the factory learned about the fleet in a turn: signed, ranked, with evidence."""
    from fleetmill.findings.published import published
    from fleetmill.home import open_home
    from fleetmill.settings import read_settings

    with open_home(read_settings(home=home), own=False) as opened:
        found = published(
            opened.ledger,
            opened.blobs,
            line=line,
            turn=turn,
            verify=lambda data, signature: opened.repository.verify_statement(data, signature, what="findings"),
        )
        written = _write_sheets(opened, found, sheets) if sheets else []
        if as_json:
            told = {"fact": found.fact, "digest": found.digest, "signature": plain(found.signature)}
            typer.echo(json.dumps({**told, "document": plain(found.findings)}))
            return
        _print_findings(opened, found)
    for path in written:
        typer.echo(f"sheet: {path}")


@app.command()
def why(
    model: Annotated[
        str, typer.Argument(help="champion, a release number, or the digest of a model or dataset, or 6 digits of it.")
    ] = "",
    line: OneLine = None,
    check_all: Annotated[
        bool, typer.Option("--check-all", help="Compare why and fate for every model and interval; exit code 1 if not.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print everything that a model came from, down to the seconds that it learned from; or what is in a dataset."""
    from fleetmill.home import open_home
    from fleetmill.receipts import check
    from fleetmill.receipts import dataset as datasets
    from fleetmill.receipts import why as receipts
    from fleetmill.settings import read_settings

    if bool(model) == check_all:
        raise typer.BadParameter("give either MODEL or --check-all")
    with open_home(read_settings(home=home), own=False) as opened:
        if check_all:
            checked = check.check_all(opened)
        elif dataset := datasets.find(opened.ledger, model):
            _print_made(datasets.why(opened.ledger, dataset), as_json)
            return
        else:
            found = receipts.why(opened.ledger, receipts.find(opened.ledger, model, line))
    if check_all:
        _print_checked(checked, as_json)
    elif as_json:
        typer.echo(json.dumps(plain(found)))
    else:
        _print_why(found)


@app.command()
def fate(
    device: Annotated[str, typer.Argument(help="The device that lived it.")],
    start: Annotated[str, typer.Argument(help="Nanoseconds, a UTC time, or +SECONDSs since its first lived instant.")],
    end: Annotated[str, typer.Argument(help="The same; the interval ends before it.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what became of an interval of a device: where it is, and which datasets, models and devices it reached."""
    from fleetmill.core.moment import read_moment
    from fleetmill.home import open_home
    from fleetmill.receipts import fate as receipts
    from fleetmill.settings import read_settings

    with open_home(read_settings(home=home), own=False) as opened:
        lived = opened.books.lived(receipts.named(opened.ledger, device).number)
        edges = (read_moment(t, w, first_ns=lived[0] if lived else None) for t, w in ((start, "START"), (end, "END")))
        found = receipts.fate(opened.ledger, opened.books, device, *edges)
    if as_json:
        typer.echo(json.dumps(plain(found)))
    else:
        _print_fate(found)


def _print_findings(home: Home, found: Published) -> None:
    told = found.findings
    typer.echo(
        f"line {told.line}, turn {told.turn}: {len(told.findings)} findings from facts up to {told.head}; "
        f"fact {found.fact}, signed by key {found.signature.keyid[:12]}"
    )
    first = _firsts(home)
    for number, finding in enumerate(told.findings, 1):
        typer.echo(f"\n{number:2}. {finding.kind}: {finding.sentence} (fact {finding.fact})")
        typer.echo(f"    {_numbers(finding)}")
        for shown in finding.evidence[:_SHOWN]:
            typer.echo(f"    {_place(shown, first)}")
        if len(finding.evidence) > _SHOWN:
            typer.echo(f"    and {len(finding.evidence) - _SHOWN} more (--json)")
        if finding.sheet:
            typer.echo(f"    sheet {finding.sheet[:12]} (--sheets FOLDER)")


def _firsts(home: Home) -> dict[str, int]:
    """The first lived instant of each device, from which `fate` counts."""
    from fleetmill.receive import roll

    lived = {d.name: home.books.lived(d.number) for d in roll.devices(home.ledger)}
    return {name: span[0] for name, span in lived.items() if span}


def _place(shown: Evidence, first: dict[str, int]) -> str:
    begin, end = ((t - first[shown.device]) / 1e9 for t in (shown.start_ns, shown.end_ns))
    return f"{shown.device} {shown.session} +{begin:.2f}s +{end:.2f}s  {shown.recording[:12]}"


def _numbers(finding: Finding) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in finding.numbers.items())


def _short(value: Any) -> str:
    if isinstance(value, dict):
        shown = [f"{key} {_short(item)}" for key, item in list(value.items())[:3]]
        return "(" + ", ".join(shown) + (f", and {len(value) - 3} more)" if len(value) > 3 else ")")
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    text = "unknown" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text[:12] if len(text) == 64 else text or "none"


def _write_sheets(home: Home, found: Published, folder: Path) -> list[Path]:
    from fleetmill.findings.sheet import media_type
    from fleetmill.seams.files import write_whole

    written = []
    _make_folder(folder)
    for number, finding in enumerate(found.findings.findings, 1):
        if finding.sheet:
            data = home.blobs.get(finding.sheet)
            ending = "jpg" if media_type(data) == "image/jpeg" else "svg"
            path = folder / f"{found.findings.line}-{found.findings.turn}-{number:02}-{finding.sheet[:12]}.{ending}"
            write_whole(path, data)
            written.append(path)
    return written


def _make_folder(folder: Path) -> None:
    from fleetmill.core.errors import UnavailableError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"{folder}: {error.strerror}. Give another folder") from error


def _print_why(found: Why) -> None:
    standing = found.standing
    typer.echo(f"model {found.model} of line {found.line} (fact {found.fact})")
    typer.echo(f"made by: {found.made_by or 'this factory'}")
    table(
        ["training", "dataset", "seed", "settings", "labels", "code", "parent", "fact"],
        [
            [
                t.model[:12],
                t.dataset[:12] or "elsewhere",
                str(t.seed),
                _short(dict(t.settings)) if t.settings else "none",
                _short(dict(t.labels)) if t.labels else "unknown",
                t.code,
                t.parent[:12] or "none",
                str(t.fact),
            ]
            for t in found.descent
        ],
    )
    for t in found.descent:
        if t.command:
            named = t.environment or "nobody named it"
            typer.echo(f"training {t.model[:12]}: by a command, words {t.command[:12]}, environment {named}")
        if t.base:
            typer.echo(f"training {t.model[:12]}: from base {t.base[:12]}, {t.trained:.2%} of as many weights learned")
    for verdict in standing.verdicts:
        typer.echo(f"verdict of turn {verdict.turn}: {verdict.decision} (fact {verdict.fact})")
        for reason in (*verdict.reasons, *((verdict.decided,) if verdict.decided else ())):
            typer.echo(f"  {reason}")
    for said in standing.benches:
        typer.echo(said)
    out = ", ".join(f"{r.counter} (fact {r.fact})" for r in standing.releases)
    typer.echo(f"releases: {out or 'none'}")
    typer.echo(f"runs now on: {', '.join(standing.running) or 'no device'}")
    _print_labels(found.labels)
    _print_owed("learned from", found.learned_from)
    _print_owed("judged on", found.judged_on)


def _print_made(made: Made, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(plain(made)))
        return
    typer.echo(f"dataset {made.dataset} of line {made.line} (fact {made.fact})")
    typer.echo(f"version of cut {made.line_version}; parent: {made.parent[:12] or 'none'}")
    for share in made.shares:
        by = ", ".join(f"{rows} labelled by {source}" for source, rows in share.sources.items())
        typer.echo(f"{share.role}: {share.rows} rows of {share.sessions} sessions{f', {by}' if by else ''}")
    _print_labels(made.labels)
    typer.echo(f"taught: {', '.join(m[:12] for m in made.models) or 'no model'}")


def _print_labels(used: tuple[LabelsUsed, ...]) -> None:
    for labels in used:
        typer.echo(
            f"labels {labels.digest[:12]} by {', '.join(labels.sources)} ({labels.format}, file {labels.file[:12]}): "
            f"{', '.join(labels.roles)}, {labels.sessions} sessions (fact {labels.fact})"
        )


def _print_owed(title: str, owed: tuple[Owed, ...]) -> None:
    seconds = sum(p.end_ns - p.start_ns for p in owed) / 1e9
    recordings = len({p.recording for p in owed})
    devices = len({p.device for p in owed})
    typer.echo(f"\n{title}: {seconds:.2f} s in {recordings} recordings of {devices} devices")
    table(
        ["device", "session", "role", "start_ns", "end_ns", "seconds", "recording", "episode", "datasets"],
        [
            [
                p.device,
                p.session,
                p.role,
                str(p.start_ns),
                str(p.end_ns),
                f"{(p.end_ns - p.start_ns) / 1e9:.2f}",
                p.recording[:12],
                p.episode[:12],
                " ".join(d[:8] for d in p.datasets),
            ]
            for p in owed
        ],
    )


def _print_fate(found: Fate) -> None:
    from fleetmill.core.moment import iso

    typer.echo(f"{found.device}, {iso(found.start_ns)} to {iso(found.end_ns)}")
    table(
        ["start_ns", "end_ns", "account", "reason", "bytes", "recording", "fact"],
        [
            [str(p.start_ns), str(p.end_ns), p.account, p.reason, str(p.bytes), p.recording[:12], str(p.fact)]
            for p in found.pieces
        ],
    )
    until = f"lived until {iso(found.lived_until_ns)}" if found.lived_until_ns else "it has never said anything"
    for gap in found.gaps:
        typer.echo(f"{gap.what}: {gap.start_ns} to {gap.end_ns} ({until})")
    for session in found.sessions:
        typer.echo(f"session {session.session}: {session.role or 'no role'} on {session.line} (fact {session.fact})")
    for (fact, dataset, role), held in _by_dataset(found).items():
        seconds = sum(h.end_ns - h.start_ns for h in held) / 1e9
        episodes = " ".join(h.episode[:12] for h in held[:_SHOWN]) + " ..." * (len(held) > _SHOWN)
        typer.echo(f"dataset {dataset[:12]}: {role}, {seconds:.2f} s in episodes {episodes} (fact {fact})")
    for reached in (*found.taught, *found.judged):
        typer.echo(_reached(reached))


def _by_dataset(found: Fate) -> dict[tuple[int, str, str], list[Held]]:
    grouped: dict[tuple[int, str, str], list[Held]] = {}
    for held in found.datasets:
        grouped.setdefault((held.fact, held.dataset, held.role), []).append(held)
    return dict(sorted(grouped.items()))


def _reached(reached: Reached) -> str:
    how = {"train": "learned from it", "validation": "was chosen with it", "held_out": "was judged on it"}[reached.how]
    through = f" through its parent {reached.through[:12]}" if reached.through else ""
    standing = reached.standing
    said = ", ".join(f"{v.decision} in turn {v.turn}" for v in standing.verdicts) or "not judged"
    out = ", ".join(str(r.counter) for r in standing.releases)
    runs = f"runs now on {', '.join(standing.running)}" if standing.running else "runs on no device now"
    return f"model {reached.model[:12]} {how}{through}: {said}{f', release {out}' if out else ''}; {runs}"


def _print_checked(checked: Checked, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(plain(checked)))
    else:
        for line in checked.disagreements:
            typer.echo(f"DISAGREE: {line}")
        typer.echo(
            f"{'DISAGREE' if checked.disagreements else 'agree'}: why and fate, over {checked.intervals} intervals of "
            f"{checked.devices} devices and {checked.models} models, {checked.links} links"
        )
    if checked.disagreements:
        raise typer.Exit(1)

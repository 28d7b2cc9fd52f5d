"""The champion tells beforehand, for each device, and is scored once it is known what came: both as facts.

A forecast is named by line, device, instant and release: telling again after a kill finds it. It is told only where
nobody knows yet what comes; what is known is no forecast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fleetmill.core.errors import LineError
from fleetmill.core.forecast import Due, Foretold, read_foretold, series
from fleetmill.core.line import Array, Episode, Forecast, Line, Policy, Tally
from fleetmill.core.recording import Session
from fleetmill.core.signing import Signature
from fleetmill.findings.recorded import Recorded, part
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.ledger import Draft, Fact, Ledger

Sign = Callable[[bytes], Signature]


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion:
    """The model in the field."""

    digest: str
    release: int
    policy: Policy


def tell(
    ledger: Ledger,
    blobs: Blobs,
    line: Line,
    champion: Champion,
    tracks: Mapping[str, Recorded],
    *,
    head: int,
    sign: Sign,
) -> list[Fact]:
    """A fact per device (of an alarm: per run of its recordings) of which something new can be told.

    `tracks`: what each device has recorded by fact `head`.
    """
    asked = _asked(line)
    before, news = _newest(ledger, line), _sessions(ledger)
    known = {f.key for f in ledger.read(kind="forecast")}
    drafts = []
    for device, track in sorted(tracks.items()):
        last = before.get(device)
        is_new = last is None or news.get(device, 0) > last.record["head"]
        # a better model may tell the same day better; an alarm rings once, whoever would ring it
        if last is not None and not is_new and (asked.alarm or champion.release == last.record["release"]):
            continue
        for told in _told(line, asked, champion, track, since_ns=last.record["at_ns"] if last else -1):
            if key(told) not in known:
                drafts.append(_draft(blobs, told, head, sign))
    return ledger.append(drafts)


def settle(ledger: Ledger, blobs: Blobs, line: Line, tracks: Mapping[str, Recorded]) -> list[Fact]:
    """A fact per forecast of which it is known by now what came, with the tally that `judging.metrics` pools."""
    asked = _asked(line)
    labelled = max((f.seq for f in ledger.read(kind="labels") if f.record["line"] == line.name), default=0)
    news = {device: max(seq, labelled) for device, seq in _sessions(ledger).items()}
    drafts = []
    for fact in unsettled(ledger, line.name):
        track, device = tracks.get(str(fact.record["device"])), str(fact.record["device"])
        if track is None or track.end_ns < fact.record["due_ns"] or news.get(device, 0) <= fact.record["head"]:
            continue
        told = read_foretold(blobs.get(fact.record["document"]), f"forecast {fact.key}")
        came = track.since(told.from_ns)
        tally = asked.score(told.episode(), came) if came is not None else None
        if tally is not None:
            record = {name: fact.record[name] for name in ("line", "device", "at_ns", "model", "release")}
            drafts.append(Draft(kind="forecast_scored", key=fact.key, record={**record, "tally": _plain(tally)}))
    return ledger.append(drafts)


def key(told: Foretold) -> str:
    """Names a forecast in the ledger."""
    return f"{told.line}/{told.device}/{told.at_ns}/{told.release}"


def unsettled(ledger: Ledger, line: str) -> list[Fact]:
    """Forecasts of a line that were not scored yet, in order."""
    scored = {f.key for f in ledger.read(kind="forecast_scored")}
    return [f for f in ledger.read(kind="forecast") if f.record["line"] == line and f.key not in scored]


def tally_of(record: Mapping[str, Any]) -> Tally:
    """The tally that a `forecast_scored` fact holds."""
    return {name: np.asarray(value, np.float64) for name, value in record["tally"].items()}


def _asked(line: Line) -> Forecast:
    if line.forecast is None:
        raise LineError(f"line {line.name}: tells nothing beforehand (it has no `forecast`). See docs/forecasts.md")
    return line.forecast


def _newest(ledger: Ledger, line: Line) -> dict[str, Fact]:
    """The newest forecast of each device."""
    return {f.record["device"]: f for f in ledger.read(kind="forecast") if f.record["line"] == line.name}


def _sessions(ledger: Ledger) -> dict[str, int]:
    """Number of the fact that closed the newest session of each device."""
    return {f.record["manifest"]["device"]: f.seq for f in ledger.read(kind="session")}


def _draft(blobs: Blobs, told: Foretold, head: int, sign: Sign) -> Draft:
    document = told.document()
    signature = sign(document)
    record = {
        "line": told.line,
        "device": told.device,
        "at_ns": told.at_ns,
        "due_ns": told.due.end_ns,
        "head": head,
        "model": told.model,
        "release": told.release,
        "document": blobs.put(document),
        "keyid": signature.keyid,
        "signature": signature.sig,
    }
    return Draft(kind="forecast", key=key(told), record=record)


def _told(line: Line, asked: Forecast, champion: Champion, track: Recorded, *, since_ns: int) -> list[Foretold]:
    """What is told of a device, oldest first: of the newest run, and of an alarm each run since the last look."""
    found: list[Foretold] = []
    has_state = any(port.feeds for port in line.model.outputs)
    least = None if asked.alarm or has_state else max(port.history for port in line.model.inputs)
    for run in track.runs(least=least):
        seen = run if least is None else part(run, max(len(run.times_ns) - least, 0))
        rows = np.flatnonzero(seen.times_ns > since_ns) if asked.alarm else np.array([len(seen.times_ns) - 1])
        if not len(rows):
            break
        if not _is_known(line, asked, seen, rows):
            sent = _sent(line, asked, champion.policy, seen, rows)
            if all(np.isfinite(column).all() for column in sent.values()):  # else it has nothing to tell
                found.insert(0, _foretold(line, asked, champion, track, seen, rows, sent))
        if not asked.alarm:
            break
    return found


def _is_known(line: Line, asked: Forecast, seen: Episode, rows: Array) -> bool:
    """Whether what would be told is known already: any answer could be scored."""
    shapes = {f.name: (f.shape, f.dtype) for f in line.features}
    nothing = {name: np.zeros((len(rows), *shapes[name][0]), shapes[name][1]) for name in asked.tells}
    return asked.score(_rows(seen, rows, nothing), seen) is not None


def _rows(seen: Episode, rows: Array, columns: Mapping[str, Array]) -> Episode:
    return Episode(
        device=seen.device,
        session=seen.session,
        start_ns=int(seen.times_ns[0]),
        end_ns=int(seen.times_ns[-1]) + 1,
        times_ns=seen.times_ns[rows],
        columns=columns,
    )


def _foretold(
    line: Line,
    asked: Forecast,
    champion: Champion,
    track: Recorded,
    seen: Episode,
    rows: Array,
    sent: Mapping[str, Array],
) -> Foretold:
    features = {f.name: f for f in line.features}
    at_ns = int(seen.times_ns[-1])
    start_ns, end_ns = asked.due(at_ns)
    return Foretold(
        line=line.name,
        line_version=line.version,
        device=seen.device,
        session=seen.session,
        recording=_recording(track.sessions, at_ns),
        model=champion.digest,
        release=champion.release,
        from_ns=int(seen.times_ns[0]),
        at_ns=at_ns,
        due=Due(start_ns=start_ns, end_ns=end_ns),
        times_ns=tuple(int(t) for t in seen.times_ns[rows]),
        values={name: series(features[name], column) for name, column in sent.items()},
    )


def _sent(line: Line, asked: Forecast, policy: Policy, seen: Episode, rows: Array) -> dict[str, Array]:
    """What the champion sends at the told rows, stepped through all that is seen."""
    observed = [f.name for f in line.features if f.kind == "observation" and f.name in seen.columns]
    policy.reset()
    steps = [policy.step({name: seen.columns[name][row] for name in observed}) for row in range(len(seen.times_ns))]
    return {name: np.stack([np.asarray(steps[row][name]) for row in rows]) for name in asked.tells}


def _recording(sessions: Sequence[Session], at_ns: int) -> str:
    """The newest recording that reaches up to the instant."""
    held = [r for s in sessions for r in s.recordings if r.start_ns <= at_ns]
    return max(held, key=lambda r: r.start_ns).digest if held else ""


def _plain(tally: Tally) -> dict[str, Any]:
    return {name: np.asarray(value, np.float64).tolist() for name, value in tally.items()}

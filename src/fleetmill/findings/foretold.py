"""Forecasts as they are served: read back, digest and signature checked, with how well they turned out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fleetmill.core.errors import NotFoundError
from fleetmill.core.forecast import Foretold, Series, TrackRecord, read_foretold, track_record
from fleetmill.core.line import Line
from fleetmill.core.plain import plain
from fleetmill.core.signing import Signature
from fleetmill.findings.forecasts import tally_of
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.ledger import Fact, Ledger

MOST = 100  # of one answer to who asks for all after a fact
Verify = Callable[[bytes, Signature], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One forecast with the bytes that were signed, and what came of it."""

    fact: int
    digest: str
    document: bytes
    signature: Signature
    foretold: Foretold
    alarm: str  # the action that calls somebody; "": the line has none
    scored: Mapping[str, float] | None  # its own metrics; None: nobody knows yet what came

    def shown(self) -> dict[str, Any]:
        """For consumers: the document, of an alarm only the instants at which it rings, and what came of it."""
        cut = _ringing(self.foretold, self.alarm) if self.alarm else self.foretold
        return {
            "fact": self.fact,
            "digest": self.digest,
            "keyid": self.signature.keyid,
            "signature": self.signature.sig,
            "document": plain(cut),
            "alarms": len(cut.times_ns) if self.alarm else None,
            "scored": dict(self.scored) if self.scored is not None else None,
        }


def line_of(ledger: Ledger, line: str | None) -> str:
    """The line that is meant: `line`, or the only one that has forecasts.

    Raises:
        NotFoundError: there are none, or the line must be named.
    """
    names = sorted({str(f.record["line"]) for f in ledger.read(kind="forecast")})
    if line in names or (line is None and len(names) == 1):
        return line or names[0]
    if line is None and names:
        raise NotFoundError(f"forecasts: there are some of {', '.join(names)}. Name one with --line")
    raise NotFoundError(
        f"{f'line {line}' if line else 'this home'}: nothing was told beforehand yet; that wants a line that "
        f"forecasts, a release and recordings. Run: fleetmill forecasts --look --line {line or 'LINE'}"
    )


def told(
    ledger: Ledger, blobs: Blobs, line: Line, *, device: str | None = None, after: int | None = None, verify: Verify
) -> list[Told]:
    """The newest forecast of each device; with `after` the next `MOST` behind that fact, in order.

    Raises:
        NotFoundError: nothing was told of that device.
        IntegrityError: a document is damaged.
        TrustError: one is not signed by the home's targets key.
    """
    mine = [f for f in ledger.read(kind="forecast") if f.record["line"] == line.name]
    if device is not None:
        mine = [f for f in mine if f.record["device"] == device]
        if not mine:
            raise NotFoundError(f"device {device[:64]!r}: nothing was told of it on line {line.name}")
    if after is None:
        chosen = list({f.record["device"]: f for f in mine}.values())
    else:
        chosen = [f for f in mine if f.seq > after][:MOST]
    scored = {f.key: f for f in ledger.read(kind="forecast_scored")}
    return [_read(blobs, line, fact, scored.get(fact.key), verify) for fact in chosen]


class TrackRecords:
    """How well a line's forecasts turned out so far; pooled once for each state of the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[tuple[str, str | None], tuple[int, TrackRecord]] = {}

    def of(self, line: Line, device: str | None = None) -> TrackRecord:
        """Of all devices, or of one."""
        scored = self._mine("forecast_scored", line, device)
        newest = scored[-1].seq if scored else 0
        known = self._known.get((line.name, device))
        number = len(self._mine("forecast", line, device))
        if known is None or known[0] != newest:
            known = (newest, _pooled(line, scored))
            self._known[line.name, device] = known
        return replace(known[1], told=number)

    def _mine(self, kind: str, line: Line, device: str | None) -> list[Fact]:
        found = (f for f in self._ledger.read(kind=kind) if f.record["line"] == line.name)
        return [f for f in found if device in (None, f.record["device"])]


def _pooled(line: Line, scored: list[Fact]) -> TrackRecord:
    tallies = [(str(f.record["device"]), tally_of(f.record)) for f in scored]
    measured = [(device, tally) for device, tally in tallies if _metrics(line, [tally])]
    return track_record(0, measured, len(tallies) - len(measured), line.judging.metrics)


def _metrics(line: Line, tallies: list[Any]) -> dict[str, float]:
    return {name: float(value) for name, value in line.judging.metrics(tallies).items() if math.isfinite(value)}


def _read(blobs: Blobs, line: Line, fact: Fact, scored: Fact | None, verify: Verify) -> Told:
    digest = str(fact.record["document"])
    document = blobs.get(digest)
    signature = Signature(keyid=fact.record["keyid"], sig=fact.record["signature"])
    verify(document, signature)
    return Told(
        fact=fact.seq,
        digest=digest,
        document=document,
        signature=signature,
        foretold=read_foretold(document, f"forecast {fact.key}"),
        alarm=line.forecast.alarm if line.forecast else "",
        scored=_metrics(line, [tally_of(scored.record)]) if scored else None,
    )


def _ringing(foretold: Foretold, alarm: str) -> Foretold:
    """The rows at which somebody is called."""
    ringing = set(foretold.alarms(alarm))
    rows = [place for place, at in enumerate(foretold.times_ns) if at in ringing]
    return replace(
        foretold,
        times_ns=tuple(foretold.times_ns[row] for row in rows),
        values={
            name: Series(unit=s.unit, dtype=s.dtype, rows=tuple(s.rows[row] for row in rows))
            for name, s in foretold.values.items()
        },
    )

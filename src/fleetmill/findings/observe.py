"""Make the findings of a turn, once: gather, find, draw, sign, keep.

Everything is taken from facts up to one number, the turn's last before its findings. So a turn that was killed here
makes the same document when it is turned again, whatever has arrived since.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleetmill.core.errors import NotFoundError
from fleetmill.core.finding import VERSION, Finding, Findings
from fleetmill.core.line import Line
from fleetmill.core.signing import Signature
from fleetmill.findings import clips, drift, failures, fleet, weak
from fleetmill.findings.gather import TAKEOVER, Episodes, Seen, gather, takeovers
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.ledger import Draft, Fact, Ledger

Sign = Callable[[bytes], Signature]


def note_cost(ledger: Ledger, line: Line, *, turn: int, cpu_seconds: float) -> Fact:
    """The fact that says what a turn has cost until its verdict; one that was noted before stays."""
    key = f"{line.name}/{turn}"
    try:
        return ledger.get("cost", key)
    except NotFoundError:
        record = {"line": line.name, "turn": turn, "cpu_seconds": round(cpu_seconds, 3)}
        return ledger.append([Draft(kind="cost", key=key, record=record)])[0]


def observe(ledger: Ledger, blobs: Blobs, line: Line, *, turn: int, verdict: str, release: int, sign: Sign) -> Fact:
    """The fact that holds a turn's findings; made before: given back.

    `verdict` is the key of the turn's verdict, `release` the counter of what it shipped; 0: nothing.
    """
    key = f"{line.name}/{turn}"
    try:
        return ledger.get("findings", key)
    except NotFoundError:
        pass
    last = _last(ledger, key, verdict, f"{line.name}/{release}" if release else "")
    seen = gather(ledger, blobs, line, turn=turn, verdict=verdict, head=last.seq)
    found = Findings(line=line.name, turn=turn, head=seen.head, findings=tuple(_find(ledger, blobs, seen)))
    document = found.document()
    signature = sign(document)
    record = {
        "line": line.name,
        "turn": turn,
        "version": VERSION,
        "head": seen.head,
        "document": blobs.put(document),
        "keyid": signature.keyid,
        "signature": signature.sig,
        "findings": len(found.findings),
        "sheets": sorted({f.sheet for f in found.findings if f.sheet}),
    }
    return ledger.append([Draft(kind="findings", key=key, record=record)])[0]


def _last(ledger: Ledger, key: str, verdict: str, release: str) -> Fact:
    """The turn's own last fact so far: its release, or what a person decided, or what it has cost."""
    if release:
        return ledger.get("release", release)
    try:
        return ledger.get("decided", verdict)
    except NotFoundError:
        return ledger.get("cost", key)


def _find(ledger: Ledger, blobs: Blobs, seen: Seen) -> list[Finding]:
    """Every finding, in the order in which they are told."""
    episodes = Episodes(seen.tables)
    taken = takeovers(seen.line, seen.new, blobs)
    found: list[Finding] = []
    for group in failures.groups(seen, taken, episodes):
        drawn = blobs.put(clips.draw(seen, group, blobs))
        found.append(failures.finding(seen, group, len(taken), drawn=drawn))
    if not taken and any(f.name == TAKEOVER for f in seen.line.features):
        found.append(failures.none(seen))
    found += [*weak.findings(seen), *drift.findings(seen, episodes), *fleet.unlike(seen, taken)]
    return [*found, fleet.factory(seen, _sheet(ledger, seen))]


def _sheet(ledger: Ledger, seen: Seen) -> dict[str, Any]:
    """What the factory made of what, so far, on this line."""

    def mine(kind: str) -> list[Fact]:
        return [f for f in ledger.read(kind=kind) if f.record["line"] == seen.line.name and f.seq <= seen.head]

    begun = {f.key: f.time_ns for f in mine("turn_begun")}
    costs = [f for f in mine("cost") if f.key in begun]  # turns of before there were findings have none
    stopped = {f.key for f in mine("decided") if f.record["word"] == "refused"}
    verdicts = [f for f in mine("verdict") if f.key.rpartition("/")[0] in begun]  # others are of models from elsewhere
    accepted = sum(f.record["decision"] == "accepted" and f.key not in stopped for f in verdicts)
    metrics = ledger.get("model", seen.verdict.candidate).record["metrics"]
    rows = {k.removeprefix("rows."): v for k, v in metrics.items() if k.startswith("rows.")}
    return {
        "turns": len(begun),
        "turns_measured": len(costs),
        "candidates": len(verdicts),
        "accepted": accepted,
        "yield": accepted / len(verdicts),
        "wall_seconds": sum(f.time_ns - begun[f.key] for f in costs) / 1e9,
        "cpu_seconds": float(sum(f.record["cpu_seconds"] for f in costs)),
        "bytes": sum(r.bytes for s in seen.known.values() for r in s.recordings),
        "label_rows": float(sum(rows.values())),
        "label_rows_by_source": rows,
    }

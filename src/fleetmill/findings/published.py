"""Findings as they were published: read back, digest and signature checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fleetmill.core.errors import NotFoundError
from fleetmill.core.finding import Findings, read_findings
from fleetmill.core.ids import checked_digest
from fleetmill.core.signing import Signature
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.ledger import Fact, Ledger

Verify = Callable[[bytes, Signature], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A turn's findings with the bytes that were signed and the number of the fact that holds them."""

    fact: int
    digest: str
    document: bytes
    signature: Signature
    findings: Findings


def published(ledger: Ledger, blobs: Blobs, *, line: str | None, turn: int | None, verify: Verify) -> Published:
    """The findings of a turn; without `turn` of the last that has some, without `line` of the only line that has some.

    Raises:
        NotFoundError: there are none, the turn has not ended, or the line must be named.
        IntegrityError: the document is damaged.
        TrustError: it is not signed by the home's targets key.
    """
    held = [f for f in ledger.read(kind="findings") if line in (None, f.record["line"])]
    lines = sorted({f.record["line"] for f in held})
    if len(lines) > 1:
        raise NotFoundError(f"findings: there are some of {', '.join(lines)}. Name one with --line")
    by_turn = {int(f.record["turn"]): f for f in held}
    if not by_turn or (turn is not None and turn not in by_turn):
        raise NotFoundError(_none(ledger, line or (lines[0] if lines else None), turn, sorted(by_turn)))
    return _read(blobs, by_turn[max(by_turn) if turn is None else turn], verify)


def contact_sheet(ledger: Ledger, blobs: Blobs, digest: str) -> bytes:
    """A contact sheet that some finding names; no other blob is given out.

    Raises:
        NotFoundError: no finding names it.
    """
    checked_digest(digest)
    if not any(digest in f.record["sheets"] for f in ledger.read(kind="findings")):
        raise NotFoundError(f"no finding names a contact sheet {digest[:12]}")
    return blobs.get(digest)


def _read(blobs: Blobs, fact: Fact, verify: Verify) -> Published:
    digest = fact.record["document"]
    document = blobs.get(digest)
    signature = Signature(keyid=fact.record["keyid"], sig=fact.record["signature"])
    verify(document, signature)
    return Published(
        fact=fact.seq,
        digest=digest,
        document=document,
        signature=signature,
        findings=read_findings(document, f"findings {fact.key}"),
    )


def _none(ledger: Ledger, line: str | None, turn: int | None, known: list[int]) -> str:
    """Why there are no findings to show, and what to do."""
    ended = [f.record for f in ledger.read(kind="turn_ended") if line in (None, f.record["line"])]
    of = f"line {line}" if line else "this home"
    turns = sorted(int(r["turn"]) for r in ended)
    if turn is not None and turn in turns:
        return f"{of}: turn {turn} ended without findings, under a version that made none. Turn again for new ones"
    if turn is None and turns:
        return f"{of}: its turns ended without findings, under a version that made none. Turn again for new ones"
    if turn is None:
        return f"{of}: no turn has ended, so nothing was learned yet. Run: fleetmill turn --line {line or 'LINE'}"
    there = f"findings are there of turns {', '.join(map(str, known))}" if known else "no turn has"
    return f"{of}: turn {turn} has not ended; {there}"

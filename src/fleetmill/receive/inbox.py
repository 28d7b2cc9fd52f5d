"""Statements of devices come in: journal segments and the manifests that close sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fleetmill.core import canonical
from fleetmill.core import journal as journals
from fleetmill.core.custody import Posting
from fleetmill.core.errors import ConflictError, IntegrityError, InvalidInputError
from fleetmill.core.fleet import Device
from fleetmill.core.journal import Entry, Totals
from fleetmill.core.line import Line
from fleetmill.core.plain import build, plain
from fleetmill.core.recording import RecordingRef, Session
from fleetmill.core.release import Report
from fleetmill.core.split import role
from fleetmill.seams.blobs import Blobs
from fleetmill.seams.books import Books
from fleetmill.seams.ledger import Draft, Ledger
from fleetmill.seams.signatures import read_statement


@dataclass(frozen=True, kw_only=True, slots=True)
class _Segment:
    """What a device signs about its journal."""

    totals: Totals
    entries: tuple[Entry, ...]


def take_journal(ledger: Ledger, books: Books, device: Device, statement: bytes) -> int:
    """Post a signed journal segment; the number of the last entry that the books hold now.

    Entries that are here already are passed over. A missing entry blocks the later ones.

    Raises:
        ConflictError: a gap; says which entry is expected.
        IntegrityError: the chain or the signed totals do not agree with the entries.
        InvalidInputError: no journal segment, or a posting that is not the device's to make.
        TrustError: not signed by the device.
    """
    signed, signature = read_statement(device.public_key, statement, what=f"journal of {device.name}")
    segment = build(_Segment, signed, f"journal of {device.name}")
    entries, totals = segment.entries, segment.totals
    known = books.journal(device.number)
    expected = known.entry + 1 if known else 0
    new = [e for e in entries if e.entry >= expected]
    if not new:
        return expected - 1
    if new[0].entry > expected:
        raise ConflictError(f"device {device.name}: journal gap: expected entry {expected}, got {new[0].entry}")
    _check(device, new, totals, known)
    drafts = [_moved(device, e) for e in new if e.kind == "moved"]
    key = f"{device.number}/{totals.entry}"
    drafts.append(Draft(kind="journal", key=key, record={**plain(totals), "signature": signature}))
    ledger.append(drafts)
    return totals.entry


def take_manifest(ledger: Ledger, books: Books, blobs: Blobs, device: Device, line: Line, statement: bytes) -> Session:
    """Close a session by its signed manifest: its recordings land, its role is given. May be sent again.

    Raises:
        ConflictError: a recording, or the journal entries that say it was sent, are not here yet.
        InvalidInputError: a manifest of another device or line.
        TrustError: not signed by the device.
    """
    signed, signature = read_statement(device.public_key, statement, what=f"manifest of {device.name}")
    session = build(Session, signed, "manifest")
    if (session.device, session.line) != (device.name, line.name):
        raise InvalidInputError(f"manifest: is of {session.device} on {session.line}, sent by {device.name}")
    missing = [r.digest[:12] for r in session.recordings if not blobs.has(r.digest)]
    if missing:
        raise ConflictError(f"session {session.key}: recordings {', '.join(missing)} are not here yet. Send them first")
    close(ledger, books, device, line, session, signature)
    return session


def close(ledger: Ledger, books: Books, device: Device, line: Line, session: Session, signature: str) -> None:
    """Enter a whole session: landed recordings, the manifest, the role; all or nothing."""
    drafts = [d for r in session.recordings for d in _landed(books, device, r)]
    record = {"manifest": plain(session), "signature": signature}
    drafts.append(Draft(kind="session", key=session.key, record=record))
    given = role(line.split, device=device.nth, session=session.number)
    drafts.append(
        Draft(
            kind="role",
            key=f"{line.name}/{session.key}",
            record={"line": line.name, "session": session.key, "role": given},
        )
    )
    ledger.append(drafts)


def sessions(ledger: Ledger, line: str) -> list[Session]:
    """Every closed session of a line, by device and number: an order that arrival does not change."""
    found = (build(Session, f.record["manifest"]) for f in ledger.read(kind="session"))
    return sorted((s for s in found if s.line == line), key=lambda s: (s.device, s.number))


def take_report(ledger: Ledger, device: Device, statement: bytes) -> Report:
    """Enter what a device says became of a release. Only ``confirmed`` makes the deployment a success.

    Raises:
        InvalidInputError: a report of another device.
        TrustError: not signed by the device.
    """
    signed, signature = read_statement(device.public_key, statement, what=f"report of {device.name}")
    report = build(Report, signed, "report")
    if report.device != device.name:
        raise InvalidInputError(f"report: is of {report.device}, sent by {device.name}")
    key = f"{device.name}/{report.release_counter}/{report.state}/{canonical.digest(plain(report))[:16]}"
    record = {"report": plain(report), "signature": signature}
    ledger.append([Draft(kind="deployment", key=key, record=record)])
    return report


def _check(device: Device, new: Sequence[Entry], totals: Totals, known: Any) -> None:
    prev = known.digest if known else journals.GENESIS
    for entry in new:
        if entry.prev != prev:
            raise IntegrityError(f"device {device.name}: entry {entry.entry} does not follow from the one before")
        prev = entry.digest
    later = journals.totals(device.number, new)
    expected = Totals(
        device=device.number,
        entry=new[-1].entry,
        digest=prev,
        lived_until_ns=max(later.lived_until_ns, known.lived_until_ns if known else 0),
        lived_ns=later.lived_ns + (known.lived_ns if known else 0),
        lived_bytes=later.lived_bytes + (known.lived_bytes if known else 0),
    )
    if totals != expected:
        raise IntegrityError(f"device {device.name}: signed totals {totals} do not follow from its entries: {expected}")


def _moved(device: Device, entry: Entry) -> Draft:
    posting = build(Posting, entry.record, f"journal entry {entry.entry}")
    if (posting.device, posting.entry, posting.by) != (device.number, entry.entry, "device"):
        raise InvalidInputError(f"device {device.name}: journal entry {entry.entry} posts for somebody else")
    if posting.to not in ("buffered", "dropped", "kept", "sent"):
        raise InvalidInputError(f"device {device.name}: a device cannot post to {posting.to}")
    return Draft(kind="moved", key=posting.key, record=plain(posting))


def _landed(books: Books, device: Device, ref: RecordingRef) -> list[Draft]:
    spans = books.spans(device.number, ref.start_ns, ref.end_ns)
    if any(s.account not in ("sent", "kept", "buffered") for s in spans):
        return []  # landed before: the manifest is sent again
    if not spans or any(s.account != "sent" for s in spans):
        raise ConflictError(f"recording {ref.digest[:12]}: the journal does not say that it was sent. Send it first")
    posting = Posting(
        device=device.number,
        track=0,
        start_ns=ref.start_ns,
        end_ns=ref.end_ns,
        bytes=sum(s.bytes for s in spans),
        messages=sum(s.messages for s in spans),
        source="sent",
        to="landed",
        recording=ref.digest,
        by="factory",
    )
    return [Draft(kind="moved", key=posting.key, record=plain(posting))]

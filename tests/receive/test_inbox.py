"""Statements of a device: what does not follow is refused, what was said before changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleetmill.core.custody import Posting
from fleetmill.core.errors import ConflictError, IntegrityError, InvalidInputError, TrustError
from fleetmill.core.ids import sha256
from fleetmill.core.journal import line_of, totals
from fleetmill.core.line import Message
from fleetmill.core.plain import plain
from fleetmill.core.recording import RecordingInfo, RecordingRef, Session
from fleetmill.core.release import Report
from fleetmill.device.identity import open_identity
from fleetmill.device.journal import Journal, open_journal
from fleetmill.receive import inbox, parts, roll
from fleetmill.seams import recordings
from fleetmill.seams.blobs import MemoryBlobs
from fleetmill.seams.books import Books
from fleetmill.seams.ledger import open_ledger
from fleetmill.testing import Clock, tiny_line

SECOND = 10**9


class Desk:
    """A factory's ledger, books and blobs, and one device that speaks to them."""

    def __init__(self, folder: Path) -> None:
        self.ledger = open_ledger("sqlite://", clock=Clock())
        self.books, self.blobs = Books(self.ledger), MemoryBlobs(folder)
        self.identity = open_identity(folder / "key.pem", "d0")
        self.thief = open_identity(folder / "thief.pem", "d0")
        secret = roll.invite(self.ledger, "d0", line="tiny")
        self.device = roll.enrol(
            self.ledger, name="d0", secret=secret, public_key=self.identity.public_key, hardware="cpu"
        )
        self.journal: Journal = open_journal(folder / "journal.jsonl")
        self.data = a_recording("d0")
        self.ref = RecordingRef(digest=sha256(self.data), start_ns=0, end_ns=SECOND, bytes=0, messages=0)
        size, messages = recordings.count(self.data, "")
        self.ref = replace(self.ref, bytes=size, messages=messages)

    def posting(self, source: str, account: str, **more: Any) -> tuple[str, dict[str, Any]]:
        known = {"device": 0, "track": 0, "start_ns": 0, "end_ns": SECOND, "bytes": self.ref.bytes}
        return "moved", plain(
            Posting(**{**known, "messages": self.ref.messages, "source": source, "to": account, **more})
        )

    def live(self) -> None:
        """One second, kept and sent."""
        self.journal.append([("begin", {"session": "s0", "number": 0, "campaign": "", "start_ns": 0, "model": ""})])
        self.journal.append([self.posting("lived", "buffered"), self.posting("buffered", "kept")])
        self.journal.append([self.posting("kept", "sent", recording=self.ref.digest)])

    def segment(self, first: int = 0, last: int | None = None, **changed: Any) -> bytes:
        entries = self.journal.entries[:last]
        signed = plain(totals(0, entries)) | changed
        return self.identity.statement({"totals": signed, "entries": [line_of(e) for e in entries[first:]]})

    def take_journal(self, statement: bytes) -> int:
        return inbox.take_journal(self.ledger, self.books, self.device, statement)

    def manifest(self, **changed: Any) -> bytes:
        session = Session(
            device="d0", name="s0", number=0, line="tiny", start_ns=0, end_ns=SECOND, recordings=(self.ref,),
            recorded_bytes=self.ref.bytes,
        )  # fmt: skip
        return self.identity.statement(plain(replace(session, **changed)))

    def take_manifest(self, statement: bytes) -> Session:
        return inbox.take_manifest(self.ledger, self.books, self.blobs, self.device, tiny_line, statement)

    def upload(self) -> None:
        parts.take(self.ledger, self.blobs, self.device, self.ref.digest, [self.data])


def a_recording(device: str) -> bytes:
    info = RecordingInfo(device=device, session="s0", line="tiny", start_ns=0, end_ns=SECOND)
    (feature,) = (f for f in tiny_line.features if f.name == "x")
    messages = [
        recordings.encode(
            feature, Message(topic="x", log_time_ns=t, publish_time_ns=t, value={"data": np.ones(3, np.float32)})
        )
        for t in range(0, SECOND, SECOND // 10)
    ]
    return recordings.write_recording(info, tiny_line.features, messages)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    found = Desk(tmp_path)
    found.live()
    return found


def accounts(desk: Desk) -> dict[str, int]:
    return {b.account: b.ns for b in desk.books.balances()}


def test_a_device_hands_over_and_the_books_balance(desk: Desk) -> None:
    desk.upload()
    assert desk.take_journal(desk.segment()) == 3
    session = desk.take_manifest(desk.manifest())

    assert accounts(desk) == {"landed": SECOND, "lived": -SECOND}
    assert inbox.sessions(desk.ledger, "tiny") == [session]
    assert desk.books.roles("tiny") == {"d0/s0": "train"}
    assert desk.books.faults() == desk.books.verify() == []


def test_what_was_said_before_changes_nothing(desk: Desk) -> None:
    def say_all() -> None:
        desk.upload()
        for last in (1, 3, None):
            desk.take_journal(desk.segment(last=last))
        desk.take_manifest(desk.manifest())

    say_all()
    before = desk.ledger.head()

    say_all()

    assert desk.ledger.head() == before
    assert desk.take_journal(desk.segment(first=2)) == 3


def test_a_segment_that_overlaps_what_is_known_adds_only_what_is_new(desk: Desk) -> None:
    assert desk.take_journal(desk.segment(last=2)) == 1
    assert desk.take_journal(desk.segment(first=1)) == 3
    assert accounts(desk) == {"lived": -SECOND, "sent": SECOND}


def test_a_missing_entry_blocks_the_later_ones(desk: Desk) -> None:
    desk.take_journal(desk.segment(last=1))

    with pytest.raises(ConflictError, match="device d0: journal gap: expected entry 1, got 2"):
        desk.take_journal(desk.segment(first=2))

    assert accounts(desk) == {}


@pytest.mark.parametrize(
    "changed", [{"lived_ns": 1}, {"lived_bytes": 1}, {"lived_until_ns": 1}, {"device": 1}, {"entry": 9}]
)
def test_totals_that_do_not_follow_from_the_entries_are_refused(desk: Desk, changed: dict[str, int]) -> None:
    before = desk.ledger.head()

    with pytest.raises(IntegrityError, match=r"signed totals .* do not follow from its entries"):
        desk.take_journal(desk.segment(**changed))

    assert desk.ledger.head() == before


def test_entries_that_do_not_follow_from_each_other_are_refused(desk: Desk) -> None:
    entries = [line_of(e) for e in desk.journal.entries]
    entries[2]["record"] = {**entries[2]["record"], "bytes": 1}
    swapped = [entries[0], entries[2], entries[1], entries[3]]
    before = desk.ledger.head()

    for bad in (entries, swapped, [entries[0], entries[0]]):
        statement = {"totals": plain(totals(0, desk.journal.entries)), "entries": bad}
        with pytest.raises(IntegrityError, match=r"entry \d does not follow from the one before"):
            desk.take_journal(desk.identity.statement(statement))
    assert desk.ledger.head() == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"device": 5}, "posts for somebody else"),
        ({"by": "factory"}, "posts for somebody else"),
        ({"to": "landed"}, "a device cannot post to landed"),
        ({"to": "forgotten"}, "a device cannot post to forgotten"),
    ],
)
def test_a_device_posts_for_itself_and_to_its_own_accounts_only(desk: Desk, more: dict[str, Any], says: str) -> None:
    desk.journal.append([desk.posting("lived", "buffered", **{"start_ns": SECOND, "end_ns": 2 * SECOND, **more})])
    before = desk.ledger.head()

    with pytest.raises(InvalidInputError, match=says):
        desk.take_journal(desk.segment())

    assert desk.ledger.head() == before


def test_time_is_lived_once(desk: Desk) -> None:
    desk.journal.append([desk.posting("lived", "buffered", start_ns=SECOND // 2)])

    with pytest.raises(ConflictError, match="was lived before"):
        desk.take_journal(desk.segment())

    assert accounts(desk) == {}


@pytest.mark.parametrize(
    "said", [[], {}, {"totals": {}}, {"entries": []}, {"totals": 3, "entries": 3}, {"totals": {}, "entries": [{}]}, "x"]
)
def test_a_statement_that_says_something_else_is_bad_input(desk: Desk, said: Any) -> None:
    for take in (desk.take_journal, desk.take_manifest, lambda s: inbox.take_report(desk.ledger, desk.device, s)):
        with pytest.raises(InvalidInputError):
            take(desk.identity.statement(said))


def test_what_another_key_signed_is_refused(desk: Desk) -> None:
    desk.identity = desk.thief
    before = desk.ledger.head()

    for take, statement in ((desk.take_journal, desk.segment()), (desk.take_manifest, desk.manifest())):
        with pytest.raises(TrustError, match="not signed by the key"):
            take(statement)
    assert desk.ledger.head() == before


def test_a_manifest_waits_for_its_recordings_and_for_the_journal(desk: Desk) -> None:
    with pytest.raises(ConflictError, match="are not here yet"):
        desk.take_manifest(desk.manifest())
    desk.upload()
    with pytest.raises(ConflictError, match="the journal does not say that it was sent"):
        desk.take_manifest(desk.manifest())
    desk.take_journal(desk.segment(last=3))  # kept, not sent
    with pytest.raises(ConflictError, match="the journal does not say that it was sent"):
        desk.take_manifest(desk.manifest())
    desk.take_journal(desk.segment())

    assert desk.take_manifest(desk.manifest()).key == "d0/s0"


def test_a_manifest_is_of_its_sender_and_says_one_thing(desk: Desk) -> None:
    desk.upload()
    desk.take_journal(desk.segment())
    for changed in ({"device": "d1"}, {"line": "arm"}):
        with pytest.raises(InvalidInputError, match=r"manifest: is of \w+ on \w+, sent by d0"):
            desk.take_manifest(desk.manifest(**changed))
    desk.take_manifest(desk.manifest())

    with pytest.raises(ConflictError, match=r"session d0/s0: fact .* says otherwise"):
        desk.take_manifest(desk.manifest(tags={"room": "b"}))


def test_a_recording_of_another_device_or_of_nobody_is_refused(desk: Desk) -> None:
    for data, says in ((a_recording("d1"), "is of device 'd1', sent by 'd0'"), (b"GIF89a", "is no MCAP file")):
        with pytest.raises(InvalidInputError, match=says):
            parts.take(desk.ledger, desk.blobs, desk.device, sha256(data), [data])
    with pytest.raises(IntegrityError):
        parts.take(desk.ledger, desk.blobs, desk.device, sha256(b"a"), [desk.data])
    assert not list(desk.ledger.read(kind="recording"))


def test_a_report_is_of_its_sender_and_is_entered_once(desk: Desk) -> None:
    report = Report(device="d0", line="tiny", state="confirmed", release_counter=1, model_file="", running="")
    for _ in range(2):
        inbox.take_report(desk.ledger, desk.device, desk.identity.statement(plain(report)))

    with pytest.raises(InvalidInputError, match="report: is of d1, sent by d0"):
        inbox.take_report(desk.ledger, desk.device, desk.identity.statement(plain(replace(report, device="d1"))))
    assert len(list(desk.ledger.read(kind="deployment"))) == 1

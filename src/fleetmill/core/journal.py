"""The device's journal as both sides read it: hash-chained entries and the totals that the device signs.

An entry is ``begin`` (a session was begun: its number, campaign and clock) or ``moved`` (a posting, see `custody`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fleetmill.core import canonical
from fleetmill.core.custody import LIVED
from fleetmill.core.errors import IntegrityError, InvalidInputError

GENESIS = "0" * 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the journal."""

    entry: int
    prev: str
    kind: str  # begin, moved
    record: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Chains the next entry to this one."""
        return canonical.digest({"entry": self.entry, "prev": self.prev, "kind": self.kind, "record": self.record})


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What the device signs about everything up to `entry`."""

    device: int
    entry: int
    digest: str
    lived_until_ns: int
    lived_ns: int
    lived_bytes: int


def read_entry(line: bytes, where: str) -> Entry:
    """An entry from its line.

    Raises:
        IntegrityError: it is none.
    """
    try:
        value = canonical.loads(line)
        return Entry(entry=value["entry"], prev=value["prev"], kind=value["kind"], record=value["record"])
    except (InvalidInputError, KeyError, TypeError) as error:
        raise IntegrityError(f"{where}: no journal entry ({error})") from error


def check_chain(last: Entry | None, entry: Entry, where: str) -> None:
    """Refuse an entry that does not follow from the last.

    Raises:
        IntegrityError: names the entry.
    """
    number, prev = (last.entry + 1, last.digest) if last else (0, GENESIS)
    if (entry.entry, entry.prev) != (number, prev):
        raise IntegrityError(f"{where}: entry {entry.entry} does not follow from entry {number - 1}")


def totals(device: int, entries: Iterable[Entry]) -> Totals:
    """The running totals after the last of all of a device's entries."""
    last_entry, last_digest, until, ns, size = -1, GENESIS, 0, 0, 0
    for e in entries:
        last_entry, last_digest = e.entry, e.digest
        if e.kind == "moved" and e.record["source"] == LIVED:
            until = max(until, e.record["end_ns"])
            ns, size = ns + e.record["end_ns"] - e.record["start_ns"], size + e.record["bytes"]
    return Totals(
        device=device, entry=last_entry, digest=last_digest, lived_until_ns=until, lived_ns=ns, lived_bytes=size
    )


def line_of(entry: Entry) -> dict[str, Any]:
    """What stands on an entry's line."""
    return {"entry": entry.entry, "prev": entry.prev, "kind": entry.kind, "record": entry.record}

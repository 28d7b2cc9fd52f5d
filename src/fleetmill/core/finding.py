"""What the factory learned about the fleet: sentences with numbers, evidence and a ledger number, in one document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetmill.core import canonical
from fleetmill.core.document import read_document
from fleetmill.core.plain import plain

TYPE, VERSION = "fleet.findings", 1
KINDS = ("failures", "weak_slices", "drift", "unlike", "factory")  # in the order in which they are told


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """An interval of a recording that shows what is said."""

    device: str
    session: str
    recording: str  # digest
    start_ns: int
    end_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was learned. `fact` is the number of the newest fact that it rests on."""

    kind: str  # of `KINDS`
    sentence: str
    numbers: Mapping[str, Any]
    evidence: tuple[Evidence, ...] = ()
    fact: int = 0
    sheet: str = ""  # digest of a contact sheet; "": none
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """All findings of one turn, in order; `head` is the number of the last fact that they know of."""

    line: str
    turn: int
    head: int
    findings: tuple[Finding, ...]
    type: str = TYPE
    version: int = VERSION
    extra: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> bytes:
        """The bytes that are signed: canonical JSON."""
        return canonical.dumps(plain(self))


def read_findings(document: bytes, where: str) -> Findings:
    """The findings in a document.

    Raises:
        IntegrityError: it is none.
        TooNewError: a newer version wrote it.
    """
    return read_document(Findings, document, where, type=TYPE, version=VERSION)

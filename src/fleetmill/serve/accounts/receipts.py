"""A receipt for each time that something went to a partner: what left by which rule, at what price, without content.

It is read out of the hash-chained records of what was sent (`journal`), which are checked whole first. Who signs it
(the home's key) says that the records say so; what the partner did with the content no receipt can say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetmill.core import canonical
from fleetmill.core.errors import IntegrityError, InvalidInputError
from fleetmill.core.plain import build, plain
from fleetmill.core.serve import Label, Tier
from fleetmill.serve.accounts import proof
from fleetmill.serve.accounts.journal import BEGUN

KIND = "fleetmill.receipt/1"
UNKNOWN = "unknown"  # it was begun, and the process died before it knew what came of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """One sending to a partner."""

    kind: str
    request: str  # the answer's x-request-id
    time_ns: int
    tenant: str
    key: str  # digest of the API key
    label: str
    consent: bool
    tier: str
    server: str
    model: str
    tokens_in: int
    tokens_out: int
    used: Mapping[str, int]  # requests, tokens, money in millionths of the unit, energy in joules
    outcome: str  # whole, broken, client_left, refused_by_server or unknown

    def statement(self) -> bytes:
        """What is signed."""
        return canonical.dumps(plain(self))


def read(data: bytes) -> Receipt:
    """A receipt from the bytes that were signed.

    Raises:
        InvalidInputError: it is none.
    """
    found = build(Receipt, canonical.loads(data), "receipt")
    if found.kind != KIND:
        raise InvalidInputError(f"receipt: kind {found.kind[:40]!r} is not {KIND!r}")
    return found


def receipts(
    folder: Path, *, request: str = "", since_ns: int | None = None, until_ns: int | None = None
) -> Iterator[Receipt]:
    """Those of one request or of all, of [since_ns, until_ns), in the order of the records.

    Raises:
        NotFoundError: no gateway has kept records there.
        IntegrityError: the records were touched.
    """
    checked = proof.prove(folder, label=Label.OPEN, tier=Tier.PARTNER)
    if checked.faults:
        raise IntegrityError(f"{folder}: {checked.faults[0]}. No receipt is given from such records")
    open_ones: dict[tuple[str, str], dict[str, Any]] = {}
    for sent in proof.records(folder, since_ns=since_ns, until_ns=until_ns):
        if Tier[str(sent["tier"]).upper()] < Tier.ATTESTED or (request and sent["request"] != request):
            continue
        place = (sent["request"], sent["server"])
        if sent["outcome"] == BEGUN:
            open_ones[place] = sent
        else:
            open_ones.pop(place, None)
            yield _receipt(sent, sent["outcome"])
    for sent in open_ones.values():
        yield _receipt(sent, UNKNOWN)


def _receipt(sent: Mapping[str, Any], outcome: str) -> Receipt:
    names = ("request", "time_ns", "tenant", "key", "label", "consent", "tier", "server", "model")
    counts = {name: sent[name] for name in ("tokens_in", "tokens_out", "used")}
    return Receipt(kind=KIND, outcome=outcome, **{name: sent[name] for name in names}, **counts)

"""Proof that nothing with a label of at least X was sent farther than tier Y, from the chains that gateways wrote.

What it shows: in the records that are there, none says so, and none of them was changed, removed in the middle or
reordered, since each holds the digest of the one before. What it cannot show by itself: that records were cut off at
the end of the newest chains, or that all chains were written anew from the first record. Both are seen with a head that
was noted before and kept elsewhere (`noted`). It speaks of what the gateway sent, not of what a server did with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleetmill.core import canonical
from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.ids import sha256
from fleetmill.core.serve import Label, Tier, may_send
from fleetmill.serve.accounts.journal import GENESIS, Head, chains, lines, others

_SHOWN = 100  # breaches that are listed


@dataclass(frozen=True, kw_only=True, slots=True)
class Breach:
    """Something that was sent farther than asked about."""

    chain: str
    number: int
    time_ns: int
    request: str
    tenant: str
    label: str
    tier: str
    server: str
    consent: bool
    is_against_rule: bool  # the gateway's own rule forbids it: a defect, or a record that no gateway wrote


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """One process's records."""

    head: Head
    is_ended: bool  # the process ended in order; else it runs, died, or the end was cut off
    torn_bytes: int  # of a line that was being written when the process died


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What the records say."""

    label: str
    tier: str
    since_ns: int | None
    until_ns: int | None
    records: int  # in that period
    breaches: tuple[Breach, ...]  # the first hundred
    breached: int  # all of them
    chains: tuple[Chain, ...]
    faults: tuple[str, ...]  # why the records are not what was written

    @property
    def holds(self) -> bool:
        """Whether the records are whole and none is a breach."""
        return not self.breached and not self.faults

    def sentence(self) -> str:
        """The answer in a line."""
        chained = f"{self.records} records of {len(self.chains)} chains"
        if self.faults:
            return f"nothing is proved: {len(self.faults)} faults in {chained}"
        if self.breached:
            return f"{self.breached} of {chained} with label >= {self.label} left tier {self.tier}"
        return f"no record with label >= {self.label} left tier {self.tier}: {chained}"


@dataclass(slots=True)
class _Found:
    records: int = 0
    breached: int = 0
    breaches: list[Breach] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)


def prove(
    folder: Path,
    *,
    label: Label,
    tier: Tier,
    since_ns: int | None = None,
    until_ns: int | None = None,
    noted: Sequence[Head] = (),
) -> Proof:
    """Read all chains in `folder`; records of [since_ns, until_ns) are asked about, all are checked.

    Raises:
        NotFoundError: there is no such folder.
    """
    found, known = _Found(), chains(_there(folder))
    heads = _noted(known, noted)
    for chain in sorted(heads.keys() - known.keys()):
        found.faults.append(f"chain {chain}: is gone; {max(heads[chain])} records were noted")
    for chain, paths in known.items():
        for number, sent in _checked(chain, paths, heads.get(chain, {}), found):
            if _is_within(sent, since_ns, until_ns):
                found.records += 1
                _judge(chain, number, sent, label, tier, found)
    return Proof(
        label=label.name.lower(),
        tier=tier.name.lower(),
        since_ns=since_ns,
        until_ns=until_ns,
        records=found.records,
        breaches=tuple(found.breaches),
        breached=found.breached,
        chains=tuple(found.chains),
        faults=tuple(found.faults),
    )


def records(folder: Path, *, since_ns: int | None = None, until_ns: int | None = None) -> Iterator[dict[str, Any]]:
    """What was sent, record by record, as it is written; chain after chain. It is not checked: `prove` does that."""
    found = _Found()
    for chain, paths in chains(_there(folder)).items():
        for _, sent in _checked(chain, paths, {}, found):
            if _is_within(sent, since_ns, until_ns):
                yield sent


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no gateway has kept records there")
    return folder


def _noted(known: dict[str, list[Path]], noted: Sequence[Head]) -> dict[str, dict[int, str]]:
    """chain -> number of records -> the digest that the last of them had, as people noted and as other chains say."""
    found: dict[str, dict[int, str]] = {}
    for paths in known.values():
        for chain, (number, digest) in others(paths).items():
            found.setdefault(chain, {})[number] = digest
    for head in noted:
        found.setdefault(head.chain, {})[head.records] = head.digest
    return found


def _checked(
    chain: str, paths: list[Path], heads: dict[int, str], found: _Found
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of what was sent; the first that does not follow is a fault, and so is each head that is not met."""
    count, digest, torn, is_ended, fault = 0, GENESIS, 0, False, ""
    for line in lines(paths):
        if torn:
            fault = fault or f"chain {chain}: record {count} is broken off and others follow it"
        if not line.endswith(b"\n"):
            torn = len(line)
            continue
        try:
            record = canonical.loads(line)
            fits = record["n"] == count and record["prev"] == digest and not is_ended
        except (InvalidInputError, KeyError, TypeError):
            record, fits = {}, False
        if not fits:
            fault = fault or (
                f"chain {chain}: record {count} does not follow from the one before: "
                "one of them was changed, removed or reordered"
            )
        count, digest, is_ended = count + 1, sha256(line[:-1]), "ended" in record
        if heads.get(count, digest) != digest:
            fault = fault or f"chain {chain}: record {count - 1} is not the one that was noted"
        if isinstance(record.get("sent"), dict):
            yield count - 1, record["sent"]
    if heads and max(heads) > count:
        fault = fault or f"chain {chain}: {max(heads)} records were noted, {count} are there: the end was cut off"
    found.faults += [fault] if fault else []
    head = Head(chain=chain, records=count, digest=digest)
    found.chains.append(Chain(head=head, is_ended=is_ended, torn_bytes=torn))


def _is_within(sent: dict[str, Any], since_ns: int | None, until_ns: int | None) -> bool:
    at = sent.get("time_ns", 0)
    return (since_ns is None or at >= since_ns) and (until_ns is None or at < until_ns)


def _judge(chain: str, number: int, sent: dict[str, Any], label: Label, tier: Tier, found: _Found) -> None:
    try:
        its_label, its_tier = Label[sent["label"].upper()], Tier[sent["tier"].upper()]
        consent = bool(sent["consent"])
    except (KeyError, AttributeError):
        found.faults.append(f"chain {chain}: record {number} has no label or tier that this version knows")
        return
    if its_label < label or its_tier <= tier:
        return
    found.breached += 1
    if len(found.breaches) < _SHOWN:
        found.breaches.append(
            Breach(
                chain=chain,
                number=number,
                time_ns=sent.get("time_ns", 0),
                request=str(sent.get("request", "")),
                tenant=str(sent.get("tenant", "")),
                label=sent["label"],
                tier=sent["tier"],
                server=str(sent.get("server", "")),
                consent=consent,
                is_against_rule=not may_send(its_label, its_tier, consent=consent),
            )
        )

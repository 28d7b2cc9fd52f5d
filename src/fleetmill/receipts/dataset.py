"""What a dataset version is made of: its sessions and rows by role, and the labels from outside that are in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fleetmill.core.dataset import DatasetVersion
from fleetmill.core.plain import build
from fleetmill.core.split import ROLES
from fleetmill.seams.ledger import Fact, Ledger

_LEAST_DIGITS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelsUsed:
    """A label set that touches sessions of a dataset version, and for which role."""

    digest: str
    sources: tuple[str, ...]
    format: str
    file: str  # digest of the file that it came in with
    roles: tuple[str, ...]
    sessions: int
    fact: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What has one role in a dataset version."""

    role: str
    sessions: int
    rows: int
    sources: Mapping[str, int]  # rows by who labelled them from outside


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """The receipt of a dataset version."""

    dataset: str
    line: str
    line_version: int
    parent: str
    shares: tuple[Share, ...]
    labels: tuple[LabelsUsed, ...]
    models: tuple[str, ...]  # that were trained on it
    fact: int


def find(ledger: Ledger, name: str) -> str:
    """Digest of the one dataset version that begins so; "": there is none."""
    found = [f.key for f in ledger.read(kind="dataset") if len(name) >= _LEAST_DIGITS and f.key.startswith(name)]
    return found[0] if len(found) == 1 else ""


def why(ledger: Ledger, dataset: str) -> Made:
    """What a dataset version is made of; `dataset` is its whole digest.

    Raises:
        NotFoundError: no such version.
    """
    fact = ledger.get("dataset", dataset)
    version = build(DatasetVersion, fact.record["manifest"])
    return Made(
        dataset=dataset,
        line=version.line,
        line_version=version.line_version,
        parent=version.parent,
        shares=tuple(
            Share(
                role=role,
                sessions=sum(p.role == role for p in version.parts),
                rows=version.rows(role),
                sources=version.sources(role),
            )
            for role in ROLES
        ),
        labels=Sets(ledger).of([fact.record["manifest"]], ROLES),
        models=tuple(f.record["model"] for f in ledger.read(kind="run") if f.record["dataset"] == dataset),
        fact=fact.seq,
    )


class Sets:
    """The label sets of any dataset versions, from facts that are read once."""

    def __init__(self, ledger: Ledger) -> None:
        self._facts: dict[str, Fact] = {}
        for fact in ledger.read(kind="labels"):
            self._facts.setdefault(fact.record["digest"], fact)

    def of(self, manifests: Iterable[Mapping[str, Any]], roles: Iterable[str]) -> tuple[LabelsUsed, ...]:
        """Those that touch sessions with these roles, in the order in which they came in."""
        wanted, found = set(roles), dict[str, dict[str, str]]()
        for manifest in manifests:
            for part in manifest["parts"] if self._facts else ():
                for digest in part.get("labels", ()) if part["role"] in wanted else ():
                    found.setdefault(digest, {})[part["session"]] = part["role"]
        return tuple(
            self._used(self._facts[digest], found[digest])
            for digest in sorted(found, key=lambda digest: self._facts[digest].seq)
        )

    def _used(self, fact: Fact, touched: Mapping[str, str]) -> LabelsUsed:
        return LabelsUsed(
            digest=fact.record["digest"],
            sources=tuple(fact.record["sources"]),
            format=fact.record["format"],
            file=fact.record["file"],
            roles=tuple(sorted(set(touched.values()))),
            sessions=len(touched),
            fact=fact.seq,
        )

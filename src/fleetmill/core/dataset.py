"""A dataset version: an immutable manifest whose digest depends on what was lived and how it was cut, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fleetmill.core.canonical import digest
from fleetmill.core.plain import plain

_DIGITS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One session's share: its manifest's digest, its role, and its episodes' digests in order."""

    session: str
    manifest: str
    role: str
    episodes: tuple[str, ...]
    rows: int
    labels: tuple[str, ...] = ()  # digests of the label sets that touch it, later ones over earlier ones
    sources: Mapping[str, int] = field(default_factory=dict)  # rows by who labelled them from outside


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetVersion:
    """Sessions, roles and episodes that one training and one judging may use."""

    line: str
    line_version: int
    parts: tuple[Part, ...]  # sorted by session
    parent: str = ""  # digest of the version before
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Names the version by its content."""
        return digest(self.record)

    @property
    def record(self) -> dict[str, Any]:
        """As the ledger holds it: a part without outside labels says nothing of them, as before there were any."""
        whole: dict[str, Any] = plain(self)
        parts = [{k: v for k, v in part.items() if v or k not in ("labels", "sources")} for part in whole["parts"]]
        return {**whole, "parts": parts}

    def rows(self, role: str) -> int:
        """Number of frames with a role."""
        return sum(p.rows for p in self.parts if p.role == role)

    def sources(self, role: str) -> dict[str, int]:
        """Rows with a role by who labelled them from outside."""
        found: dict[str, int] = {}
        for part in self.parts:
            for source, rows in part.sources.items() if part.role == role else ():
                found[source] = found.get(source, 0) + rows
        return found


def refined_key(line: str, line_version: int, session: str, labels: Sequence[str]) -> str:
    """Names the one cut of a session by a line's version with the label sets that touch it."""
    key = f"{line}/{line_version}/{session}"
    return f"{key}/{digest(list(labels))[:_DIGITS]}" if labels else key

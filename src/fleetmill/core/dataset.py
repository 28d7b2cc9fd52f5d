"""A dataset version: an immutable manifest whose digest depends on what was lived and how it was cut, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetmill.core.canonical import digest
from fleetmill.core.plain import plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One session's share: its manifest's digest, its role, and its episodes' digests in order."""

    session: str
    manifest: str
    role: str
    episodes: tuple[str, ...]
    rows: int


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
        return digest(plain(self))

    def rows(self, role: str) -> int:
        """Number of frames with a role."""
        return sum(p.rows for p in self.parts if p.role == role)

"""Machines and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetmill.core.canonical import digest
from fleetmill.core.line import Trigger
from fleetmill.core.plain import plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One machine with an identity. `number` is its enrolment number, from 0."""

    name: str
    number: int
    line: str
    hardware: str
    public_key: str  # Ed25519, 32 raw bytes in hex; "": a device that only exists through imports


@dataclass(frozen=True, kw_only=True, slots=True)
class Campaign:
    """What to record until when within how many bytes. Signed; travels to devices as a TUF target.

    A device lives `sessions` sessions of at most `seconds` for each campaign number, once.
    """

    line: str
    number: int
    scenario: str
    sessions: int
    seconds: float
    budget_ratio: float  # share of the recorded bytes that may be kept, over all sessions of the campaign
    triggers: tuple[Trigger, ...]  # none: everything is worth keeping
    seed: int  # worlds of the fleet are seeded from here
    tags: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Names the campaign by its content."""
        return digest(plain(self))

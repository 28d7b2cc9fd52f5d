"""Machines and what is asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleetmill.core.canonical import digest
from fleetmill.core.line import Trigger
from fleetmill.core.plain import plain

_SESSIONS = 1_000  # of one device; campaigns' seeds are multiples of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One machine with an identity. `number` is its enrolment number, from 0."""

    name: str
    number: int
    line: str
    hardware: str
    public_key: str  # Ed25519, 32 raw bytes in hex; "": a device that only exists through imports
    place: int | None = None  # the same among its line's devices, where that differs; None: it does not

    @property
    def record(self) -> dict[str, Any]:
        """As the ledger holds it: without a place that is the number, as before there were places."""
        return {name: value for name, value in plain(self).items() if value is not None}

    @property
    def nth(self) -> int:
        """From 0, on its own line: what decides roles, so that other lines' devices do not."""
        return self.number if self.place is None else self.place


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


def session_seed(campaign: Campaign, *, device: int, number: int) -> int:
    """Seed of the world in which a device lives its nth session; `number_of` tells the number again.

    >>> number_of(session_seed(Campaign(line="x", number=0, scenario="", sessions=1, seconds=1.0, budget_ratio=1.0,
    ...     triggers=(), seed=10_100_000), device=3, number=7))
    7
    """
    return campaign.seed + _SESSIONS * device + number % _SESSIONS


def number_of(seed: int) -> int:
    """Which session of a device a world's seed is for: a replay gives the recording of that number."""
    return seed % _SESSIONS

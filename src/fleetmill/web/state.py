"""What the fold over the facts holds: devices, lines, and the tail of the ledger.

What changes with the next fact is written by the fold (`view`) alone; everybody else only reads.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

MOST_SESSIONS = 64  # of a device that are remembered with their recordings
Phase = Literal["refine", "train", "judge", "release"]
PHASES: tuple[Phase, ...] = ("refine", "train", "judge", "release")


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A recording as its session's manifest names it."""

    digest: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Lived:
    """A closed session of a device and what was kept of it."""

    key: str
    clips: tuple[Clip, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a device said, signed, of a release."""

    state: str
    release: int
    running: str  # digest of the model file that it runs
    reason: str
    seq: int


@dataclass(slots=True, kw_only=True)
class DeviceSeen:
    """One device."""

    name: str
    number: int
    line: str
    has_key: bool = False
    enrolled: bool = False
    answer: Answer | None = None  # the last
    confirmed: Answer | None = None  # the last that confirmed
    answers: dict[int, str] = field(default_factory=dict)  # release -> state
    sessions: int = 0
    lived: deque[Lived] = field(default_factory=lambda: deque(maxlen=MOST_SESSIONS))
    heard_ns: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The campaign that runs."""

    number: int
    digest: str
    sessions: int


@dataclass(slots=True, kw_only=True)
class Open:
    """A turn that has begun and not ended."""

    number: int
    sessions: frozenset[str]
    champion: str
    dataset: str = ""
    rows: int = 0
    model: str = ""
    verdict: str = ""  # key

    @property
    def phase(self) -> Phase:
        """The step that it stands in."""
        done = (self.dataset, self.model, self.verdict)
        return PHASES[next((i for i, value in enumerate(done) if not value), 3)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A verdict's headline: candidate and what it was compared with, on the same trials."""

    key: str
    number: int
    is_turn: bool
    after_turn: int
    candidate: str
    champion: str
    metric: str
    better: str
    value: float | None
    other: float | None
    against: str
    low: float | None  # of the candidate: 95 % interval of the ratio, times the other's value
    high: float | None
    decision: str
    pairs: int
    seq: int
    fact: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Out:
    """A release."""

    number: int
    model: str


@dataclass(slots=True, kw_only=True)
class LineSeen:
    """One line."""

    name: str
    campaign: Asked | None = None
    arrived: dict[str, Counter[str]] = field(default_factory=dict)  # campaign -> device -> sessions
    arriving: Counter[str] = field(default_factory=Counter)  # session that is not closed -> recordings
    closed: int = 0
    fresh: dict[str, bool] = field(default_factory=dict)  # closed session in no dataset -> was it cut?
    turn: Open | None = None
    turns: int = 0
    dataset: str = ""
    dataset_rows: int = 0
    model: str = ""
    entered: dict[str, str] = field(default_factory=dict)  # waits to be judged: key -> model
    examined: str = ""  # the entered model that is being judged
    compared: list[Compared] = field(default_factory=list)
    accepted: dict[str, str] = field(default_factory=dict)  # verdict that let a model through, not out yet -> model
    approved: set[str] = field(default_factory=set)  # of those, the ones that a person said yes to
    release: Out | None = None
    findings: dict[int, tuple[str, int]] = field(default_factory=dict)  # turn -> (document, number of the fact)


@dataclass(frozen=True, kw_only=True, slots=True)
class FactSeen:
    """A fact of the tail, or several of one kind and device in a row."""

    first: int
    last: int
    time_ns: int
    kind: str
    key: str
    digest: str

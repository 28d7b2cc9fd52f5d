"""Recordings, and the manifest with which a device closes a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FORMAT = 1  # of the `fleet` metadata record


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingInfo:
    """The ``fleet`` metadata record inside a recording: one device over [start_ns, end_ns)."""

    device: str
    session: str
    line: str
    start_ns: int
    end_ns: int
    track: int = 0
    model: str = ""  # digest of the model that drove; "": none
    campaign: str = ""  # digest
    tags: Mapping[str, str] = field(default_factory=dict)
    time_base: Literal["utc", "local", "cycle", "none"] = "utc"
    unit_system: str = "ucum"
    version: int = FORMAT
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingRef:
    """A recording as a manifest names it. `bytes` and `messages` are payload, what the books count."""

    digest: str
    start_ns: int
    end_ns: int
    bytes: int
    messages: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """The manifest that closes a session: what was lived, and which recordings of it were kept, in order."""

    device: str
    name: str
    number: int  # in the device's own journal, from 0
    line: str
    start_ns: int
    end_ns: int
    recordings: tuple[RecordingRef, ...]
    recorded_bytes: int  # payload of everything lived, kept or not
    ended: Literal["done", "crash", "import"] = "done"
    model: str = ""
    campaign: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    source: str = ""  # digest of the foreign files that it was imported from
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Unique in a home."""
        return f"{self.device}/{self.name}"

"""A frame by its name: device, session and instant, as our exports write it and tools hand it back. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleetmill.core.errors import InvalidInputError
from fleetmill.labels.rows import Reader

_NAME = re.compile(r"(?:^|/)([^/]+)/([^/]+)/(\d{1,19})(?:\.\w+)?$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One instant of a session."""

    device: str
    session: str
    time_ns: int

    @property
    def path(self) -> str:
        """As a file's name."""
        return f"{self.device}/{self.session}/{self.time_ns}.jpg"


def place_of(told: Mapping[str, Any], name: str, reader: Reader, where: str) -> Place:
    """The instant that `told` (device, session, time_ns) or else a file's name says.

    Raises:
        InvalidInputError: neither says it.
    """
    if {"device", "session", "time_ns"} <= set(told):
        device, session = str(told["device"]), str(told["session"])
        return Place(device=device, session=session, time_ns=reader.moment(device, str(told["time_ns"]), where))
    found = _NAME.search(name)
    if found is None:
        raise InvalidInputError(
            f"{where}: {name[:80]!r} names no frame; expected .../DEVICE/SESSION/TIME_NS.jpg, as our export writes"
        )
    return Place(device=found[1], session=found[2], time_ns=int(found[3]))

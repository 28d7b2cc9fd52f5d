"""Recordings as a machine: a device lives again what was recorded once, one recording a session.

What is observed is as it was; what a model sends is recorded and moves nothing. A recording without a hole is wanted:
each of its instants lasts one period of the line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from fleetmill.core.errors import InvalidInputError, NotFoundError
from fleetmill.core.fleet import number_of
from fleetmill.core.line import Array, Frame, Line, Message, Step, World
from fleetmill.core.recording import RecordingInfo
from fleetmill.seams.recordings import read_info, read_messages


class Replay:
    """One recording as a world (`core.line.World`); `tags` name the machine and the session that it is of."""

    def __init__(self, line: Line, instants: Sequence[tuple[Frame, Frame]], tags: Mapping[str, str]) -> None:
        self._period_ns = round(1e9 / line.model.rate_hz)
        self._instants = instants
        self._at = 0
        self.tags = tags

    def begin(self) -> Step:
        """The first recorded instant."""
        self._at = 0
        return self._step()

    def act(self, action: Frame) -> Step:  # noqa: ARG002 - what was recorded does not change
        """The next one."""
        self._at += 1
        return self._step()

    def close(self) -> None:
        """Nothing is held."""

    def _step(self) -> Step:
        observation, label = self._instants[self._at]
        return Step(
            time_ns=self._at * self._period_ns,
            observation=observation,
            label=label,
            takeover=None,
            events={},
            done=self._at + 1 >= len(self._instants),
            acts=False,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recordings:
    """A folder of MCAP files as a device's worlds: its nth session replays the nth file by name."""

    line: Line
    folder: Path

    def __call__(self, scenario: str, seed: int) -> World:  # noqa: ARG002 - there is one past
        """The recording of a session, by the number that is in its seed.

        Raises:
            NotFoundError: all recordings were replayed.
            InvalidInputError: the file lacks a channel that the line's model observes.
        """
        files, number = sorted(self.folder.glob("*.mcap")), number_of(seed)
        if number >= len(files):
            raise NotFoundError(f"{self.folder}: all {len(files)} recordings were replayed. Put further ones there")
        data, where = files[number].read_bytes(), str(files[number])
        info = read_info(data, where)
        tags = _tags(info) if info is not None else {}
        return Replay(self.line, list(instants(self.line, read_messages(data, where), where)), tags)


def _tags(info: RecordingInfo) -> dict[str, str]:
    """Of which machine and session it is, and when that was where its clock shows dates."""
    found = {**info.tags, "recorded_by": info.device, "recorded_as": info.session}
    if info.time_base in ("utc", "local"):
        found["recorded_at"] = f"{datetime.fromtimestamp(info.start_ns / 1e9, tz=timezone.utc):%Y-%m-%dT%H:%M:%S}"
    return found


def instants(line: Line, messages: Iterator[Message], where: str) -> Iterator[tuple[Frame, Frame]]:
    """(observation, label) of each instant at which the line's first observation was recorded.

    Another observation that says nothing at an instant holds its last value; a label holds none. Instants before every
    observation has spoken are passed over.

    Raises:
        InvalidInputError: an observation is in no message, or a picture (they are not replayed yet).
    """
    observed = [f.name for f in line.features if f.kind == "observation"]
    labels = {f.name for f in line.features if f.kind == "label"}
    held: dict[str, Array] = {}
    for group in _groups(messages, observed[0]):
        if any("format" in m.value for m in group):
            raise InvalidInputError(f"{where}: holds pictures, which a device does not replay yet")
        values = {m.topic: np.asarray(m.value["data"]) for m in group if "data" in m.value}
        held |= {name: value for name, value in values.items() if name in observed}
        if observed[0] in values and len(held) == len(observed):
            yield dict(held), {name: value for name, value in values.items() if name in labels}
    missing = [name for name in observed if name not in held]
    if missing:
        raise InvalidInputError(f"{where}: nothing was recorded of {', '.join(missing)}, which the model observes")


def _groups(messages: Iterator[Message], tick: str) -> Iterator[list[Message]]:
    """Messages in log order, cut so that each group ends with all that has the time of a tick."""
    group: list[Message] = []
    ticked_ns: int | None = None
    for message in messages:
        if ticked_ns is not None and message.log_time_ns > ticked_ns:
            yield group
            group, ticked_ns = [], None
        group.append(message)
        if message.topic == tick:
            ticked_ns = message.log_time_ns
    if group:
        yield group

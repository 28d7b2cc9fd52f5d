"""What a device lived and has not yet handed over: one folder per session, written so that a crash loses 100 ms.

```
spool/s0003/begin.json    written before the first instant
            live.wal      one frame per instant: length, CRC-32, payload; fsynced at least every 100 lived ms
            ended.json    written when the session ended, or by the recovery after a crash
            clips/DIGEST  sealed recordings of what was kept
            settled.json  manifest and postings: written last, when all clips are durable
```
"""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleetmill.core import canonical
from fleetmill.core.errors import UnavailableError
from fleetmill.core.plain import build, plain
from fleetmill.seams.files import sync_folder, write_whole
from fleetmill.seams.recordings import Encoded

DURABLE_NS = 100_000_000  # lived time that a crash may lose at most
_HEAD = struct.Struct("<II")
_INSTANT = struct.Struct("<qB")
_ITEM = struct.Struct("<BBI")


@dataclass(frozen=True, kw_only=True, slots=True)
class Begin:
    """What is known of a session before it is lived."""

    session: str
    number: int
    campaign: str
    line: str
    model: str
    start_ns: int
    period_ns: int
    seed: int
    topics: tuple[str, ...]
    kinds: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Instant:
    """One frame of the log: it stands for [time_ns, time_ns + period)."""

    time_ns: int
    messages: tuple[Encoded, ...]

    @property
    def bytes(self) -> int:
        """Payload: what the books count."""
        return sum(len(m.payload) for m in self.messages)


class Log:
    """The log of the session that is being lived."""

    def __init__(self, handle: int, begin: Begin) -> None:
        self._handle, self._begin = handle, begin
        self._unsynced_ns = 0
        self._topics = {name: i for i, name in enumerate(begin.topics)}
        self._kinds = {name: i for i, name in enumerate(begin.kinds)}

    def add(self, time_ns: int, messages: Sequence[Encoded]) -> None:
        """Append an instant; durable together with those before it at the latest when 100 ms were lived."""
        parts = [_INSTANT.pack(time_ns, len(messages))]
        for m in messages:
            parts += [_ITEM.pack(self._topics[m.topic], self._kinds[m.kind], len(m.payload)), m.payload]
        payload = b"".join(parts)
        frame = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        if os.write(self._handle, frame) < len(frame):  # what follows a torn frame would not be read
            raise UnavailableError(f"session {self._begin.session}: the disk is full. Free some space on it")
        self._unsynced_ns += self._begin.period_ns
        if self._unsynced_ns + self._begin.period_ns > DURABLE_NS:
            os.fdatasync(self._handle)
            self._unsynced_ns = 0

    def close(self) -> None:
        """Make everything durable."""
        try:
            os.fdatasync(self._handle)
        finally:
            os.close(self._handle)


class Spool:
    """The folder of all sessions that are not landed yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, begin: Begin) -> Log:
        """Open the log of a new session."""
        folder = self.folder(begin.session)
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self._folder)
        write_whole(folder / "begin.json", canonical.dumps(plain(begin)))
        handle = os.open(folder / "live.wal", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        sync_folder(folder)
        return Log(handle, begin)

    def end(self, session: str, *, end_ns: int, ended: str) -> None:
        """Mark a session as lived to its end, or to a crash."""
        write_whole(self.folder(session) / "ended.json", canonical.dumps({"end_ns": end_ns, "ended": ended}))

    def sessions(self) -> list[Begin]:
        """Sessions in the spool, oldest first."""
        found = [self._read(path) for path in sorted(self._folder.glob("*/begin.json"))]
        return sorted((build(Begin, value) for value in found), key=lambda b: b.number)

    def ended(self, session: str) -> Mapping[str, Any] | None:
        """``{end_ns, ended}`` of a session that ended."""
        return self._optional(self.folder(session) / "ended.json")

    def settled(self, session: str) -> Mapping[str, Any] | None:
        """``{manifest, postings}`` of a session whose clips are cut."""
        return self._optional(self.folder(session) / "settled.json")

    def settle(self, session: str, *, clips: Mapping[str, bytes], settled: Mapping[str, Any]) -> None:
        """Keep the clips, by digest, then what was decided: complete when it returns."""
        folder = self.folder(session) / "clips"
        folder.mkdir(exist_ok=True)
        for digest, data in clips.items():
            write_whole(folder / digest, data)
        write_whole(self.folder(session) / "settled.json", canonical.dumps(settled))

    def clip(self, session: str, digest: str) -> Path:
        """The file of a clip."""
        return self.folder(session) / "clips" / digest

    def instants(self, begin: Begin) -> Iterator[Instant]:
        """The instants of a session as far as they are whole: a torn end is where the log ends."""
        path = self.folder(begin.session) / "live.wal"
        data = path.read_bytes() if path.exists() else b""
        at = 0
        while at + _HEAD.size <= len(data):
            length, crc = _HEAD.unpack_from(data, at)
            payload = data[at + _HEAD.size : at + _HEAD.size + length]
            if len(payload) < length or zlib.crc32(payload) != crc:
                return
            yield _instant(begin, payload)
            at += _HEAD.size + length

    def forget(self, session: str) -> None:
        """Free the session's bytes: only after the factory said that it holds them."""
        folder = self.folder(session)
        (folder / "begin.json").unlink(missing_ok=True)  # first: half-removed it is no session, see `open_spool`
        sync_folder(folder)
        shutil.rmtree(folder)

    def folder(self, session: str) -> Path:
        """Where a session lies."""
        return self._folder / session

    def _optional(self, path: Path) -> Mapping[str, Any] | None:
        return self._read(path) if path.exists() else None

    def _read(self, path: Path) -> Mapping[str, Any]:
        value: Mapping[str, Any] = canonical.loads(path.read_bytes())
        return value


def open_spool(folder: Path) -> Spool:
    """The spool in `folder`; what a crash left before ``begin.json`` was whole is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not (path / "begin.json").exists():
            shutil.rmtree(path)
    return Spool(folder)


def _instant(begin: Begin, payload: bytes) -> Instant:
    time_ns, count = _INSTANT.unpack_from(payload, 0)
    at, messages = _INSTANT.size, []
    for _ in range(count):
        topic, kind, length = _ITEM.unpack_from(payload, at)
        at += _ITEM.size
        data = payload[at : at + length]
        messages.append(Encoded(topic=begin.topics[topic], kind=begin.kinds[kind], time_ns=time_ns, payload=data))
        at += length
    return Instant(time_ns=time_ns, messages=tuple(messages))

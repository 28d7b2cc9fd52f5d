"""What a device remembers across a power cut: 512 bytes, kept twice. Pure, the hand beside it is `slots`.

Two copies are written in turn, so a torn write can spoil only the one that was being written, and the other still says
what was true before. Counters only grow (`never_back`). Layout, little endian:

| offset | bytes | what |
|--:|--:|---|
| 0 | 4 | ``FMS1`` |
| 4 | 8 | sequence number of this record; the higher of two whole copies counts |
| 12 | 8 | the highest trusted time seen, nanoseconds UTC |
| 20 | 32 | highest metadata versions seen: root, timestamp, snapshot, targets |
| 52 | 8 | fingerprint of the online keys that those versions were signed with |
| 60 | 96 | release digests: active, previous, trial; zeros where there is none |
| 156 | 2 | tries of the trial; number of lines |
| 158 | | per line: counter (8), length of the name (1), the name |
| 508 | 4 | CRC-32 of everything before |
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fleetmill.core.errors import ConflictError, InvalidInputError

SIZE = 512
TRIES = 3  # a trial that a power cut ended is no proof against the model: it gets this many before it is given up
TIME_STEP_NS = 3600 * 10**9  # the time seen is written at most once in this while: flash wears
_MAGIC = b"FMS1"
_HEAD = struct.Struct("<4sQQ4Q8s32s32s32sBB")
_LINE = struct.Struct("<QB")
_ROOM = SIZE - 4 - _HEAD.size
_NONE = bytes(32)
_HIGHEST = 2**64 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """The highest versions of verified metadata that this device ever accepted."""

    root: int = 0
    timestamp: int = 0
    snapshot: int = 0
    targets: int = 0
    keys: bytes = bytes(8)  # which online keys signed them


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The record. Digests are release digests in hex, which name the slots' folders."""

    sequence: int = 0
    active: str | None = None
    previous: str | None = None
    trial: str | None = None
    tries: int = 0
    time_ns: int = 0
    seen: Seen = field(default_factory=Seen)
    counters: Mapping[str, int] = field(default_factory=dict)  # line -> highest release counter ever tried

    @property
    def unfinished(self) -> str | None:
        """The trial that may be begun (again), if there is one."""
        return self.trial if self.tries < TRIES else None


def encode(state: State) -> bytes:
    """The 512 bytes of `state`.

    Raises:
        InvalidInputError: the lines' names do not fit; a device of that many lines needs several slot folders.
    """
    head = _HEAD.pack(
        _MAGIC,
        state.sequence,
        state.time_ns,
        *(min(v, _HIGHEST) for v in (state.seen.root, state.seen.timestamp, state.seen.snapshot, state.seen.targets)),
        state.seen.keys,
        *(bytes.fromhex(d) if d else _NONE for d in (state.active, state.previous, state.trial)),
        state.tries,
        len(state.counters),
    )
    lines = b"".join(_LINE.pack(n, len(name.encode())) + name.encode() for name, n in sorted(state.counters.items()))
    if len(lines) > _ROOM:
        raise InvalidInputError(f"lines {sorted(state.counters)}: take {len(lines)} bytes of the record, {_ROOM} fit")
    body = (head + lines).ljust(SIZE - 4, b"\0")
    return body + zlib.crc32(body).to_bytes(4, "little")


def decode(data: bytes) -> State | None:
    """The state in `data`; None when it is torn, damaged or of another format."""
    if len(data) != SIZE or data[:4] != _MAGIC or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        return None
    _, sequence, time_ns, root, timestamp, snapshot, targets, keys, *digests, tries, lines = _HEAD.unpack_from(data)
    counters, at = {}, _HEAD.size
    for _ in range(lines):
        counter, size = _LINE.unpack_from(data, at)
        at += _LINE.size + size
        counters[data[at - size : at].decode()] = counter
    active, previous, trial = (None if d == _NONE else d.hex() for d in digests)
    return State(
        sequence=sequence,
        active=active,
        previous=previous,
        trial=trial,
        tries=tries,
        time_ns=time_ns,
        seen=Seen(root=root, timestamp=timestamp, snapshot=snapshot, targets=targets, keys=keys),
        counters=counters,
    )


def newest(copies: tuple[bytes, bytes]) -> State | None:
    """The state that counts: the whole copy with the higher sequence number. None: neither is whole."""
    return max(filter(None, map(decode, copies)), key=lambda state: state.sequence, default=None)


def begin(state: State, digest: str, *, line: str, counter: int) -> State:
    """Count a try of release `digest` before its first load; from now on no lower counter of its line is accepted.

    Raises:
        ConflictError: it runs already, was tried too often, or its counter is not above the highest tried.
    """
    if digest == state.active:
        raise ConflictError(f"release {digest[:12]}: is active already")
    if digest == state.trial:
        if state.tries >= TRIES:
            raise ConflictError(f"release {digest[:12]}: was tried {state.tries} times; publish a new release")
        return replace(state, tries=state.tries + 1)
    highest = state.counters.get(line, 0)
    if counter <= highest:
        raise ConflictError(f"release {digest[:12]}: counter {counter} of line {line} is not above {highest}")
    return replace(state, trial=digest, tries=1, counters={**state.counters, line: counter})


def confirm(state: State, digest: str) -> State:
    """The flip: the trial becomes active, what was active becomes previous. Once more: nothing changes.

    Raises:
        ConflictError: `digest` is not on trial.
    """
    if digest == state.active and state.trial is None:
        return state
    if digest != state.trial:
        raise ConflictError(f"release {digest[:12]}: is not on trial, {(state.trial or 'none')[:12]} is")
    return replace(state, active=digest, previous=state.active, trial=None, tries=0)


def reject(state: State, digest: str) -> State:
    """Give the trial up; what is active stays. Its counter stays too, so it is not tried again.

    Raises:
        ConflictError: `digest` is active: fall back by a new release, or at the next start if its bytes are damaged.
    """
    if digest == state.active:
        raise ConflictError(f"release {digest[:12]}: is active, not on trial")
    return replace(state, trial=None, tries=0) if digest == state.trial else state


def restart(state: State, *, active_is_whole: bool, previous_is_whole: bool) -> State:
    """The state after a start: a trial was not confirmed, so what is active runs.

    A trial keeps its tries, so that a power cut is no verdict; the last try spent, it is given up. A damaged active
    slot gives way to the previous one and goes (back) on trial, so that it is fetched anew.
    """
    if state.trial is not None and state.tries >= TRIES:
        state = replace(state, trial=None, tries=0)
    if state.active is None or active_is_whole:
        return state
    fallback = state.previous if previous_is_whole else None
    again = state.trial or state.active
    return replace(state, active=fallback, previous=None, trial=again, tries=state.tries if state.trial else 0)


def saw(state: State, seen: Seen, time_ns: int) -> State:
    """Remember verified metadata and the time at which it was valid. Equal to `state` when it says nothing new."""
    later = time_ns if time_ns >= state.time_ns + TIME_STEP_NS or seen != state.seen else state.time_ns
    return replace(state, seen=seen, time_ns=max(later, state.time_ns))


def rolled_back(known: Seen, found: Seen) -> str | None:
    """One line of facts when verified metadata is older than what was accepted before, else None.

    python-tuf compares with its cache; this holds also when the cache was lost. A newer root with other online keys
    begins anew, so that stolen keys cannot lock devices out with huge versions (TUF 1.0.34, 5.3.11).
    """
    if found.root < known.root:
        return f"root version {found.root}, version {known.root} was accepted before"
    if found.root > known.root and found.keys != known.keys:
        return None
    for role in ("timestamp", "snapshot", "targets"):
        if getattr(found, role) < getattr(known, role):
            return f"{role} version {getattr(found, role)}, version {getattr(known, role)} was accepted before"
    return None


def never_back(old: State, new: State) -> None:
    """Hold every write of the record to it: sequence, time, root version and release counters only grow.

    Raises:
        ConflictError: one of them would fall; a defect of the caller.
    """
    falls = [name for name, n in old.counters.items() if new.counters.get(name, 0) < n]
    if falls or new.time_ns < old.time_ns or new.sequence <= old.sequence or rolled_back(old.seen, new.seen):
        raise ConflictError(f"state record {old.sequence}: a counter would fall ({', '.join(falls) or 'versions'})")

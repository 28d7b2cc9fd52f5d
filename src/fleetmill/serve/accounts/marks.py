"""What a gateway process has in use of its leases, in a file that outlives it.

The file is mapped into memory: a mark costs a microsecond and no system call, and kill -9 does not lose it. A power cut
may, so a file of an earlier boot of this machine is not believed, nor is one where the boot cannot be told.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

from fleetmill.core.errors import UnavailableError
from fleetmill.serve.accounts.page import NOTHING, Amounts

_HEAD = 64  # bytes: magic, then the boot's name
_SLOT = struct.Struct("<32s4q4q")  # lease id, used so far, held by requests under way
_FOUR = struct.Struct("<4q")
_MAGIC = b"fleetmill leases 1\n"
_SLOTS = 8_192
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Marks:
    """The writer's side: one per process."""

    def __init__(self, folder: Path, owner: str) -> None:
        self.path = folder / f"{owner}.leases"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.ftruncate(handle, _HEAD + _SLOTS * _SLOT.size)
                self._map = mmap.mmap(handle, 0)
            finally:
                os.close(handle)
        except OSError as error:
            raise UnavailableError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._map[:_HEAD] = (_MAGIC + _boot()).ljust(_HEAD, b"\0")
        self._free = list(range(_SLOTS - 1, -1, -1))

    def open(self, lease: str) -> int | None:
        """A place for the marks of a lease (32 characters); None: all are taken, so it counts as used up in a crash."""
        if not self._free:
            return None
        place = _HEAD + self._free.pop() * _SLOT.size
        _SLOT.pack_into(self._map, place, lease.encode(), *NOTHING, *NOTHING)
        return place

    def hold(self, place: int, held: Amounts) -> None:
        """Mark what requests under way may use at most."""
        _FOUR.pack_into(self._map, place + 64, *held)

    def use(self, place: int, used: Amounts, held: Amounts) -> None:
        """Mark what was used, then what is no longer held: a death in between counts it twice, not never."""
        _FOUR.pack_into(self._map, place + 32, *used)
        _FOUR.pack_into(self._map, place + 64, *held)

    def close_one(self, place: int) -> None:
        """The lease is closed in the accounts: its place is free again."""
        self._map[place : place + _SLOT.size] = bytes(_SLOT.size)
        self._free.append((place - _HEAD) // _SLOT.size)

    def close(self, *, remove: bool) -> None:
        """End, when no lease is open any more (`remove`); else marks stay, and can be made, for who finds them."""
        if remove:
            self._map.close()
            self.path.unlink(missing_ok=True)


def marks_of(folder: Path, owner: str) -> dict[str, tuple[Amounts, Amounts]]:
    """By lease: (used, held) of a process, alive or dead; empty where nothing can be believed."""
    try:
        data = (folder / f"{owner}.leases").read_bytes()
    except OSError:
        return {}
    boot = _boot()
    if not boot or data[:_HEAD] != (_MAGIC + boot).ljust(_HEAD, b"\0"):
        return {}
    found = {}
    for name, *numbers in _SLOT.iter_unpack(data[_HEAD:]):
        if name[0]:
            u0, u1, u2, u3, h0, h1, h2, h3 = numbers
            found[name.decode("ascii", "replace")] = ((u0, u1, u2, u3), (h0, h1, h2, h3))
    return found


def sweep(folder: Path, owners: set[str], before_ns: int) -> None:
    """Remove files of no owner in `owners` that nobody has written to since `before_ns`."""
    for path in folder.glob("*.leases"):
        if path.stem not in owners and path.stat().st_mtime_ns < before_ns:
            path.unlink(missing_ok=True)


def _boot() -> bytes:
    try:
        return _BOOT.read_bytes().strip()
    except OSError:
        return b""

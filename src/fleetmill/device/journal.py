"""The device's own books on its disk: each line fsynced, so that no power cut makes a hole.

What an entry is and what is signed about it stands in `core.journal`; this is the file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fleetmill.core import canonical
from fleetmill.core.errors import UnavailableError
from fleetmill.core.journal import GENESIS, Entry, check_chain, line_of, read_entry
from fleetmill.seams.files import sync_folder


class Journal:
    """The journal file of one device. One process writes it."""

    def __init__(self, path: Path, entries: list[Entry]) -> None:
        self._path, self.entries = path, entries

    def append(self, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Entry]:
        """Append (kind, record) rows in one write; durable when it returns. `moved` records get their number."""
        made: list[Entry] = []
        for kind, record in rows:
            last = (self.entries + made)[-1] if self.entries or made else None
            number = last.entry + 1 if last else 0
            numbered = {**record, "entry": number} if kind == "moved" else record
            made.append(Entry(entry=number, prev=last.digest if last else GENESIS, kind=kind, record=numbered))
        lines = b"".join(canonical.dumps(line_of(e)) + b"\n" for e in made)
        fresh = not self._path.exists()
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            _append_whole(handle, lines, self._path)
        finally:
            os.close(handle)
        if fresh:
            sync_folder(self._path.parent)
        self.entries += made
        return made

    def begun(self) -> list[Mapping[str, Any]]:
        """The record of every session that was begun, in order."""
        return [e.record for e in self.entries if e.kind == "begin"]

    def postings(self) -> list[Mapping[str, Any]]:
        """The record of every posting, in order."""
        return [e.record for e in self.entries if e.kind == "moved"]


def _append_whole(handle: int, lines: bytes, path: Path) -> None:
    """All of `lines`, durably, or none: what a full disk took of them is cut off again."""
    before = os.fstat(handle).st_size
    try:
        written = os.write(handle, lines)
        if written < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError as error:
        os.ftruncate(handle, before)
        raise UnavailableError(f"{path}: cannot be written: {error.strerror}. Free some space on the disk") from error


def open_journal(path: Path) -> Journal:
    """The journal in `path`; a torn last line (a crash while writing) is cut off, since nothing was told of it.

    Raises:
        IntegrityError: an earlier line does not follow from the one before.
    """
    if not path.exists():
        return Journal(path, [])
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
    entries: list[Entry] = []
    for number, line in enumerate(whole.splitlines()):
        entry = read_entry(line, f"{path.name}, line {number + 1}")
        check_chain(entries[-1] if entries else None, entry, path.name)
        entries.append(entry)
    return Journal(path, entries)

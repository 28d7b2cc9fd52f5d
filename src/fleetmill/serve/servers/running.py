"""What each gateway process says of its servers, in a file of its own that commands read. No content is in it.

With several processes at one port nobody can ask a certain one, so each writes once a second how it stands; the file of
a process that is gone is passed over and taken away.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fleetmill.core.errors import InvalidInputError
from fleetmill.core.plain import build, plain
from fleetmill.serve.servers.roster import Seen

FOLDER = "running"
_OLD_SECONDS = 10.0  # without a word: it hangs


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """One gateway process."""

    pid: int
    address: str
    time_ns: int  # when it said so
    servers: tuple[Seen, ...]


def write(folder: Path, running: Running) -> None:
    """Say how it stands. Not synced to the disk: after a crash nothing of it is true."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{running.pid}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(plain(running)))
    part.replace(path)


def end(folder: Path, pid: int) -> None:
    """The process ends."""
    (folder / f"{pid}.json").unlink(missing_ok=True)


def read(folder: Path, *, now_ns: int) -> list[Running]:
    """Those that run now and have spoken lately."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(FileNotFoundError, ValueError, InvalidInputError):  # it ends just now, or was another version's
            running = build(Running, json.loads(path.read_bytes()), path.name)
            if not _is_alive(running.pid):
                path.unlink(missing_ok=True)
            elif now_ns - running.time_ns < _OLD_SECONDS * 1e9:
                found.append(running)
    return found


def holders(running: Sequence[Running], name: str) -> int:
    """How many processes still have this server."""
    return sum(any(s.name == name for s in one.servers) for one in running)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True

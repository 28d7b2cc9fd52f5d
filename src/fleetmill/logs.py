"""Log lines: events with fields, as JSON on the standard library's `logging`, by one formatter.

Any part may say `logging.getLogger("fleetmill.PART").info("what happened", extra={"device": name})`: what is in `extra`
becomes a field, and so do the ids that are `bound` around it. Neither a secret nor anything that was recorded may be
put into one: events are constants, fields are names, numbers and digests.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

from fleetmill.core.errors import FleetmillError, InvalidInputError

LEVELS = ("debug", "info", "warning", "error")
MOST_BYTES = 10_000_000  # of one log file, before it is turned over
KEPT = 5  # old ones: PATH.1 to PATH.5
_LONGEST = 400  # characters of a field
_ROOT = "fleetmill"
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_OWN = frozenset([*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"])
_ids: ContextVar[Mapping[str, object]] = ContextVar("fleetmill_ids")


@contextmanager
def bound(**ids: object) -> Iterator[None]:
    """Give every line that is logged inside these fields: the id of a request, of a turn, of a device."""
    token = _ids.set({**_ids.get({}), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


def words(error: FleetmillError) -> str:
    """The error's line for a log: what it quotes, which may be what somebody sent or recorded, is left out.

    >>> words(FleetmillError("tag 'my secret': must be KEY=VALUE"))
    "tag '...': must be KEY=VALUE"
    """
    return _QUOTED.sub(lambda found: f"{found[0][0]}...{found[0][0]}", " ".join(str(error).split()))


def new_id() -> str:
    """Names one request."""
    return secrets.token_hex(8)


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        return json.dumps(_fields(record), ensure_ascii=False, default=str)


class Readable(logging.Formatter):
    """The same for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        found = _fields(record)
        time, level, name, event = (str(found.pop(key)) for key in ("time", "level", "logger", "event"))
        mark = "" if level == "info" else f"{level}: "
        rest = " ".join(f"{key}={value}" for key, value in found.items())
        return f"{time[11:19]} {name.rpartition('.')[2]:<8} {mark}{event}{'  ' + rest if rest else ''}"


class _TurnedOver(RotatingFileHandler):
    """A file that is turned over when it is long. When it takes nothing (a full disk), the line goes to stderr."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        print(f"{self.baseFilename}: {sys.exc_info()[1]}: {self.format(record)}", file=sys.stderr)  # noqa: T201


def set_up(level: str = "info", file: str = "", *, stream: TextIO | None = None) -> None:
    """Send the log lines of this process to `file`, and its warnings to stderr too; without a file all to stderr.

    Called once, at the edge of a process; a second call replaces the first.

    Raises:
        InvalidInputError: no such level.
        OSError: the file cannot be written.
    """
    if level not in LEVELS:
        raise InvalidInputError(f"log level {level!r}: must be one of {', '.join(LEVELS)}")
    out = stream or sys.stderr
    on_screen = logging.StreamHandler(out)
    on_screen.setFormatter(Readable() if out.isatty() else JsonLines())
    handlers: list[logging.Handler] = [on_screen]
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        kept = _TurnedOver(file, maxBytes=MOST_BYTES, backupCount=KEPT, encoding="utf-8")
        kept.setFormatter(JsonLines())
        on_screen.setLevel(logging.WARNING)
        handlers.append(kept)
    root = logging.getLogger(_ROOT)
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.handlers, root.propagate = handlers, False
    root.setLevel(level.upper())


def beside(file: str, part: str) -> str:
    """The log file of another process of the same service: two processes cannot turn over one file.

    >>> beside("/var/log/factory.log", "loop")
    '/var/log/factory-loop.log'
    """
    path = Path(file)
    return str(path.with_name(f"{path.stem}-{part}{path.suffix}")) if file else ""


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    time = datetime.fromtimestamp(record.created, tz=timezone.utc).isoformat(timespec="milliseconds")
    given = {key: value for key, value in vars(record).items() if key not in _OWN}
    found: dict[str, Any] = {
        "time": time.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage(),
        **_ids.get({}),
        **given,
    }
    if record.exc_info and record.exc_info[1] is not None:
        found |= _error(record.exc_info[1])
    return {key: _short(value) for key, value in found.items()}


def _error(error: BaseException) -> dict[str, object]:
    """What went wrong and where. Not the error's text: it may quote what was sent."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    found: dict[str, object] = {
        "error": type(error).__name__,
        "at": [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames],
    }
    if os.environ.get("FLEETMILL_DEBUG"):
        found["traceback"] = "".join(traceback.format_exception(error))
    return found


def _short(value: object) -> object:
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    if not isinstance(value, str):
        return value
    if "PRIVATE KEY" in value:
        return "(a private key: not logged)"
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."
